/* What the learned values say: see model.h. */
#include "model.h"

#include <math.h>
#include <string.h>

#include "kernels.h"
#include "settings.h"

double model_clip(double value)
{
    return value < LEAST_QUALITY ? LEAST_QUALITY : value > 1.0 ? 1.0 : value;
}

void model_project(const struct model *m, const float *x, struct features *f)
{
    const struct geometry *g = m->geometry;
    const uint64_t patterns = model_patterns(m);
    f->fitted = patterns > 0;
    f->pattern = NO_PATTERN;
    if (!f->fitted) return;
    project(model_slow_floats(m, g->slow_projection), model_slow_floats(m, g->slow_offset),
            PROJECTED, g->hidden_dim, x, f->projected);
    f->projected[PROJECTED] = RIDGE_CONSTANT;
    f->pattern = nearest(model_slow_floats(m, g->slow_centroids), g->pattern_stride, patterns,
                         PROJECTED, f->projected);
}

void model_features(const struct model *m, const float *x, struct features *f)
{
    const struct geometry *g = m->geometry;
    /* An embedding too large to be adapted is taken as it is. */
    if (!adapter_forward(model_floats(m, g->micro_a), model_floats(m, g->micro_b), g->rank,
                         g->hidden_dim, x, f->adapted))
        memcpy(f->adapted, x, g->hidden_dim * sizeof(float));
    if (model_has_base(m))
        adapter_add(model_slow_floats(m, g->slow_base_a), model_slow_floats(m, g->slow_base_b),
                    g->base_rank, g->hidden_dim, x, f->adapted);
    add_scaled(f->adapted, -1.0f, model_floats(m, g->feature_mean), g->hidden_dim);
    const double spread = model_header(m)->spread.mean;
    f->scale = 1.0 / sqrt(spread > LEAST_SPREAD ? spread : LEAST_SPREAD);
    model_project(m, x, f);
}

static double ridge_prediction(const struct model *m, const struct features *f, uint64_t route)
{
    const float *mean = route_floats(m, route, m->geometry->route_ridge);
    double sum = 0.0;
    for (int i = 0; i < FEATURES; i++) sum += (double)mean[i] * (double)f->projected[i];
    return sum;
}

void model_estimate(const struct model *m, const struct features *f, uint64_t route, double dot,
                    struct estimate *e)
{
    const struct snapshot_header *header = model_header(m);
    const struct route_state *state = model_route(m, route);
    const double common = header->outcome.mean;
    const double base =
        (state->quality.sum + ROUTE_PRIOR * common) / (state->quality.weight + ROUTE_PRIOR);
    const double bias = state->outcomes ? state->bias : common;
    double seen = state->quality.weight, ridge = 0.0, bank = base;
    e->base = base;
    e->linear = model_clip(f->scale * dot + bias);
    if (f->fitted) {
        const struct bank_cell *cell = &route_bank(m, route)[f->pattern];
        ridge = ridge_prediction(m, f, route);
        bank = (cell->sum + BANK_PRIOR * base) / (cell->weight + BANK_PRIOR);
        (void)seen;
    }
    e->ridge_error_base = ridge;
    e->deviation[EXPERT_LINEAR] = e->linear - base;
    e->deviation[EXPERT_RIDGE] = f->fitted ? model_clip(common + ridge) - base : 0.0;
    e->deviation[EXPERT_BANK] = bank - base;
    double value = base + state->error.sum / (state->error.weight + ERROR_PRIOR);
    for (int i = 0; i < EXPERTS; i++) {
        if (!(header->experts >> i & 1)) e->deviation[i] = 0.0;
        value += header->mixture.weight[i] * e->deviation[i];
    }
    e->value = model_clip(value);
    const double variance = (state->variance.sum + VARIANCE_PRIOR * VARIANCE_PRIOR_WEIGHT) /
                            (state->variance.weight + VARIANCE_PRIOR_WEIGHT);
    e->deviation_squared = (variance + LEAST_VARIANCE) / (seen + 1.0);
}

/* ---- routes ---- */

uint32_t model_find_route(const struct model *m, const char *name)
{
    for (uint64_t k = 0; k < model_routes(m); k++)
        if (strncmp(model_route(m, k)->name, name, NAME_BYTES) == 0) return (uint32_t)k;
    return NO_ROUTE;
}

void model_forget_route(const struct model *m, uint64_t route)
{
    const struct geometry *g = m->geometry;
    float *covariance = route_floats(m, route, g->route_covariance);
    memset(route_floats(m, route, g->route_ridge), 0, FEATURES * sizeof(float));
    memset(covariance, 0, FEATURES * FEATURES * sizeof(float));
    for (int i = 0; i < FEATURES; i++) covariance[i * FEATURES + i] = RIDGE_PRIOR;
    memset(route_bank(m, route), 0, g->patterns * sizeof(struct bank_cell));
}

/* Starts from what a similar route has learned, with the trust that little evidence deserves. */
static void copy_route(const struct model *m, uint64_t from, uint64_t to)
{
    const struct route_state *source = model_route(m, from);
    struct route_state *state = model_route(m, to);
    memcpy((uint8_t *)state + sizeof *state, (const uint8_t *)source + sizeof *source,
           m->geometry->route_stride - sizeof *state);
    const double weight = source->quality.weight;
    const double share = weight > LIKE_WEIGHT ? LIKE_WEIGHT / weight : 1.0;
    state->quality = (struct discounted){source->quality.sum * share, weight * share};
    state->bias = source->bias;
    struct bank_cell *bank = route_bank(m, to);
    for (uint64_t j = 0; j < m->geometry->patterns; j++) {
        const float keep = bank[j].weight > LIKE_WEIGHT ? LIKE_WEIGHT / bank[j].weight : 1.0f;
        bank[j].weight *= keep;
        bank[j].sum *= keep;
        bank[j].squares *= keep;
    }
}

int model_add_route(const struct model *m, const struct route_start *start)
{
    struct snapshot_header *header = model_header(m);
    const uint64_t route = header->routes;
    if (route >= m->geometry->routes) return 0;
    struct route_state *state = model_route(m, route);
    memset(state, 0, m->geometry->route_stride);
    memcpy(state->name, start->name, NAME_BYTES);
    state->name[NAME_BYTES - 1] = 0;
    state->cost = start->cost;
    state->price = start->price;
    state->flags = start->flags;
    model_forget_route(m, route);
    if (start->like < route) copy_route(m, start->like, route);
    if (isfinite(start->expected))
        state->quality = (struct discounted){start->expected * LIKE_WEIGHT, LIKE_WEIGHT};
    header->routes = route + 1;
    return 1;
}
