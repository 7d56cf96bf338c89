/* See journal.h. */
#include "journal.h"

#include <stdlib.h>
#include <string.h>

#include "identifier.h"
#include "learner.h"
#include "race.h"

/* Decisions gathered of one lane before the next has its turn. */
#define LANE_TURN 64

static uint8_t *grow(struct rows *rows, size_t bytes)
{
    if (rows->capacity - rows->used < bytes) {
        const size_t capacity = 2 * rows->capacity + bytes;
        uint8_t *larger = realloc(rows->bytes, capacity);
        if (!larger) return NULL;
        rows->bytes = larger;
        rows->capacity = capacity;
    }
    return rows->bytes + rows->used;
}

/* Copies one slot; 0 if a later decision has taken it. */
static int append_decision(struct learner *l, const struct lane *lane, uint64_t sequence)
{
    const struct geometry *g = &l->geometry;
    const size_t allowed = g->allowed_words * sizeof(uint64_t);
    const size_t embedding = g->hidden_dim * sizeof(float);
    const size_t bytes = sizeof(struct journal_decision) + allowed + embedding;
    struct decision_slot *slot = lane_slot(lane, sequence);
    const uint64_t id = load_acquire(&slot->id);
    if (identifier_sequence(id) != (sequence & IDENTIFIER_SEQUENCE_MASK)) return 0;
    uint8_t *row = grow(&l->journal_decisions, bytes);
    if (!row) return 0;
    struct decision decision;
    racing_copy(&decision, &slot->decision, sizeof decision);
    racing_copy(row + sizeof(struct journal_decision), slot + 1, allowed);
    racing_copy(row + sizeof(struct journal_decision) + allowed,
                (uint8_t *)slot + g->slot_embedding, embedding);
    atomic_thread_fence(memory_order_acquire);
    if (load_relaxed(&slot->id) != id) return 0;
    const struct journal_decision head = {id, decision.time_ns, decision.version, decision.route,
                                          decision.propensity};
    memcpy(row, &head, sizeof head);
    l->journal_decisions.used += bytes;
    return 1;
}

/* Gathers up to `limit` decisions of one lane; returns how many are left. */
static uint64_t journal_lane(struct learner *l, uint64_t index, uint64_t limit)
{
    struct lane_progress *progress = &learner_progress(l)[index];
    const struct lane *lane = &l->lanes[index];
    const uint64_t decisions = load_acquire(&lane->header->decisions);
    /* A count that went back, or leapt, was changed by a stray write: go on from where it is. */
    if (progress->journaled > decisions) progress->journaled = decisions;
    const uint64_t behind = decisions - progress->journaled;
    if (behind > lane->slot_count) {
        learner_count(l, COUNTER_journal_missed, behind - lane->slot_count);
        progress->journaled = decisions - lane->slot_count;
    }
    for (; limit && progress->journaled < decisions; limit--, progress->journaled++) {
        if (!append_decision(l, lane, progress->journaled))
            learner_count(l, COUNTER_journal_missed, 1);
        l->unpublished += 1;
    }
    return decisions - progress->journaled;
}

int journal_decisions(struct learner *l)
{
    uint64_t left = 0;
    for (uint64_t i = 0; i < l->geometry.max_workers; i++) left += journal_lane(l, i, LANE_TURN);
    return left == 0;
}

void journal_outcome(struct learner *l, const struct observation *o)
{
    const struct journal_outcome row = {o->id,    o->time_ns, o->latency_us, o->route,
                                        o->tokens, o->quality, o->reward};
    uint8_t *at = grow(&l->journal_outcomes, sizeof row);
    if (!at) {
        learner_count(l, COUNTER_journal_missed, 1);
        return;
    }
    memcpy(at, &row, sizeof row);
    l->journal_outcomes.used += sizeof row;
}

void journal_free(struct learner *l)
{
    free(l->journal_decisions.bytes);
    free(l->journal_outcomes.bytes);
    memset(&l->journal_decisions, 0, sizeof l->journal_decisions);
    memset(&l->journal_outcomes, 0, sizeof l->journal_outcomes);
}
