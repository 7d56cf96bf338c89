/* Lane protocol: see the table of words in layout.h. */
#include "lane.h"

#include <string.h>

/* intent: the head that is about to be stored (a multiple of 64), and in its free low bits the
 * kind of the record and the last four bits of the count that goes with it. */
#define INTENT_KIND_MASK UINT64_C(3)
#define INTENT_COUNT_SHIFT 2
#define INTENT_COUNT_MASK UINT64_C(15)

static uint64_t intent_of(uint64_t head, enum record_kind kind, uint64_t count)
{
    /* What is no trajectory is counted as feedback. */
    const uint64_t counted = kind == RECORD_TRAJECTORY ? RECORD_TRAJECTORY : RECORD_FEEDBACK;
    return head | (count & INTENT_COUNT_MASK) << INTENT_COUNT_SHIFT | counted;
}

static void take_back(uint64_t *count, uint64_t intent, enum record_kind kind)
{
    if ((intent & INTENT_KIND_MASK) != (uint64_t)kind) return;
    if ((intent >> INTENT_COUNT_SHIFT & INTENT_COUNT_MASK) == (*count & INTENT_COUNT_MASK))
        *count -= 1;
}

struct lane lane_at(uint8_t *ring_segment, const struct geometry *g, uint64_t index)
{
    uint8_t *base = ring_segment + g->lanes_offset + index * g->lane_stride;
    struct lane lane = {
        .header = (struct lane_header *)base,
        .ring = base + g->lane_ring_offset,
        .slots = base + g->lane_slots_offset,
        .marks = (struct used_mark *)(base + g->lane_marks_offset),
        .ring_bytes = g->lane_bytes,
        .slot_bytes = g->slot_bytes,
        .slot_count = g->pending_decisions,
    };
    return lane;
}

/* A position pair that a consumer and a producer can both work with. */
static int positions_agree(const struct lane *lane, uint64_t tail, uint64_t head)
{
    return head % CACHE_LINE == 0 && tail % CACHE_LINE == 0 && head - tail <= lane->ring_bytes &&
           head < UINT64_MAX / 2;
}

/* ---- producer ---- */

/* Starts the ring anew at the producer's own head: everything before it is given up. */
static void producer_restart(struct producer *p)
{
    struct lane_header *h = p->lane.header;
    p->head -= p->head % CACHE_LINE;
    p->tail = p->head;
    p->epoch = load_relaxed(&h->epoch) + 1;
    store_relaxed(&h->intent, p->head);
    store_relaxed(&h->restart_position, p->head);
    store_relaxed(&h->restart_records, p->trajectories + p->feedbacks);
    store_relaxed(&h->head, p->head);
    store_release(&h->epoch, p->epoch);
}

/* The learner refused this epoch, or a stray write made it follow another one. */
static int producer_is_cut_off(const struct producer *p)
{
    const struct lane_header *h = p->lane.header;
    return load_acquire(&h->quarantined) == p->epoch + 1 || load_relaxed(&h->epoch) != p->epoch;
}

void producer_claim(struct producer *p, const struct lane *lane)
{
    struct lane_header *h = lane->header;
    p->lane = *lane;
    p->head = load_acquire(&h->head);
    p->trajectories = load_relaxed(&h->trajectories);
    p->feedbacks = load_relaxed(&h->feedbacks);
    p->dropped = load_relaxed(&h->dropped);
    p->decisions = load_acquire(&h->decisions);
    p->epoch = load_relaxed(&h->epoch);
    p->tail = load_acquire(&h->tail);

    /* The former owner announces a record, counts it, then publishes it.  Where it died before
     * the last of the three, `intent` tells which count to look at, and whether it had grown. */
    const uint64_t intent = load_relaxed(&h->intent);
    if (intent - intent % CACHE_LINE != p->head) {
        take_back(&p->trajectories, intent, RECORD_TRAJECTORY);
        take_back(&p->feedbacks, intent, RECORD_FEEDBACK);
    }
    store_relaxed(&h->intent, p->head);
    store_relaxed(&h->trajectories, p->trajectories);
    store_relaxed(&h->feedbacks, p->feedbacks);
    store_relaxed(&h->base_trajectories, p->trajectories);
    store_relaxed(&h->base_feedbacks, p->feedbacks);
    store_relaxed(&h->base_dropped, p->dropped);
    store_relaxed(&h->base_decisions, p->decisions);

    if (!positions_agree(lane, p->tail, p->head)) {
        if (p->head >= UINT64_MAX / 2) p->head = 0;
        producer_restart(p);
    } else if (producer_is_cut_off(p)) {
        producer_restart(p);
    }
}

/* Looks at how far the consumer has come; a tail that cannot be is no progress. */
static void producer_refresh_tail(struct producer *p)
{
    uint64_t tail = load_acquire(&p->lane.header->tail);
    if (tail >= p->tail && positions_agree(&p->lane, tail, p->head)) p->tail = tail;
}

uint8_t *producer_reserve(struct producer *p, uint64_t length)
{
    if (producer_is_cut_off(p)) producer_restart(p);
    const uint64_t size = p->lane.ring_bytes;
    uint64_t offset = p->head % size;
    uint64_t padding = offset + length > size ? size - offset : 0;
    if (size - (p->head - p->tail) < padding + length) {
        producer_refresh_tail(p);
        if (size - (p->head - p->tail) < padding + length) return NULL;
    }
    if (padding) {
        struct record_header *pad = (struct record_header *)(p->lane.ring + offset);
        memset(pad, 0, sizeof *pad);
        pad->length = (uint32_t)padding;
        pad->kind = RECORD_PADDING;
        p->head += padding; /* published together with the record behind it */
        offset = 0;
    }
    return p->lane.ring + offset;
}

void producer_drop(struct producer *p)
{
    p->dropped += 1;
    store_relaxed(&p->lane.header->dropped, p->dropped);
}

void producer_commit(struct producer *p, uint64_t length, enum record_kind kind)
{
    struct lane_header *h = p->lane.header;
    const int trajectory = kind == RECORD_TRAJECTORY;
    uint64_t *count = trajectory ? &p->trajectories : &p->feedbacks;
    p->head += length;
    *count += 1;
    /* The compiler must not exchange these two: the next owner reads them after a death. */
    store_relaxed(&h->intent, intent_of(p->head, kind, *count));
    atomic_signal_fence(memory_order_seq_cst);
    store_relaxed(trajectory ? &h->trajectories : &h->feedbacks, *count);
    store_release(&h->head, p->head);
}

struct decision_slot *decision_begin(struct producer *p)
{
    struct decision_slot *slot = lane_slot(&p->lane, p->decisions);
    store_relaxed(&slot->id, 0);
    atomic_thread_fence(memory_order_release);
    return slot;
}

void decision_commit(struct producer *p, struct decision_slot *slot, uint64_t id)
{
    store_release(&slot->id, id);
    p->decisions += 1;
    store_release(&p->lane.header->decisions, p->decisions);
}

/* ---- consumer ---- */

int lane_head(const struct lane *lane, uint64_t position, uint64_t *head)
{
    *head = load_acquire(&lane->header->head);
    return *head >= position && positions_agree(lane, position, *head);
}

void lane_quarantine(const struct lane *lane, const struct lane_progress *progress)
{
    store_release(&lane->header->quarantined, progress->epoch + 1);
}

uint64_t lane_follow_epoch(const struct lane *lane, struct lane_progress *progress)
{
    uint64_t epoch = load_acquire(&lane->header->epoch);
    if (epoch == progress->epoch) return 0;
    uint64_t position = load_relaxed(&lane->header->restart_position);
    uint64_t records = load_relaxed(&lane->header->restart_records);
    const uint64_t lost = records - progress->records;
    progress->epoch = epoch;
    progress->position = position - position % CACHE_LINE;
    progress->records = records;
    /* More than a ring can hold is a count that a stray write has changed; the same bound leaves
     * out what was lost in further epochs that came and went unseen. */
    return lost <= lane->ring_bytes / CACHE_LINE ? lost : 0;
}

enum lane_state lane_next(const struct lane *lane, struct lane_progress *progress, uint64_t head,
                          struct record_header *copy, const uint8_t **body)
{
    while (progress->position < head) {
        uint64_t offset = progress->position % lane->ring_bytes;
        uint64_t room = lane->ring_bytes - offset;
        uint64_t left = head - progress->position;
        if (room > left) room = left;
        /* One copy, then checks on the copy: the ring may be written by a broken process. */
        memcpy(copy, lane->ring + offset, sizeof *copy);
        if (copy->length < sizeof *copy || copy->length % CACHE_LINE || copy->length > room)
            return LANE_CORRUPT;
        if (copy->kind == RECORD_PADDING) {
            progress->position += copy->length;
            continue;
        }
        if (copy->kind == 0 || copy->kind > RECORD_ROUTE) return LANE_CORRUPT;
        *body = lane->ring + offset + sizeof *copy;
        return LANE_RECORD;
    }
    return LANE_EMPTY;
}
