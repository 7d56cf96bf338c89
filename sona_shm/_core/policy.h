/* Exploration: from predicted rewards to the probability of each route.
 *
 * A new policy is one file with one function of this type and one line in policy.c. */
#ifndef SONA_POLICY_H
#define SONA_POLICY_H

#include <math.h>
#include <stdint.h>

struct policy_input {
    const double *score;     /* predicted reward of each candidate */
    const double *deviation; /* standard deviation of that prediction */
    uint32_t routes;         /* candidates, 1 or more */
    uint64_t learned;        /* outcomes learned so far */
    double strength;         /* of exploration; each policy says of what kind */
};

/* Fills `probability`, positive and with sum 1. */
typedef void policy_function(const struct policy_input *input, double *probability);

policy_function policy_epsilon_greedy; /* strength: share of uniform choices */
policy_function policy_maillard;       /* strength: factor on the standard deviations */
policy_function policy_softmax;        /* strength: temperature */
policy_function policy_squarecb;       /* strength: gamma grows as strength·sqrt(outcomes) */
policy_function policy_thompson;       /* strength: factor on the standard deviations */

/* The function of that name and its usual strength, or NULL. */
policy_function *policy_named(const char *name, double *strength);
/* Names in the order of the table; NULL after the last. */
const char *policy_name(uint32_t index);

static inline uint32_t best_route(const struct policy_input *input)
{
    uint32_t best = 0;
    for (uint32_t k = 1; k < input->routes; k++)
        if (input->score[k] > input->score[best]) best = k;
    return best;
}

/* Weights to probabilities, of which a share is spread evenly: what was learned from few outcomes
 * may be wrong by more than its own spread says, and a probability of about 0 could never be
 * evaluated from a journal. */
static inline void normalise_with_floor(const struct policy_input *input, double *probability)
{
    const double share = fmax(0.005, fmin(0.1, 0.5 / sqrt((double)input->learned + 1.0)));
    double sum = 0.0;
    for (uint32_t k = 0; k < input->routes; k++) sum += probability[k];
    for (uint32_t k = 0; k < input->routes; k++)
        probability[k] = (1.0 - share) * probability[k] / sum + share / input->routes;
}

#endif
