/* Exploration: from scores to the probability of each route.
 *
 * A new policy is one file with one function of this type and one line in policy.c. */
#ifndef SONA_POLICY_H
#define SONA_POLICY_H

#include <stdint.h>

struct policy_input {
    const float *score; /* expected reward of each route */
    uint32_t routes;
    uint64_t learned; /* outcomes learned so far */
    double parameter[2];
};

typedef void policy_function(const struct policy_input *input, double *probability);

policy_function policy_epsilon_greedy; /* parameter: epsilon */
policy_function policy_squarecb;       /* parameters: gamma, exponent */

/* The function of that name, or NULL. */
policy_function *policy_named(const char *name);

static inline uint32_t best_route(const struct policy_input *input)
{
    uint32_t best = 0;
    for (uint32_t k = 1; k < input->routes; k++)
        if (input->score[k] > input->score[best]) best = k;
    return best;
}

#endif
