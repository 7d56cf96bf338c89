/* The table of policies. */
#include "policy.h"

#include <stddef.h>
#include <string.h>

static const struct {
    const char *name;
    policy_function *function;
    double strength; /* what works where nothing else is known; chosen by benchmarks/routing.py */
} policies[] = {
    {"maillard", policy_maillard, 0.35},
    {"thompson", policy_thompson, 0.5},
    {"softmax", policy_softmax, 0.03},
    {"squarecb", policy_squarecb, 40.0},
    {"epsilon_greedy", policy_epsilon_greedy, 0.02},
};
#define POLICIES (sizeof policies / sizeof *policies)

policy_function *policy_named(const char *name, double *strength)
{
    for (size_t i = 0; i < POLICIES; i++) {
        if (strcmp(policies[i].name, name)) continue;
        *strength = policies[i].strength;
        return policies[i].function;
    }
    return NULL;
}

const char *policy_name(uint32_t index) { return index < POLICIES ? policies[index].name : NULL; }
