/* Routed outcomes: feedback on a decision, outcomes of decisions made elsewhere, and decisions
 * whose outcome did not come in time. */
#include <math.h>
#include <string.h>

#include "identifier.h"
#include "journal.h"
#include "kernels.h"
#include "learner.h"
#include "race.h"
#include "refit.h"
#include "tasks.h"

/* Embeddings are limited to unit length by the worker; what is longer was written by somebody
 * else, and one huge input would spoil the optimiser for good. */
#define LARGEST_SQUARED_NORM 1.01f

/* False for NaN, too. */
static int is_quality(float value) { return value >= 0.0f && value <= 1.0f; }

static void note_service(struct route_state *state, const struct observation *o)
{
    if (o->latency_us) learner_mean(&state->latency_ms, (double)o->latency_us / 1000.0);
    if (o->tokens) learner_mean(&state->tokens, (double)o->tokens);
}

static void note_pattern(struct learner *l, const struct observation *o)
{
    if (!l->features.fitted) return;
    struct pattern_use *use =
        (struct pattern_use *)(l->work + l->geometry.pattern_uses) + l->features.pattern;
    use->count += 1;
    use->last_ns = o->time_ns;
}

/* What is learned: the quality, or what makes the reward come out as the caller's function says. */
static int target_of(const struct learner *l, const struct observation *o, double *target)
{
    *target = o->quality;
    if (!l->options.reward) return 1;
    double reward;
    if (!l->options.reward(l->options.reward_context, o, &reward) || !isfinite(reward)) return 0;
    *target = fmin(fmax(reward + o->price, LEAST_TARGET), LARGEST_TARGET);
    return 1;
}

enum lesson learn_observation(struct learner *l, const float *x, struct observation *o)
{
    const uint64_t routes = model_routes(&l->model);
    if (o->route >= routes || !is_quality(o->quality) ||
        !(squared_norm(x, l->geometry.hidden_dim) <= LARGEST_SQUARED_NORM)) {
        learner_count(l, COUNTER_nonfinite_skipped, 1);
        return LESSON_REJECTED;
    }
    struct route_state *state = model_route(&l->model, o->route);
    o->price = state->price;
    double target;
    if (!target_of(l, o, &target)) {
        learner_count(l, COUNTER_reward_failed, 1);
        return LESSON_REJECTED;
    }
    if (tasks_observe(&l->model, x)) learner_slow_changed(l);
    const float baseline = (float)learner_header(l)->outcome.mean;
    const struct outcome outcome = {x, o->route, target};
    if (!model_learn(&l->model, &l->options.rates, &outcome, &l->features)) {
        learner_count(l, COUNTER_nonfinite_skipped, 1);
        return LESSON_REJECTED;
    }
    o->reward = (float)(target - o->price);
    note_service(state, o);
    note_pattern(l, o);
    reservoir_append(l, x, o, (float)target, baseline);
    learner_count(l, COUNTER_outcomes_learned, 1);
    return LESSON_LEARNED;
}

/* ---- decisions ---- */

static int is_of_this_engine(const struct learner *l, uint64_t lane_index, uint64_t id)
{
    const struct lane_owner *owners =
        (const struct lane_owner *)((const uint8_t *)l->control + l->geometry.owners_offset);
    const uint64_t current = load_relaxed(&owners[lane_index].generation);
    const uint64_t first = identifier_first_generation(l->control->identity.creation_id);
    return current >= first && identifier_is_of(id, first, current);
}

/* A whole copy of the slot that holds `id`; 0 if it holds another one, or changes meanwhile. */
static int copy_slot(const struct learner *l, struct decision_slot *slot, uint64_t id,
                     struct decision *decision, float *embedding)
{
    const struct geometry *g = &l->geometry;
    if (load_acquire(&slot->id) != id) return 0;
    racing_copy(decision, &slot->decision, sizeof *decision);
    racing_copy(embedding, (uint8_t *)slot + g->slot_embedding, g->hidden_dim * sizeof(float));
    atomic_thread_fence(memory_order_acquire);
    return load_relaxed(&slot->id) == id;
}

/* Copies the decision that `id` names, or counts why there is none. */
static int find_decision(struct learner *l, uint64_t id, struct decision *decision,
                         struct used_mark **mark)
{
    const uint64_t lane_index = identifier_lane(id);
    if (lane_index >= l->geometry.max_workers) {
        learner_count(l, COUNTER_feedback_unknown, 1);
        return 0;
    }
    const struct lane *lane = &l->lanes[lane_index];
    const uint64_t sequence = identifier_sequence(id);
    if (!copy_slot(l, lane_slot(lane, sequence), id, decision, l->embedding)) {
        const int was_made = sequence < load_relaxed(&lane->header->decisions) &&
                             is_of_this_engine(l, lane_index, id);
        learner_count(l, was_made ? COUNTER_feedback_expired : COUNTER_feedback_unknown, 1);
        return 0;
    }
    *mark = &lane->marks[sequence % lane->slot_count];
    if (load_relaxed(&(*mark)->id) == id) {
        learner_count(l, COUNTER_feedback_duplicate, 1);
        return 0;
    }
    return 1;
}

static void mark_used(const struct learner *l, struct used_mark *mark, uint64_t id)
{
    store_relaxed(&mark->version, l->version + 1);
    store_release(&mark->id, id);
}

enum lesson learn_feedback(struct learner *l, const struct record_header *record)
{
    struct decision decision;
    struct used_mark *mark;
    if (!find_decision(l, record->id, &decision, &mark)) return LESSON_REJECTED;
    struct observation o = {.id = record->id,
                            .time_ns = record->time_ns,
                            .latency_us = record->latency_us,
                            .route = decision.route,
                            .tokens = record->tokens,
                            .quality = record->quality,
                            .propensity = decision.propensity};
    if (learn_observation(l, l->embedding, &o) != LESSON_LEARNED) return LESSON_REJECTED;
    if (l->options.reference) learn_reference_outcome(l, l->embedding, record->quality);
    mark_used(l, mark, record->id);
    if (l->options.journal) journal_outcome(l, &o);
    return LESSON_LEARNED;
}

enum lesson learn_outcome_record(struct learner *l, const struct record_header *record,
                                 const uint8_t *body)
{
    const struct geometry *g = &l->geometry;
    const uint64_t row = g->hidden_dim * sizeof(float);
    if (record->hidden_dim != g->hidden_dim || record->length - sizeof *record < row)
        return LESSON_CORRUPT;
    struct observation o = {.time_ns = record->time_ns,
                            .latency_us = record->latency_us,
                            .route = record->route,
                            .tokens = record->tokens,
                            .quality = record->quality};
    memcpy(l->embedding, body, row);
    return learn_observation(l, l->embedding, &o);
}

/* ---- outcomes that did not come ---- */

/* Whether a decision has its outcome, has gone, or has had its time; learns the default of one
 * that has. */
static int settle(struct learner *l, const struct lane *lane, uint64_t sequence, uint64_t now_ns)
{
    struct decision_slot *slot = lane_slot(lane, sequence);
    const uint64_t id = load_acquire(&slot->id);
    struct used_mark *mark = &lane->marks[sequence % lane->slot_count];
    struct decision decision;
    if (identifier_sequence(id) != (sequence & IDENTIFIER_SEQUENCE_MASK)) return 1;
    if (load_relaxed(&mark->id) == id) return 1;
    if (!copy_slot(l, slot, id, &decision, l->embedding)) return 1;
    if (decision.time_ns + l->options.feedback_timeout_ns > now_ns) return 0;
    struct observation o = {.id = id,
                            .time_ns = now_ns,
                            .route = decision.route,
                            .quality = (float)l->options.default_quality,
                            .propensity = decision.propensity};
    if (learn_observation(l, l->embedding, &o) == LESSON_LEARNED) {
        learner_count(l, COUNTER_defaults_learned, 1);
        l->unpublished_signals += 1;
        mark_used(l, mark, id);
        if (l->options.journal) journal_outcome(l, &o);
    }
    l->unpublished += 1;
    return 1;
}

void learner_settle(struct learner *l, uint64_t now_ns)
{
    if (isnan(l->options.default_quality)) return;
    for (uint64_t i = 0; i < l->geometry.max_workers; i++) {
        struct lane_progress *progress = &learner_progress(l)[i];
        const struct lane *lane = &l->lanes[i];
        const uint64_t decisions = load_acquire(&lane->header->decisions);
        if (progress->settled > decisions) progress->settled = decisions;
        if (decisions - progress->settled > lane->slot_count)
            progress->settled = decisions - lane->slot_count;
        while (progress->settled < decisions && !refit_is_due(l) &&
               settle(l, lane, progress->settled, now_ns))
            progress->settled += 1;
    }
}
