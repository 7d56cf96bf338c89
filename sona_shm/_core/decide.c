/* Reading side of the fast cell: see decide.h. */
#include "decide.h"

#include <math.h>
#include <string.h>

#include "identifier.h"
#include "kernels.h"
#include "race.h"
#include "settings.h"

static const float *floats(const uint8_t *block, uint64_t offset)
{
    return (const float *)(block + offset);
}

/* The version that a fast block belongs to is read while it may change; a wrong one only names
 * another buffer, and then the check of the fast cell fails. */
static const uint8_t *slow_read(const struct cell *slow, const uint8_t *block, uint64_t *version)
{
    *version = ((const struct snapshot_header *)block)->slow_version;
    return cell_buffer(slow, *version);
}

/* ---- adapting ---- */

/* Both adapters, where they lie or copied; `base_a` is NULL before the first consolidation. */
struct adapters {
    const float *micro_a, *micro_b, *base_a, *base_b;
};

/* One version of both blocks, for a read that checks afterwards. */
struct read {
    uint64_t fast, slow;
    struct adapters adapters;
};

static struct read begin_read(const struct cell *fast, const struct cell *slow,
                              const struct geometry *g)
{
    struct read r;
    const uint8_t *block = cell_read(fast, &r.fast);
    const uint8_t *patterns = slow_read(slow, block, &r.slow);
    const int based = ((const struct slow_header *)patterns)->consolidations > 0;
    r.adapters = (struct adapters){floats(block, g->micro_a), floats(block, g->micro_b),
                                   based ? floats(patterns, g->slow_base_a) : NULL,
                                   based ? floats(patterns, g->slow_base_b) : NULL};
    return r;
}

static int is_undisturbed(const struct cell *fast, const struct cell *slow, const struct read *r)
{
    return cell_undisturbed(fast, r->fast) && cell_undisturbed(slow, r->slow);
}

static int adapt(const struct adapters *m, const struct geometry *g, const float *x, float *out)
{
    const size_t n = g->hidden_dim;
    return adapter_forward(m->micro_a, m->micro_b, g->rank, n, x, out) &&
           (!m->base_a || adapter_add(m->base_a, m->base_b, g->base_rank, n, x, out));
}

/* Copies to `scratch`, and lets `adapters` point there. */
static int copy_adapters(const struct cell *fast, const struct cell *slow,
                         const struct geometry *g, float *scratch, struct adapters *adapters)
{
    const size_t micro = g->rank * g->hidden_dim, base = g->base_rank * g->hidden_dim;
    for (int attempt = 0; attempt < READ_ATTEMPTS; attempt++) {
        const struct read r = begin_read(fast, slow, g);
        float *a = scratch + 2 * micro, *b = a + base;
        racing_copy(scratch, r.adapters.micro_a, micro * sizeof(float));
        racing_copy(scratch + micro, r.adapters.micro_b, micro * sizeof(float));
        *adapters = (struct adapters){scratch, scratch + micro, NULL, NULL};
        if (r.adapters.base_a) {
            racing_copy(a, r.adapters.base_a, base * sizeof(float));
            racing_copy(b, r.adapters.base_b, base * sizeof(float));
            adapters->base_a = a;
            adapters->base_b = b;
        }
        if (is_undisturbed(fast, slow, &r)) return 1;
    }
    return 0;
}

static enum apply_status apply_one(const struct cell *fast, const struct cell *slow,
                                   const struct geometry *g, const float *x, float *out)
{
    for (int attempt = 0; attempt < READ_ATTEMPTS; attempt++) {
        const struct read r = begin_read(fast, slow, g);
        const int finite = adapt(&r.adapters, g, x, out);
        if (is_undisturbed(fast, slow, &r)) return finite ? APPLY_DONE : APPLY_NOT_FINITE;
    }
    return APPLY_DISTURBED;
}

enum apply_status cell_apply(const struct cell *fast, const struct cell *slow,
                             const struct geometry *g, const float *x, float *out, size_t rows,
                             float *scratch)
{
    const size_t n = g->hidden_dim;
    struct adapters adapters;
    if (rows == 1) return apply_one(fast, slow, g, x, out);
    if (!all_finite(x, rows * n)) return APPLY_NOT_FINITE; /* before any row is written */
    if (!copy_adapters(fast, slow, g, scratch, &adapters)) return APPLY_DISTURBED;
    for (size_t row = 0; row < rows; row++)
        if (!adapt(&adapters, g, x + row * n, out + row * n)) return APPLY_NOT_FINITE;
    return APPLY_DONE;
}

/* ---- copying ---- */

int cell_copy(const struct cell *fast, const struct cell *slow, const struct geometry *g,
              uint8_t *block, uint8_t *slow_block)
{
    for (int attempt = 0; attempt < READ_ATTEMPTS; attempt++) {
        uint64_t version, slow_version;
        racing_copy(block, cell_read(fast, &version), g->snapshot_bytes);
        if (!cell_undisturbed(fast, version)) continue;
        const uint8_t *patterns = slow_read(slow, block, &slow_version);
        if (slow_block) racing_copy(slow_block, patterns, g->slow_bytes);
        if (cell_undisturbed(slow, slow_version)) return 1;
    }
    return 0;
}

/* ---- deciding ---- */

static int is_allowed(const uint64_t *allowed, uint64_t route)
{
    return allowed[route / 64] >> route % 64 & 1;
}

static double arrival_bonus(const struct route_state *state)
{
    if (!(state->flags & ROUTE_ARRIVED)) return 0.0;
    return ARRIVAL_BONUS * sqrt(ARRIVAL_VARIANCE / ((double)state->outcomes + 1.0));
}

static void score_candidates(struct decider *d, const struct model *m)
{
    const struct geometry *g = &d->geometry;
    const uint64_t routes = model_routes(m);
    struct candidates *c = &d->candidates;
    c->count = 0;
    if (routes == 0) return;
    model_features(m, d->embedding, &d->features);
    dot_rows(route_floats(m, 0, g->route_head), routes, g->route_stride / sizeof(float),
             g->hidden_dim, d->features.adapted, d->dot);
    for (uint64_t k = 0; k < routes; k++) {
        const struct route_state *state = model_route(m, k);
        if (!(state->flags & ROUTE_ACTIVE) || !is_allowed(d->allowed, k)) continue;
        struct estimate e;
        model_estimate(m, &d->features, k, d->dot[k], &e);
        const double score = e.value - state->price + arrival_bonus(state);
        const double deviation = sqrt(e.deviation_squared);
        c->route[c->count] = (uint32_t)k;
        /* Only a stray write makes these not finite: such a route is worth nothing. */
        c->score[c->count] = isfinite(score) ? score : -1e9;
        c->deviation[c->count] = isfinite(deviation) ? deviation : 0.0;
        c->count += 1;
    }
}

enum decide_status evaluate(struct decider *d, uint64_t *version)
{
    for (int attempt = 0; attempt < READ_ATTEMPTS; attempt++) {
        uint64_t slow_version;
        const uint8_t *block = cell_read(&d->fast, version);
        const uint8_t *patterns = slow_read(&d->slow, block, &slow_version);
        const struct model model = {&d->geometry, (uint8_t *)block, (uint8_t *)patterns};
        score_candidates(d, &model);
        const uint64_t learned = model_header(&model)->counters[COUNTER_outcomes_learned];
        if (!cell_undisturbed(&d->fast, *version) || !cell_undisturbed(&d->slow, slow_version))
            continue;
        const struct candidates *c = &d->candidates;
        if (c->count == 0) return DECIDE_NO_ROUTE;
        const struct policy_input input = {c->score, c->deviation, c->count, learned, d->strength};
        d->policy(&input, c->probability);
        return DECIDE_DONE;
    }
    return DECIDE_DISTURBED;
}

enum decide_status decide(struct decider *d, struct choice *choice)
{
    const enum decide_status status = evaluate(d, &choice->version);
    if (status != DECIDE_DONE) return status;
    const struct candidates *c = &d->candidates;
    double u = random_uniform(&d->random);
    uint32_t chosen = 0;
    memset(d->allowed, 0, d->geometry.allowed_words * sizeof *d->allowed);
    for (uint32_t i = 0; i < c->count; i++)
        d->allowed[c->route[i] / 64] |= UINT64_C(1) << c->route[i] % 64;
    for (; chosen + 1 < c->count; chosen++) {
        u -= c->probability[chosen];
        if (u < 0.0) break;
    }
    choice->route = c->route[chosen];
    choice->propensity = c->probability[chosen];
    return DECIDE_DONE;
}

uint64_t remember(const struct decider *d, struct producer *producer, uint64_t id_base,
                  const struct choice *choice, uint64_t time_ns)
{
    const struct geometry *g = &d->geometry;
    const uint64_t id = id_base | (producer->decisions & IDENTIFIER_SEQUENCE_MASK);
    const struct decision decision = {.time_ns = time_ns,
                                      .version = choice->version,
                                      .route = choice->route,
                                      .propensity = (float)choice->propensity};
    struct decision_slot *slot = decision_begin(producer);
    racing_copy(&slot->decision, &decision, sizeof decision);
    racing_copy(slot + 1, d->allowed, g->allowed_words * sizeof *d->allowed);
    racing_copy((uint8_t *)slot + g->slot_embedding, d->embedding, g->hidden_dim * sizeof(float));
    decision_commit(producer, slot, id);
    return id;
}
