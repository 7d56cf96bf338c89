/* See refit.h. */
#include "refit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"
#include "race.h"

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

static struct reservoir_row *row_at(const struct learner *l, uint64_t position)
{
    const struct geometry *g = &l->geometry;
    return (struct reservoir_row *)(l->reservoir +
                                    position % g->reservoir_rows * g->reservoir_stride);
}

void reservoir_append(struct learner *l, const float *x, const struct observation *o,
                      float quality, float baseline)
{
    struct snapshot_header *header = learner_header(l);
    struct reservoir_row *row = row_at(l, header->reservoir_position);
    const struct reservoir_row values = {
        .time_ns = o->time_ns, .route = o->route, .quality = quality, .baseline = baseline};
    store_relaxed(&row->sequence, 0);
    atomic_thread_fence(memory_order_release);
    racing_copy(&row->time_ns, &values.time_ns,
                sizeof values - offsetof(struct reservoir_row, time_ns));
    racing_copy(row + 1, x, l->geometry.hidden_dim * sizeof(float));
    header->reservoir_position += 1;
    store_release(&row->sequence, header->reservoir_position);
    store_release(&l->reservoir_filled, header->reservoir_position);
}

/* An engine that was restored into a larger reservoir does not have all the rows it has room for. */
static int row_is_there(const struct reservoir_row *row)
{
    return load_relaxed(&row->sequence) != ROW_ABSENT;
}

/* Whether a row may be learned from: it lies where others could write. */
static int row_is_sound(const struct learner *l, const struct reservoir_row *row)
{
    const float *x = (const float *)(row + 1);
    return row->route < l->geometry.routes && row->quality >= LEAST_TARGET &&
           row->quality <= LARGEST_TARGET && fabsf(row->baseline) <= 2.0f &&
           squared_norm(x, l->geometry.hidden_dim) <= 1.01f;
}

static uint64_t first_row(const struct learner *l, uint64_t begins)
{
    return begins > l->geometry.reservoir ? begins - l->geometry.reservoir : 0;
}

uint64_t refit_rows(const struct learner *l, float *embeddings)
{
    const uint64_t end = refit_begins_at(l->refit_number), n = l->geometry.hidden_dim;
    uint64_t count = 0;
    for (uint64_t i = first_row(l, end); i < end; i++) {
        const struct reservoir_row *row = row_at(l, i);
        if (!row_is_there(row) || !row_is_sound(l, row)) continue;
        memcpy(embeddings + count++ * n, row + 1, n * sizeof(float));
    }
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
    for (; refit->next < end; refit->next++) {
        const struct reservoir_row *row = row_at(l, refit->next);
        if (!row_is_there(row)) continue;
        if (!row_is_sound(l, row)) {
            refit->corrupt += 1;
            continue;
        }
        model_project(&refit->model, (const float *)(row + 1), &refit->features);
        model_relearn(&refit->model, &l->options.rates, &refit->features, row->route, row->quality,
                      refit->next < refit->begins ? refit->baseline : row->baseline);
    }
}

struct refit *refit_prepare(const struct learner *l, const struct patterns_fit *fit)
{
    const struct geometry *g = &l->geometry;
    struct refit *refit = calloc(1, sizeof *refit);
    if (!refit) return NULL;
    refit->model = (struct model){g, calloc(1, g->snapshot_bytes), calloc(1, g->slow_bytes)};
    if (!refit->model.block || !refit->model.slow) {
        refit_free(refit);
        return NULL;
    }
    fill_slow(&refit->model, fit);
    for (uint64_t k = 0; k < g->routes; k++) model_forget_route(&refit->model, k);
    refit->begins = refit_begins_at(l->refit_number);
    refit->next = first_row(l, refit->begins);
    refit->baseline = row_at(l, refit->begins - 1)->baseline;
    repeat_rows(l, refit, load_acquire(&l->reservoir_filled));
    return refit;
}

static void next_refit(struct learner *l)
{
    struct snapshot_header *header = learner_header(l);
    header->refits += 1;
    learner_schedule_refit(l);
    l->unpublished += 1;
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
    learner_count(l, COUNTER_refits_installed, 1);
    next_refit(l);
}

void refit_give_up(struct learner *l)
{
    learner_count(l, COUNTER_refits_failed, 1);
    next_refit(l);
}

void refit_free(struct refit *refit)
{
    free(refit->model.block);
    free(refit->model.slow);
    free(refit);
}
