/* Inverse gap weighting: a route is tried the less, the further its score lies behind the best,
 * and the more is known, the less (Foster & Rakhlin 2020, "Beyond UCB", algorithm SquareCB). */
#include "policy.h"

void policy_squarecb(const struct policy_input *input, double *probability)
{
    const double gamma = input->strength * sqrt((double)input->learned + 1.0);
    const uint32_t best = best_route(input);
    double others = 0.0;
    for (uint32_t k = 0; k < input->routes; k++) {
        if (k == best) continue;
        const double gap = input->score[best] - input->score[k];
        probability[k] = 1.0 / (input->routes + gamma * gap);
        others += probability[k];
    }
    probability[best] = 1.0 - others;
}
