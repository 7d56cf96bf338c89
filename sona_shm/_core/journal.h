/* Rows for the journal: gathered by the learner, taken by Python before each publication. */
#ifndef SONA_JOURNAL_H
#define SONA_JOURNAL_H

#include <stddef.h>
#include <stdint.h>

struct journal_decision { /* then u64[allowed_words], f32[hidden_dim] */
    uint64_t id, time_ns, version;
    uint32_t route;
    float propensity;
};

struct journal_outcome {
    uint64_t id, time_ns, latency_us;
    uint32_t route, tokens;
    float quality, reward;
};

struct rows {
    uint8_t *bytes;
    size_t used, capacity;
};

struct learner;
struct observation;

/* Gathers decisions that workers have made since, a bounded number of them, so that a publication
 * can follow soon; those already overwritten are counted.  0 if there are more. */
int journal_decisions(struct learner *learner);
void journal_outcome(struct learner *learner, const struct observation *observation);
void journal_free(struct learner *learner);

#endif
