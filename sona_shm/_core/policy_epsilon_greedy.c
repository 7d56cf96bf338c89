/* The best route, and with probability epsilon any route. */
#include "policy.h"

void policy_epsilon_greedy(const struct policy_input *input, double *probability)
{
    const double epsilon = input->strength;
    for (uint32_t k = 0; k < input->routes; k++) probability[k] = epsilon / input->routes;
    probability[best_route(input)] += 1.0 - epsilon;
}
