/* See refit.h. */
#include "refit.h"

#include <stdlib.h>
#include <string.h>

#include "kernels.h"

/* The first refit, doubling until the last number, then at equal distances. */
#define FIRST_REFIT UINT64_C(32)
#define LAST_DOUBLING UINT64_C(11)

uint64_t refit_begins_at(uint64_t number)
{
    if (number <= LAST_DOUBLING) return FIRST_REFIT << number;
    return (FIRST_REFIT << LAST_DOUBLING) * (number - LAST_DOUBLING + 1);
}

uint64_t refit_installs_at(uint64_t number, uint64_t reservoir)
{
    const uint64_t begins = refit_begins_at(number);
    const uint64_t room = reservoir / 4; /* what the reservoir has beyond the rows of a refit */
    return begins + (begins / 16 < room ? begins / 16 : room);
}

static int needs_refits(const struct learner *l)
{
    return learner_header(l)->experts & (1u << EXPERT_RIDGE | 1u << EXPERT_BANK);
}

int refit_may_begin(const struct learner *l)
{
    const struct snapshot_header *header = learner_header(l);
    return needs_refits(l) && header->reservoir_position >= refit_begins_at(header->refits);
}

int refit_is_due(const struct learner *l)
{
    const struct snapshot_header *header = learner_header(l);
    return header->reservoir_position >= l->refit_due && needs_refits(l);
}

int refit_state_is_sound(const struct learner *l)
{
    const struct snapshot_header *header = learner_header(l);
    if (!needs_refits(l)) return 1;
    return header->refits <= MOST_REFITS &&
           header->reservoir_position <= refit_installs_at(header->refits, l->geometry.reservoir);
}

/* ---- the reservoir ---- */

void reservoir_append(struct learner *l, const float *x, const struct observation *o,
                      float target, float baseline)
{
    struct snapshot_header *header = learner_header(l);
    const int known = o->propensity > 0.0f && o->propensity <= 1.0f; /* it may be a stray write's */
    const struct reservoir_row values = {.time_ns = o->time_ns,
                                         .route = o->route,
                                         .quality = target,
                                         .baseline = baseline,
                                         .propensity = known ? o->propensity : 1.0f,
                                         .base = l->features.base,
                                         .linear = l->features.linear,
                                         .bank = l->features.bank};
    reservoir_write(&l->geometry, l->reservoir, header->reservoir_position, &values, x);
    header->reservoir_position += 1;
    store_release(&l->reservoir_filled, header->reservoir_position);
}

static uint64_t first_row(const struct learner *l, uint64_t begins)
{
    return begins > l->geometry.reservoir ? begins - l->geometry.reservoir : 0;
}

uint64_t refit_rows(const struct learner *l, float *embeddings)
{
    const struct geometry *g = &l->geometry;
    const uint64_t end = refit_begins_at(l->refit_number), n = g->hidden_dim;
    uint64_t count = 0;
    struct reservoir_row *row = malloc(reservoir_row_bytes(g));
    for (uint64_t i = first_row(l, end); row && i < end; i++)
        if (reservoir_read(g, l->reservoir, i, row) == ROW_SOUND)
            memcpy(embeddings + count++ * n, row + 1, n * sizeof(float));
    free(row);
    return count;
}

/* ---- fitting ---- */

/* One dimension of all patterns after the other; the last row is -|centroid|²/2, and nothing is
 * nearest to columns without a pattern. */
static void transpose_centroids(const struct geometry *g, const struct patterns_fit *fit,
                                float *columns)
{
    const uint64_t stride = g->pattern_stride;
    for (uint64_t j = 0; j < stride; j++) {
        if (j >= fit->count) {
            columns[PROJECTED * stride + j] = -1e30f;
            continue;
        }
        const float *centroid = fit->centroids + j * PROJECTED;
        for (uint64_t d = 0; d < PROJECTED; d++) columns[d * stride + j] = centroid[d];
        columns[PROJECTED * stride + j] = -0.5f * squared_norm(centroid, PROJECTED);
    }
}

static void fill_slow(const struct model *m, const struct patterns_fit *fit)
{
    const struct geometry *g = m->geometry;
    const uint64_t row = g->hidden_dim * sizeof(float);
    struct slow_header *header = (struct slow_header *)m->slow;
    header->patterns = fit->count;
    header->fitted_ns = fit->time_ns;
    header->rows = fit->rows;
    memcpy(m->slow + g->slow_projection, fit->projection, PROJECTED * row);
    memcpy(m->slow + g->slow_offset, fit->offset, PROJECTED * sizeof(float));
    transpose_centroids(g, fit, (float *)(m->slow + g->slow_centroids));
    memcpy(m->slow + g->slow_full_centroids, fit->full_centroids, fit->count * row);
    memcpy(m->slow + g->slow_sizes, fit->sizes, fit->count * sizeof *fit->sizes);
}

static void repeat_rows(const struct learner *l, struct refit *refit, uint64_t end)
{
    const uint64_t held = l->geometry.reservoir_rows;
    if (end > held && refit->next < end - held) refit->next = end - held;
    for (; refit->next < end; refit->next++) {
        const struct reservoir_row *row = refit->row;
        const enum row_state state =
            reservoir_read(&l->geometry, l->reservoir, refit->next, refit->row);
        refit->corrupt += state == ROW_UNSOUND;
        if (state != ROW_SOUND) continue;
        model_project(&refit->model, (const float *)(row + 1), &refit->features);
        model_relearn(&refit->model, &l->options.rates, &refit->features, row->route, row->quality,
                      refit->next < refit->begins ? refit->baseline : row->baseline);
    }
}

struct refit *refit_prepare(const struct learner *l, const struct patterns_fit *fit,
                            uint64_t begins)
{
    const struct geometry *g = &l->geometry;
    struct refit *refit = calloc(1, sizeof *refit);
    if (!refit) return NULL;
    refit->model = (struct model){g, calloc(1, g->snapshot_bytes), calloc(1, g->slow_bytes)};
    refit->row = calloc(1, reservoir_row_bytes(g));
    if (!refit->model.block || !refit->model.slow || !refit->row) {
        refit_free(refit);
        return NULL;
    }
    fill_slow(&refit->model, fit);
    for (uint64_t k = 0; k < g->routes; k++) model_forget_route(&refit->model, k);
    refit->begins = begins;
    refit->next = first_row(l, begins);
    if (reservoir_read(g, l->reservoir, begins - 1, refit->row) == ROW_SOUND)
        refit->baseline = refit->row->baseline;
    repeat_rows(l, refit, load_acquire(&l->reservoir_filled));
    return refit;
}

uint64_t refit_catch_up(const struct learner *l, struct refit *refit, uint64_t limit)
{
    const uint64_t filled = learner_header(l)->reservoir_position;
    const uint64_t left = filled - refit->next;
    repeat_rows(l, refit, left < limit ? filled : refit->next + limit);
    return filled - refit->next;
}

static void install_patterns(struct learner *l, const uint8_t *slow)
{
    const struct geometry *g = &l->geometry;
    const struct slow_header *fitted = (const struct slow_header *)slow;
    struct slow_header *header = (struct slow_header *)l->slow_work;
    learner_slow_changed(l);
    header->patterns = fitted->patterns;
    header->fitted_ns = fitted->fitted_ns;
    header->rows = fitted->rows;
    memcpy(l->slow_work + g->slow_projection, slow + g->slow_projection,
           g->slow_base_a - g->slow_projection);
}

void refit_install(struct learner *l, struct refit *refit)
{
    const struct geometry *g = &l->geometry;
    struct snapshot_header *header = learner_header(l);
    repeat_rows(l, refit, header->reservoir_position);
    for (uint64_t k = 0; k < model_routes(&l->model); k++)
        memcpy(model_route_part(&l->model, k) + g->route_ridge,
               model_route_part(&refit->model, k) + g->route_ridge,
               g->route_stride - g->route_ridge);
    memset(l->work + g->pattern_uses, 0, g->patterns * sizeof(struct pattern_use));

    install_patterns(l, refit->model.slow);
    learner_count(l, COUNTER_reservoir_corrupt, refit->corrupt);
    l->unpublished += 1;
}

void refit_done(struct learner *l, int installed)
{
    learner_count(l, installed ? COUNTER_refits_installed : COUNTER_refits_failed, 1);
    learner_header(l)->refits += 1;
    learner_schedule_refit(l);
    l->unpublished += 1;
}

void refit_free(struct refit *refit)
{
    free(refit->model.block);
    free(refit->model.slow);
    free(refit->row);
    free(refit);
}
