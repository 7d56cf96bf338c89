/* What has been learned about routes, and what it says about one embedding.
 *
 * The quality of a route is predicted as its own running mean plus the weighted deviations of
 * three experts from it, plus a correction for how wrong that has been lately:
 *
 *   linear  AdaGrad head on the adapted, centred embedding
 *   ridge   recursive least squares on the principal directions of the embeddings
 *   bank    what the nearest pattern has seen of the route, shrunk towards its mean
 *
 * docs/architecture.md derives each; nothing here knows who else reads or writes the memory. */
#ifndef SONA_MODEL_H
#define SONA_MODEL_H

#include "blocks.h"

struct model {
    const struct geometry *geometry;
    uint8_t *block;       /* fast: struct snapshot_header */
    uint8_t *slow;        /* struct slow_header */
};

/* What all routes need of one embedding. */
struct features {
    float *adapted;           /* x adapted, then centred: [hidden_dim] */
    float projected[FEATURES];
    double scale;             /* of `adapted` to about unit length */
    uint64_t pattern;         /* nearest one, or NO_PATTERN */
    int fitted;               /* whether there is a projection yet */
    float base, linear, bank; /* from model_learn: what was predicted before it learned */
};
#define NO_PATTERN UINT64_MAX

struct estimate {
    double base;               /* the route's own mean */
    double deviation[EXPERTS]; /* of each expert from it */
    double ridge_error_base;   /* prediction of the ridge before clipping, over the common mean */
    double linear;             /* prediction of the linear expert */
    double value;              /* predicted quality */
    double deviation_squared;  /* uncertainty of it: variance of the mean of what was seen */
};

static inline struct snapshot_header *model_header(const struct model *m)
{
    return (struct snapshot_header *)m->block;
}

static inline float *model_floats(const struct model *m, uint64_t offset)
{
    return (float *)(m->block + offset);
}

static inline uint8_t *model_route_part(const struct model *m, uint64_t route)
{
    return m->block + m->geometry->routes_offset + route * m->geometry->route_stride;
}

static inline struct route_state *model_route(const struct model *m, uint64_t route)
{
    return (struct route_state *)model_route_part(m, route);
}

static inline float *route_floats(const struct model *m, uint64_t route, uint64_t offset)
{
    return (float *)(model_route_part(m, route) + offset);
}

static inline struct bank_cell *route_bank(const struct model *m, uint64_t route)
{
    return (struct bank_cell *)(model_route_part(m, route) + m->geometry->route_bank);
}

static inline struct task_detector *model_detector(const struct model *m)
{
    return (struct task_detector *)(m->block + m->geometry->task_detector);
}

/* Within the range of qualities. */
double model_clip(double value);

/* Counts are read while they may change: never more than there is room for. */
static inline uint64_t model_routes(const struct model *m)
{
    const uint64_t routes = model_header(m)->routes;
    return routes < m->geometry->routes ? routes : m->geometry->routes;
}

static inline uint64_t model_patterns(const struct model *m)
{
    const uint64_t patterns = ((const struct slow_header *)m->slow)->patterns;
    return patterns < m->geometry->patterns ? patterns : m->geometry->patterns;
}

/* Whether there is a BaseLoRA yet; before the first consolidation it is zero. */
static inline int model_has_base(const struct model *m)
{
    return ((const struct slow_header *)m->slow)->consolidations > 0;
}

static inline const float *model_slow_floats(const struct model *m, uint64_t offset)
{
    return (const float *)(m->slow + offset);
}

/* Fills features->adapted and the rest from a finite x. */
void model_features(const struct model *model, const float *x, struct features *features);

/* `dot` is the head of the route times features->adapted. */
void model_estimate(const struct model *model, const struct features *features, uint64_t route,
                    double dot, struct estimate *estimate);

/* What a new route begins with. */
struct route_start {
    const char *name; /* NAME_BYTES, ended by a zero byte */
    double cost, price;
    double expected; /* quality, or NaN */
    uint32_t like;   /* a route, or NO_ROUTE */
    uint64_t flags;
};
/* Appends a route; 0 if there is no room. */
int model_add_route(const struct model *model, const struct route_start *start);

/* The index of a route, or NO_ROUTE. */
uint32_t model_find_route(const struct model *model, const char *name);

/* ---- learning ---- */

struct learning_rates {
    float adapter;     /* 0: the adapter does not learn from outcomes */
    float head;
    double ewc;        /* strength of what former tasks need; 0: none */
    double forgetting; /* 0 never forgets, 1 as chosen by experiment, more forgets faster */
};

struct outcome {
    const float *x;
    uint64_t route;
    double quality; /* what is learned, finite and in range */
};

/* One outcome moves everything but patterns; 0, with nothing changed, if a value is not finite.
 * `features` lends its `adapted`. */
int model_learn(const struct model *model, const struct learning_rates *rates,
                const struct outcome *outcome, struct features *features);

/* Ridge and bank of one route as before its first outcome. */
void model_forget_route(const struct model *model, uint64_t route);

/* Ridge and bank alone: what a refit repeats over the reservoir. */
void model_relearn(const struct model *model, const struct learning_rates *rates,
                   const struct features *features, uint64_t route, double quality,
                   double baseline);

/* Projection and nearest pattern alone. */
void model_project(const struct model *model, const float *x, struct features *features);

#endif
