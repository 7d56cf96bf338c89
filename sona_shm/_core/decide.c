/* Reading side of the fast cell: see decide.h. */
#include "decide.h"

#include <string.h>

#include "identifier.h"
#include "kernels.h"
#include "race.h"

static const float *floats(const uint8_t *block, uint64_t offset)
{
    return (const float *)(block + offset);
}

static int copy_adapter(const struct cell *cell, const struct geometry *g, float *scratch)
{
    const size_t bytes = g->rank * g->hidden_dim * sizeof(float);
    for (int attempt = 0; attempt < READ_ATTEMPTS; attempt++) {
        uint64_t version;
        const uint8_t *block = cell_read(cell, &version);
        racing_copy(scratch, block + g->micro_a, bytes);
        racing_copy((uint8_t *)scratch + bytes, block + g->micro_b, bytes);
        if (cell_undisturbed(cell, version)) return 1;
    }
    return 0;
}

static enum apply_status apply_one(const struct cell *cell, const struct geometry *g,
                                   const float *x, float *out)
{
    for (int attempt = 0; attempt < READ_ATTEMPTS; attempt++) {
        uint64_t version;
        const uint8_t *block = cell_read(cell, &version);
        const int finite = adapter_forward(floats(block, g->micro_a), floats(block, g->micro_b),
                                           g->rank, g->hidden_dim, x, out);
        if (cell_undisturbed(cell, version)) return finite ? APPLY_DONE : APPLY_NOT_FINITE;
    }
    return APPLY_DISTURBED;
}

enum apply_status cell_apply(const struct cell *cell, const struct geometry *g, const float *x,
                             float *out, size_t rows, float *scratch)
{
    const size_t n = g->hidden_dim, rank = g->rank;
    if (rows == 1) return apply_one(cell, g, x, out);
    if (!all_finite(x, rows * n)) return APPLY_NOT_FINITE; /* before any row is written */
    if (!copy_adapter(cell, g, scratch)) return APPLY_DISTURBED;
    for (size_t row = 0; row < rows; row++) {
        if (!adapter_forward(scratch, scratch + rank * n, rank, n, x + row * n, out + row * n))
            return APPLY_NOT_FINITE;
    }
    return APPLY_DONE;
}

int cell_copy(const struct cell *cell, const struct geometry *g, uint8_t *block)
{
    for (int attempt = 0; attempt < READ_ATTEMPTS; attempt++) {
        uint64_t version;
        const uint8_t *published = cell_read(cell, &version);
        racing_copy(block, published, g->snapshot_bytes);
        if (cell_undisturbed(cell, version)) return 1;
    }
    return 0;
}

static int score(struct decider *d, uint64_t *version, uint64_t *learned)
{
    const struct geometry *g = &d->geometry;
    for (int attempt = 0; attempt < READ_ATTEMPTS; attempt++) {
        const uint8_t *block = cell_read(&d->cell, version);
        /* The embedding is finite; one too large to be adapted is scored as it is. */
        if (!adapter_forward(floats(block, g->micro_a), floats(block, g->micro_b), g->rank,
                             g->hidden_dim, d->embedding, d->adapted))
            memcpy(d->adapted, d->embedding, g->hidden_dim * sizeof(float));
        score_routes(floats(block, g->heads), floats(block, g->head_bias), floats(block, g->price),
                     g->routes, g->hidden_dim, d->adapted, d->score);
        *learned = ((const struct snapshot_header *)block)->counters[COUNTER_outcomes_learned];
        if (cell_undisturbed(&d->cell, *version)) return 1;
    }
    return 0;
}

int decide(struct decider *d, struct choice *choice)
{
    struct policy_input input = {.score = d->score, .routes = (uint32_t)d->geometry.routes};
    memcpy(input.parameter, d->parameter, sizeof input.parameter);
    if (!score(d, &choice->version, &input.learned)) return 0;
    d->policy(&input, d->probability);

    double u = random_uniform(&d->random);
    uint32_t route = 0;
    for (; route + 1 < input.routes; route++) {
        u -= d->probability[route];
        if (u < 0.0) break;
    }
    choice->route = route;
    choice->propensity = d->probability[route];
    return 1;
}

uint64_t remember(const struct decider *d, struct producer *producer, uint64_t id_base,
                  const struct choice *choice, uint64_t time_ns)
{
    const uint64_t id = id_base | (producer->decisions & IDENTIFIER_SEQUENCE_MASK);
    const struct decision decision = {.time_ns = time_ns,
                                      .version = choice->version,
                                      .route = choice->route,
                                      .propensity = (float)choice->propensity};
    struct decision_slot *slot = decision_begin(producer);
    racing_copy(&slot->decision, &decision, sizeof decision);
    racing_copy(slot + 1, d->embedding, d->geometry.hidden_dim * sizeof(float));
    decision_commit(producer, slot, id);
    return id;
}
