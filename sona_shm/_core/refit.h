/* Refits: projection and patterns are fitted anew from the reservoir, and ridge and bank repeat its
 * outcomes over them.
 *
 * A scheduled refit begins when refit_begins_at() outcomes were learned, works beside the learner on
 * a block of its own, and is installed when refit_installs_at() were learned: the learner waits for
 * it there.  So what is learned stays a function of the records alone, however long a refit takes,
 * and a learner that was killed in between repeats it from the same rows.
 *
 * Loop B fits patterns too, when a clock or a person says so; then nobody waits. */
#ifndef SONA_REFIT_H
#define SONA_REFIT_H

#include "learner.h"
#include "reservoir.h"

struct refit {
    struct model model;       /* private: only slow block, ridges and banks are used */
    struct features features;
    uint64_t begins;          /* rows below are the ones it was fitted to */
    uint64_t next;            /* row to be repeated next */
    float baseline;           /* of all rows below `begins`: the mean quality when it began */
    uint64_t corrupt;         /* rows that cannot be */
    struct reservoir_row *row; /* the copy that is learned from */
};

/* More than any engine lives to see; no product of them overflows. */
#define MOST_REFITS (UINT64_C(1) << 40)

/* Outcomes learned when the refit of that number begins, and is installed. */
uint64_t refit_begins_at(uint64_t number);
uint64_t refit_installs_at(uint64_t number, uint64_t reservoir);

/* Whether the next refit may begin; whether nothing more may be learned before it is installed. */
int refit_may_begin(const struct learner *learner);
int refit_is_due(const struct learner *learner);

/* Whether the working block's count of refits and of rows can be: the learner stops for each. */
int refit_state_is_sound(const struct learner *learner);

void reservoir_append(struct learner *learner, const float *x, const struct observation *o,
                      float target, float baseline);

/* Copies the embeddings that the next refit learns from; returns how many, at most `reservoir`. */
uint64_t refit_rows(const struct learner *learner, float *embeddings);

struct patterns_fit { /* plain arrays */
    const float *projection;    /* (PROJECTED, hidden_dim), scaled */
    const float *offset;        /* (PROJECTED,) */
    const float *centroids;     /* (count, PROJECTED) */
    const float *full_centroids; /* (count, hidden_dim) */
    const uint64_t *sizes;      /* (count,) */
    uint64_t count, rows, time_ns;
};

/* Repeats the `reservoir` rows below `begins`, and what came since, over newly fitted patterns;
 * NULL without memory.  May run in another thread than the learner. */
struct refit *refit_prepare(const struct learner *learner, const struct patterns_fit *fit,
                            uint64_t begins);

/* Repeats up to `limit` rows of what came since; returns how many are left. */
uint64_t refit_catch_up(const struct learner *learner, struct refit *refit, uint64_t limit);

/* Repeats what came since, and makes the result part of the working block; publish it next. */
void refit_install(struct learner *learner, struct refit *refit);

/* Goes on to the next scheduled refit, with this one installed or given up. */
void refit_done(struct learner *learner, int installed);

void refit_free(struct refit *refit);

#endif
