/* How one outcome moves the learned values: see model.h. */
#include <math.h>
#include <string.h>

#include "ewc.h"
#include "kernels.h"
#include "settings.h"

/* ---- running sums ---- */

static void mean_update(struct running_mean *mean, double value)
{
    if (mean->weight < OUTCOME_HORIZON) mean->weight += 1.0;
    mean->mean += (value - mean->mean) / mean->weight;
}

static void discounted_add(struct discounted *sum, double keep, double value)
{
    sum->sum = keep * sum->sum + value;
    sum->weight = keep * sum->weight + 1.0;
}

/* ---- the mixture ---- */

/* Solves the symmetric positive definite system of three equations by Cholesky's method. */
static void solve_mixture(const double a[EXPERTS][EXPERTS], const double b[EXPERTS],
                          double x[EXPERTS])
{
    double l[EXPERTS][EXPERTS], y[EXPERTS];
    for (int i = 0; i < EXPERTS; i++) {
        for (int j = 0; j <= i; j++) {
            double sum = a[i][j];
            for (int k = 0; k < j; k++) sum -= l[i][k] * l[j][k];
            l[i][j] = i == j ? sqrt(sum) : sum / l[j][j];
        }
    }
    for (int i = 0; i < EXPERTS; i++) {
        y[i] = b[i];
        for (int k = 0; k < i; k++) y[i] -= l[i][k] * y[k];
        y[i] /= l[i][i];
    }
    for (int i = EXPERTS - 1; i >= 0; i--) {
        x[i] = y[i];
        for (int k = i + 1; k < EXPERTS; k++) x[i] -= l[k][i] * x[k];
        x[i] /= l[i][i];
    }
}

static double within(double value, double low, double high)
{
    return value < low ? low : value > high ? high : value;
}

static void mixture_learn(struct mixture *mixture, const struct estimate *e, double quality,
                          double forgetting)
{
    const double keep = 1.0 - forgetting * MIXTURE_DECAY, *y = e->deviation;
    double a[EXPERTS][EXPERTS], b[EXPERTS];
    for (int i = 0; i < EXPERTS; i++) {
        for (int j = 0; j < EXPERTS; j++) {
            mixture->gram[i][j] = keep * mixture->gram[i][j] + y[i] * y[j];
            a[i][j] = mixture->gram[i][j] + (i == j ? MIXTURE_RIDGE : 0.0);
        }
        mixture->moment[i] = keep * mixture->moment[i] + y[i] * (quality - e->base);
        b[i] = mixture->moment[i] + MIXTURE_PRIOR;
    }
    solve_mixture(a, b, mixture->weight);
    for (int i = 0; i < EXPERTS; i++)
        mixture->weight[i] = within(mixture->weight[i], 0.0, LARGEST_MIXTURE_WEIGHT);
}

/* ---- the experts ---- */

static void linear_learn(const struct model *m, const struct learning_rates *rates,
                         const struct outcome *o, const struct features *f,
                         const struct estimate *e)
{
    const struct geometry *g = m->geometry;
    struct route_state *state = model_route(m, o->route);
    if (state->outcomes == 0) state->bias = model_header(m)->outcome.mean;
    const struct linear_expert expert = {
        .a = model_floats(m, g->micro_a),
        .b = model_floats(m, g->micro_b),
        .head = route_floats(m, o->route, g->route_head),
        .squared = route_floats(m, o->route, g->route_squared),
        .rank = g->rank,
        .n = g->hidden_dim,
        .adapter_rate = rates->adapter,
        .head_rate = rates->head,
        .scale = (float)f->scale,
    };
    const double error = o->quality - e->linear;
    learn_linear(&expert, o->x, f->adapted, (float)error);
    const double tried = (double)state->outcomes, step = 1.0 / (tried + 3.0);
    state->bias += error * (step > LEAST_BIAS_STEP ? step : LEAST_BIAS_STEP);
}

static void bank_learn(struct bank_cell *cell, double quality, double forgetting)
{
    const float keep = (float)(1.0 - forgetting * BANK_DECAY), q = (float)quality;
    cell->weight = keep * cell->weight + 1.0f;
    cell->sum = keep * cell->sum + q;
    cell->squares = keep * cell->squares + q * q;
}

void model_relearn(const struct model *m, const struct learning_rates *rates,
                   const struct features *f, uint64_t route, double quality, double baseline)
{
    const struct geometry *g = m->geometry;
    const float keep = (float)(1.0 - rates->forgetting * RIDGE_DECAY);
    learn_ridge(route_floats(m, route, g->route_ridge),
                route_floats(m, route, g->route_covariance), f->projected,
                (float)(quality - baseline), keep, RIDGE_PRIOR);
    bank_learn(&route_bank(m, route)[f->pattern], quality, rates->forgetting);
}

/* ---- one outcome ---- */

static void route_learn(const struct model *m, const struct outcome *o, const struct estimate *e,
                        double forgetting)
{
    struct route_state *state = model_route(m, o->route);
    const double correction = state->error.sum / (state->error.weight + ERROR_PRIOR);
    const double error = o->quality - e->value;
    discounted_add(&state->error, 1.0 - forgetting * ERROR_DECAY, error + correction);
    discounted_add(&state->variance, 1.0 - forgetting * VARIANCE_DECAY, error * error);

    const double keep = 1.0 - forgetting * ROUTE_DECAY;
    for (uint64_t k = 0; k < model_routes(m); k++) {
        struct discounted *quality = &model_route(m, k)->quality;
        quality->sum *= keep;
        quality->weight *= keep;
    }
    state->quality.sum += o->quality;
    state->quality.weight += 1.0;
    state->outcomes += 1;
    const double reward = o->quality - state->price;
    state->reward_mean += (reward - state->reward_mean) / (double)state->outcomes;
}

static void center_learn(const struct model *m, const struct features *f)
{
    struct snapshot_header *header = model_header(m);
    const size_t n = m->geometry->hidden_dim;
    mean_update(&header->spread, squared_norm(f->adapted, n));
    add_scaled(model_floats(m, m->geometry->feature_mean), (float)(1.0 / header->spread.weight),
               f->adapted, n);
}

int model_learn(const struct model *m, const struct learning_rates *rates,
                const struct outcome *o, struct features *f)
{
    const struct geometry *g = m->geometry;
    struct snapshot_header *header = model_header(m);
    struct estimate e;
    model_features(m, o->x, f);
    float dot;
    dot_rows(route_floats(m, o->route, g->route_head), 1, 0, g->hidden_dim, f->adapted, &dot);
    model_estimate(m, f, o->route, dot, &e);
    if (!isfinite(e.value) || !isfinite(e.linear)) return 0;
    f->base = (float)e.base;
    f->linear = (float)e.linear;
    f->bank = (float)(e.base + e.deviation[EXPERT_BANK]);

    mixture_learn(&header->mixture, &e, o->quality, rates->forgetting);
    anchor_pull(m, rates, o, f, &e);
    linear_learn(m, rates, o, f, &e);
    if (f->fitted) {
        model_relearn(m, rates, f, o->route, o->quality, header->outcome.mean);
    }
    route_learn(m, o, &e, rates->forgetting);
    mean_update(&header->outcome, o->quality);
    center_learn(m, f);
    return 1;
}
