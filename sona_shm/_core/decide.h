/* What a worker does with the published weights: adapt an embedding, choose a route. */
#ifndef SONA_DECIDE_H
#define SONA_DECIDE_H

#include "cell.h"
#include "lane.h"
#include "model.h"
#include "policy.h"
#include "random.h"

/* A reader that is lapped this often in a row gives up; each lap needs several publications
 * during one read. */
#define READ_ATTEMPTS 10000

enum apply_status { APPLY_DONE, APPLY_NOT_FINITE, APPLY_DISTURBED };

/* Adapts `rows` embeddings with one version of the weights.  `scratch` holds
 * 2·(rank + base_rank)·hidden_dim floats and is used for more than one row.  x and out do not
 * overlap. */
enum apply_status cell_apply(const struct cell *fast, const struct cell *slow,
                             const struct geometry *g, const float *x, float *out, size_t rows,
                             float *scratch);

/* A copy of the whole published block of one version, and of the slow block it belongs to where
 * `slow_block` is not NULL; 0 if disturbed READ_ATTEMPTS times. */
int cell_copy(const struct cell *fast, const struct cell *slow, const struct geometry *g,
              uint8_t *block, uint8_t *slow_block);

struct candidates { /* arrays of one element for each route that may be chosen */
    uint32_t count;
    uint32_t *route;
    double *score, *deviation, *probability;
};

struct decider {
    struct geometry geometry;
    struct cell fast, slow;
    policy_function *policy;
    double strength;
    struct random_stream random;
    float *embedding;  /* input: finite, of at most unit length */
    uint64_t *allowed; /* input: a bit for each route; output: those that were considered */
    struct features features;
    float *dot;
    struct candidates candidates;
};

struct choice {
    uint64_t version;
    uint32_t route;
    double propensity;
};

enum decide_status { DECIDE_DONE, DECIDE_NO_ROUTE, DECIDE_DISTURBED };

/* Fills the candidates with scores and probabilities, from one version of the weights. */
enum decide_status evaluate(struct decider *decider, uint64_t *version);

/* Chooses a route for decider->embedding. */
enum decide_status decide(struct decider *decider, struct choice *choice);

/* Remembers the choice in the worker's slots; `id_base` holds lane and generation. */
uint64_t remember(const struct decider *decider, struct producer *producer, uint64_t id_base,
                  const struct choice *choice, uint64_t time_ns);

#endif
