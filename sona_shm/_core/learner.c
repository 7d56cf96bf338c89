/* Drain, publish, release: see learner.h. */
#include "learner.h"

#include <string.h>

#include "race.h"
#include "refit.h"
#include "tasks.h"

/* Records taken from one lane before the next has its turn. */
#define LANE_TURN 64

/* ---- taking over ---- */

/* Marks of a version that was never published belong to work that is about to be repeated. */
static void sweep_marks(struct learner *l)
{
    for (uint64_t i = 0; i < l->geometry.max_workers; i++) {
        struct used_mark *marks = l->lanes[i].marks;
        for (uint64_t s = 0; s < l->geometry.pending_decisions; s++)
            if (load_relaxed(&marks[s].version) > l->version) {
                store_relaxed(&marks[s].id, 0);
                store_release(&marks[s].version, 0);
            }
    }
}

static void resume_release(struct learner *l)
{
    for (uint64_t i = 0; i < l->geometry.max_workers; i++) {
        const struct lane_header *h = l->lanes[i].header;
        const struct lane_progress *progress = &learner_progress(l)[i];
        struct lane_release *released = &l->released[i];
        const uint64_t tail = load_relaxed(&h->tail);
        const uint64_t trajectories = load_relaxed(&h->released_trajectories);
        const int sane = tail % CACHE_LINE == 0 && tail <= progress->position &&
                         progress->position - tail <= l->geometry.lane_bytes &&
                         trajectories <= progress->trajectories;
        released->tail = sane ? tail : progress->position;
        released->published = progress->position;
        released->trajectories = sane ? trajectories : progress->trajectories;
        released->evicted = load_relaxed(&h->evicted_trajectories);
        released->dropped_seen = load_relaxed(&h->dropped);
    }
}

void learner_schedule_refit(struct learner *l)
{
    l->refit_number = learner_header(l)->refits;
    l->refit_due = refit_installs_at(l->refit_number, l->geometry.reservoir);
}

int learner_load(struct learner *l)
{
    uint64_t version;
    const uint8_t *block = cell_read(&l->fast, &version);
    memcpy(l->work, block, l->geometry.snapshot_bytes);
    struct snapshot_header *header = learner_header(l);
    memcpy(l->slow_work, cell_buffer(&l->slow, header->slow_version), l->geometry.slow_bytes);
    const struct slow_header *slow = (const struct slow_header *)l->slow_work;
    if (header->version != version || slow->version != header->slow_version ||
        header->routes > l->geometry.routes || slow->patterns > l->geometry.patterns ||
        !refit_state_is_sound(l) || !tasks_are_sound(&l->model))
        return 0;
    l->version = version;
    l->unpublished = l->unpublished_signals = 0;
    l->slow_changed = 0;
    store_release(&l->reservoir_filled, header->reservoir_position);
    learner_schedule_refit(l);
    sweep_marks(l);
    resume_release(l);
    return 1;
}

/* ---- ring space: what is kept, and what is given back ---- */

/* Gives ring space back, never beyond what a published version has learned: the next learner may
 * have to read it. */
static void give_back(struct learner *l, uint64_t index)
{
    const struct lane_release *released = &l->released[index];
    struct lane_header *h = l->lanes[index].header;
    const uint64_t tail =
        released->tail < released->published ? released->tail : released->published;
    if (load_relaxed(&h->tail) != tail) store_release(&h->tail, tail);
    store_relaxed(&h->released_trajectories, released->trajectories);
    store_relaxed(&h->evicted_trajectories, released->evicted);
}

/* Steps over one learned record at the release tail; 0 if its header is not sane any more. */
static int release_record(struct learner *l, uint64_t index, struct record_header *record,
                          const uint8_t **body)
{
    struct lane_release *released = &l->released[index];
    struct lane_progress at = {.position = released->tail};
    const uint64_t end = learner_progress(l)[index].position;
    const enum lane_state state = lane_next(&l->lanes[index], &at, end, record, body);
    if (state == LANE_RECORD) {
        released->tail = at.position + record->length;
        return 1;
    }
    released->tail = end;
    released->trajectories = learner_progress(l)[index].trajectories;
    return 0;
}

static void release_lane(struct learner *l, uint64_t index)
{
    const struct lane_progress *progress = &learner_progress(l)[index];
    struct lane_release *released = &l->released[index];
    /* Learned trajectories stay for drain_trajectories, in at most half of the lane, and only as
     * long as the worker loses nothing for it. */
    const uint64_t dropped = load_relaxed(&l->lanes[index].header->dropped);
    const int room = l->options.keep && dropped == released->dropped_seen;
    const uint64_t keep = room ? l->geometry.lane_bytes / 2 : 0;
    released->dropped_seen = dropped;
    while (progress->position - released->tail > keep) {
        struct record_header record;
        const uint8_t *body;
        if (!release_record(l, index, &record, &body)) break;
        if (record.kind != RECORD_TRAJECTORY) continue;
        released->trajectories += 1;
        released->evicted += 1;
    }
    released->published = progress->position;
    give_back(l, index);
}

/* ---- draining ---- */

static void count_lesson(struct learner *l, const struct record_header *record, enum lesson lesson)
{
    const int trajectory = record->kind == RECORD_TRAJECTORY;
    learner_count(l, trajectory ? COUNTER_trajectories_processed : COUNTER_feedback_processed, 1);
    if (lesson == LESSON_LEARNED) {
        learner_count(l, COUNTER_signals_accumulated, 1);
        l->unpublished_signals += 1;
    } else if (lesson == LESSON_CORRUPT) {
        learner_count(l, COUNTER_records_corrupt, 1);
    } else if (lesson == LESSON_REJECTED && trajectory) {
        learner_count(l, COUNTER_nonfinite_skipped, 1); /* others have counted their own reason */
    }
}

static enum lesson learn_record(struct learner *l, const struct record_header *record,
                                const uint8_t *body)
{
    switch (record->kind) {
    case RECORD_TRAJECTORY: return learn_trajectory(l, record, body);
    case RECORD_FEEDBACK: return learn_feedback(l, record);
    case RECORD_OUTCOME: return learn_outcome_record(l, record, body);
    default: return learn_route(l, record, body);
    }
}

static void refuse_lane(struct learner *l, uint64_t index)
{
    const struct lane_progress *progress = &learner_progress(l)[index];
    struct lane_release *released = &l->released[index];
    lane_quarantine(&l->lanes[index], progress);
    learner_count(l, COUNTER_lanes_quarantined, 1);
    l->unpublished += 1;
    released->tail = progress->position;
    released->trajectories = progress->trajectories;
}

/* Whatever was before the new epoch is given up. */
static void follow_epoch(struct learner *l, uint64_t index)
{
    struct lane_progress *progress = &learner_progress(l)[index];
    const uint64_t epoch = progress->epoch;
    const uint64_t lost = lane_follow_epoch(&l->lanes[index], progress);
    if (progress->epoch == epoch) return;
    learner_count(l, COUNTER_records_lost, lost);
    struct lane_release *released = &l->released[index];
    released->tail = released->published = progress->position;
    released->trajectories = progress->trajectories;
    l->unpublished += 1; /* the new epoch has to be committed even if nothing else comes */
}

static int lane_is_quarantined(const struct lane *lane, const struct lane_progress *progress)
{
    return load_relaxed(&lane->header->quarantined) == progress->epoch + 1;
}

static uint64_t drain_lane(struct learner *l, uint64_t index, uint64_t limit)
{
    const struct lane *lane = &l->lanes[index];
    struct lane_progress *progress = &learner_progress(l)[index];
    follow_epoch(l, index);
    if (lane_is_quarantined(lane, progress)) return 0;
    uint64_t head, consumed = 0;
    if (!lane_head(lane, progress->position, &head)) {
        refuse_lane(l, index);
        return 0;
    }
    while (consumed < limit && !refit_is_due(l)) {
        struct record_header record;
        const uint8_t *body;
        const enum lane_state state = lane_next(lane, progress, head, &record, &body);
        if (state == LANE_EMPTY) break;
        if (state == LANE_CORRUPT) {
            refuse_lane(l, index);
            break;
        }
        count_lesson(l, &record, learn_record(l, &record, body));
        progress->position += record.length;
        progress->records += 1;
        progress->trajectories += record.kind == RECORD_TRAJECTORY;
        consumed += 1;
    }
    l->unpublished += consumed;
    return consumed;
}

uint64_t learner_drain(struct learner *l, uint64_t limit)
{
    const uint64_t lanes = l->geometry.max_workers;
    uint64_t consumed = 0, idle = 0;
    l->journal_is_behind = l->options.journal && !journal_decisions(l);
    while (consumed < limit && idle < lanes) {
        const uint64_t left = limit - consumed;
        const uint64_t n = drain_lane(l, l->next_lane, left < LANE_TURN ? left : LANE_TURN);
        l->next_lane = (l->next_lane + 1) % lanes;
        idle = n ? 0 : idle + 1;
        consumed += n;
    }
    /* A producer may be waiting for room that only history takes, or for a tail that a stray write
     * has spoiled; where nothing is left to publish, no publication would help it. */
    if (l->unpublished == 0)
        for (uint64_t i = 0; i < lanes; i++) release_lane(l, i);
    return consumed;
}

uint64_t learner_drain_all(struct learner *l)
{
    uint64_t consumed = 0;
    l->journal_is_behind = l->options.journal && !journal_decisions(l);
    for (uint64_t i = 0; i < l->geometry.max_workers; i++)
        consumed += drain_lane(l, i, UINT64_MAX);
    return consumed;
}

/* ---- taking what is kept ---- */

int learner_take(struct learner *l, struct record_header *record, const uint8_t **body,
                 uint64_t *lane)
{
    for (uint64_t i = 0; i < l->geometry.max_workers; i++) {
        const uint64_t end = learner_progress(l)[i].position;
        while (l->released[i].tail < end) {
            if (!release_record(l, i, record, body)) break;
            if (record->kind != RECORD_TRAJECTORY) continue;
            l->released[i].trajectories += 1;
            *lane = i;
            return 1;
        }
    }
    return 0;
}

void learner_release_taken(struct learner *l, uint64_t lane) { give_back(l, lane); }

/* ---- publishing ---- */

void learner_slow_changed(struct learner *l)
{
    if (l->slow_changed) return;
    l->slow_changed = 1;
    ((struct slow_header *)l->slow_work)->version = ++learner_header(l)->slow_version;
}

/* Before the fast block that names it: whoever reads that finds this. */
static void publish_slow(struct learner *l)
{
    if (!l->slow_changed) return;
    const uint64_t version = learner_header(l)->slow_version;
    racing_copy(cell_begin(&l->slow, version), l->slow_work, l->geometry.slow_bytes);
    cell_publish(&l->slow, version);
    l->slow_changed = 0;
}

void learner_publish(struct learner *l, uint64_t now_ns)
{
    if (l->unpublished_signals && !l->options.reference) {
        learner_count(l, COUNTER_flushes_performed, 1);
        learner_count(l, COUNTER_updates_applied, l->unpublished_signals);
    }
    const uint64_t version = l->version + 1;
    learner_header(l)->version = version;
    publish_slow(l);
    /* Parts of routes that are not in use are as they were in every version. */
    const struct geometry *g = &l->geometry;
    const uint64_t used = g->routes_offset + learner_header(l)->routes * g->route_stride;
    racing_copy(cell_begin(&l->fast, version), l->work, used);
    cell_publish(&l->fast, version);
    l->version = version;
    l->unpublished = l->unpublished_signals = 0;
    store_relaxed(&l->control->published_ns, now_ns);
    /* Only now: what is freed here has been learned in a version that outlives this process. */
    for (uint64_t i = 0; i < l->geometry.max_workers; i++) release_lane(l, i);
}

/* ---- sleeping ---- */

int learner_may_sleep(struct learner *l)
{
    atomic_store_explicit(&l->control->learner_sleeping, 1, memory_order_seq_cst);
    /* A producer stores its head, fences and looks at the word above; this fence is the other
     * half: one of the two sees the other. */
    atomic_thread_fence(memory_order_seq_cst);
    for (uint64_t i = 0; i < l->geometry.max_workers; i++) {
        const struct lane_progress *progress = &learner_progress(l)[i];
        const struct lane_header *h = l->lanes[i].header;
        const int fresh = load_relaxed(&h->head) != progress->position &&
                          !lane_is_quarantined(&l->lanes[i], progress);
        if (fresh || load_relaxed(&h->epoch) != progress->epoch) {
            learner_wakes(l);
            return 0;
        }
    }
    if (load_relaxed(&l->control->flush_requested) != load_relaxed(&l->control->flush_served)) {
        learner_wakes(l);
        return 0;
    }
    return 1;
}

void learner_wakes(struct learner *l) { store_relaxed(&l->control->learner_sleeping, 0); }
