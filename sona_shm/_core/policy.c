/* The table of policies. */
#include "policy.h"

#include <stddef.h>
#include <string.h>

static const struct {
    const char *name;
    policy_function *function;
} policies[] = {
    {"epsilon_greedy", policy_epsilon_greedy},
    {"squarecb", policy_squarecb},
};

policy_function *policy_named(const char *name)
{
    for (size_t i = 0; i < sizeof policies / sizeof *policies; i++)
        if (strcmp(policies[i].name, name) == 0) return policies[i].function;
    return NULL;
}
