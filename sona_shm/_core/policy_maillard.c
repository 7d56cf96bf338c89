/* Maillard sampling: the density of a Gaussian at the gap to the best route, with the spread of
 * both predictions; like Thompson sampling, but its probabilities are a closed form (Maillard
 * 2013, thesis; Bian & Jun 2022, "Maillard Sampling: Boltzmann Exploration Done Optimally"). */
#include "policy.h"

void policy_maillard(const struct policy_input *input, double *probability)
{
    const uint32_t best = best_route(input);
    const double factor = 2.0 * input->strength * input->strength;
    const double own = input->deviation[best] * input->deviation[best];
    for (uint32_t k = 0; k < input->routes; k++) {
        const double gap = input->score[best] - input->score[k];
        const double spread = input->deviation[k] * input->deviation[k] + own;
        probability[k] = gap > 0.0 ? exp(-gap * gap / (factor * spread)) : 1.0;
    }
    normalise_with_floor(input, probability);
}
