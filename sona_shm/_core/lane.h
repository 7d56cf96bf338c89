/* A lane: one worker's single-producer single-consumer byte ring, and the slots that remember
 * its decisions.  Producer and consumer each keep private copies of what they write. */
#ifndef SONA_LANE_H
#define SONA_LANE_H

#include "blocks.h"

struct lane {
    struct lane_header *header;
    uint8_t *ring;
    uint8_t *slots;
    struct used_mark *marks;
    uint64_t ring_bytes, slot_bytes, slot_count;
};

struct lane lane_at(uint8_t *ring_segment, const struct geometry *g, uint64_t index);

static inline struct decision_slot *lane_slot(const struct lane *lane, uint64_t sequence)
{
    return (struct decision_slot *)(lane->slots + sequence % lane->slot_count * lane->slot_bytes);
}

/* ---- producer ---- */

struct producer {
    struct lane lane;
    uint64_t head, tail; /* `tail` is the last one seen */
    uint64_t trajectories, feedbacks, dropped, decisions, epoch;
};

/* Takes the lane over where its former owner left it; call with the lane's lock byte held. */
void producer_claim(struct producer *producer, const struct lane *lane);

/* Room for a record of `length` bytes, or NULL: the lane is full. */
uint8_t *producer_reserve(struct producer *producer, uint64_t length);

/* Counts a record that found the lane full. */
void producer_drop(struct producer *producer);

/* Makes the record just written at producer_reserve's address visible. */
void producer_commit(struct producer *producer, uint64_t length, enum record_kind kind);

/* The slot for the next decision, marked as changing; decision_commit makes it findable. */
struct decision_slot *decision_begin(struct producer *producer);
void decision_commit(struct producer *producer, struct decision_slot *slot, uint64_t id);

/* ---- consumer ---- */

enum lane_state {
    LANE_EMPTY,       /* nothing to read */
    LANE_RECORD,      /* *record points at a record whose bounds are checked */
    LANE_CORRUPT      /* found corrupt just now */
};

/* The next record at progress->position before `head`; steps over padding. */
enum lane_state lane_next(const struct lane *lane, struct lane_progress *progress, uint64_t head,
                          struct record_header *copy, const uint8_t **body);

/* Follows the producer into a new epoch, if there is one: returns the number of records of the
 * old epoch that were never read. */
uint64_t lane_follow_epoch(const struct lane *lane, struct lane_progress *progress);

/* Head as the consumer may use it: never before `position`, never more than a ring ahead. */
int lane_head(const struct lane *lane, uint64_t position, uint64_t *head);

void lane_quarantine(const struct lane *lane, const struct lane_progress *progress);

#endif
