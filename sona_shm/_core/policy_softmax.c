/* Boltzmann exploration: the odds of two routes are the exponential of their gap over a
 * temperature, whatever is known of them. */
#include "policy.h"

void policy_softmax(const struct policy_input *input, double *probability)
{
    const double best = input->score[best_route(input)];
    for (uint32_t k = 0; k < input->routes; k++)
        probability[k] = exp((input->score[k] - best) / input->strength);
    normalise_with_floor(input, probability);
}
