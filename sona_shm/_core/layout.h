/* Layout of the three shared-memory segments: structures and sizes, no behaviour.
 *
 * This is the single declaration of the layout.  Python reads the offsets from the compiled
 * module (shm/layout.py), so the two sides cannot disagree; the assertions below pin the
 * offsets so that a change of layout is a change of this file and of SONA_LAYOUT_VERSION.
 *
 *   control   | header | owners[max_workers] | configuration (msgpack) |
 *   ring      | identity | lane 0 | lane 1 | ...      each lane:
 *             |   lane header | ring bytes | decision slots | used marks |
 *   weights   | identity | cell header | buffer 0 | buffer 1 | buffer 2 | buffer 3 |
 *
 * All words are little-endian 64-bit; the engine refuses to build on a big-endian machine. */
#ifndef SONA_LAYOUT_H
#define SONA_LAYOUT_H

#include <stddef.h>

#include "atomics.h"

#define SONA_MAGIC UINT64_C(0x4d48535f414e4f53) /* "SONA_SHM" */
#define SONA_LAYOUT_VERSION 1
#define CACHE_LINE 64
#define PAGE 4096
#define CELL_BUFFERS 4
#define LABEL_BYTES 40

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the layout is little-endian");

enum segment_kind { SEGMENT_CONTROL = 1, SEGMENT_RING = 2, SEGMENT_WEIGHTS = 3 };

/* First line of every segment.  Written once by the creator before `ready`; read at attach,
 * after `ready`, and compared between the segments so that pieces of two engines never mix. */
struct segment_identity {
    uint64_t magic;
    uint64_t layout_version;
    uint64_t kind;
    uint64_t creation_id;
    uint64_t bytes;
    uint64_t unused[3];
};
_Static_assert(sizeof(struct segment_identity) == CACHE_LINE, "one line");

/* Control header.
 *
 * word               written by                 read by           order and reason
 * ------------------ -------------------------- ----------------- ----------------------------
 * ready              creator, once, last        attachers         release/acquire: all that the
 *                                                                 creator wrote is seen with it
 * destroyed          destroyer, once            workers, learner  release/relaxed: refuse from now
 *                                                                 on; set before its locks fall
 *                                                                 free, so no claim overlooks it
 * geometry, config_* creator, before ready      attachers         plain, ordered by ready
 * next_trajectory_id any process, fetch_add     the same          acq_rel: uniqueness would do
 * flush_requested    any process, fetch_add     learner           acq_rel/acquire: a request
 *                                                                 follows the records it means
 * learner_sleeping   learner: 1; producers and  producers         seq_cst with a fence on both
 *                    learner: 0                                   sides: store-then-load (Dekker);
 *                                                                 0 again relaxed: only a hint
 * flush_served       learner                    requesters        release/acquire: weights first
 * learner_*, _ns     learner                    people            relaxed: for display only   */
struct control_header {
    struct segment_identity identity;
    shared_word ready;
    shared_word destroyed;
    uint64_t config_length;
    uint64_t config_checksum;
    uint64_t unused0[4];
    /* the geometry that the sizes were computed from */
    uint64_t hidden_dim;
    uint64_t rank;
    uint64_t routes;
    uint64_t max_workers;
    uint64_t pending_decisions;
    uint64_t lane_bytes;
    uint64_t unused1[2];
    shared_word next_trajectory_id;
    uint64_t unused2[7];
    shared_word flush_requested;
    uint64_t unused3[7];
    shared_word learner_sleeping;
    uint64_t unused4[7];
    shared_word flush_served;
    shared_word learner_pid;
    shared_word learner_since_ns;
    shared_word published_ns;
    shared_word learner_terms;
    uint64_t unused5[3];
};
_Static_assert(offsetof(struct control_header, ready) == 64, "layout");
_Static_assert(offsetof(struct control_header, hidden_dim) == 128, "layout");
_Static_assert(offsetof(struct control_header, next_trajectory_id) == 192, "layout");
_Static_assert(offsetof(struct control_header, flush_requested) == 256, "layout");
_Static_assert(offsetof(struct control_header, learner_sleeping) == 320, "layout");
_Static_assert(offsetof(struct control_header, flush_served) == 384, "layout");
_Static_assert(sizeof(struct control_header) == 448, "layout");

/* Who holds a lane.  Ownership itself is the kernel lock, never these words.
 *
 * word                written by           read by          order and reason
 * ------------------- -------------------- ---------------- --------------------------------------
 * generation          claimer, under the   learner, next    release/relaxed: only tells expired
 *                     lane's lock byte     claimer          ids from foreign ones; a slot is found
 *                                                           by its whole id
 * pid, since_ns,      the same             people           release/acquire, label plain: display
 *   label                                                                                       */
struct lane_owner {
    shared_word pid;
    shared_word since_ns;
    shared_word generation;
    char label[LABEL_BYTES];
};
_Static_assert(sizeof(struct lane_owner) == CACHE_LINE, "one line");

/* Lane header.
 *
 * word                 written by   read by            order and reason
 * -------------------- ------------ ------------------ ------------------------------------------
 * head                 producer     learner, monitor   release/acquire: the record is complete
 * intent               producer     next owner,        relaxed, before its count, before head:
 *                                   monitor            which count the store of head makes true
 * trajectories,        producer     monitor, next      relaxed: counts, exact with `intent`
 *   feedbacks, dropped              owner
 * decisions            producer     monitor, next      release: the slot is complete
 *                                   owner
 * epoch                producer     learner, monitor   release/acquire: restart_* belong to it
 * restart_position,    producer     learner            plain values before epoch
 *   restart_records
 * base_*               producer at  monitor            relaxed: counts before this owner; what
 *                      claim                           lies before them is the retired row
 * tail                 learner      producer           release/acquire: the learner has finished
 *                                                      reading what the producer may overwrite
 * quarantined          learner      producer, monitor  release/acquire: epoch + 1 of the refused
 *                                                      epoch, of which it reads nothing any more
 * released_, evicted_  learner      monitor            relaxed: counts
 *   trajectories
 *
 * The producer is whoever holds the lane's lock byte; it keeps private copies of every word it
 * writes and never reads them back from shared memory, so a stray write there heals itself. */
struct lane_header {
    shared_word head;
    shared_word intent;
    shared_word trajectories;
    shared_word feedbacks;
    shared_word dropped;
    shared_word decisions;
    shared_word epoch;
    shared_word unused0;
    shared_word restart_position;
    shared_word restart_records;
    shared_word base_trajectories;
    shared_word base_feedbacks;
    shared_word base_dropped;
    shared_word base_decisions;
    shared_word unused1[2];
    shared_word tail;
    shared_word released_trajectories;
    shared_word evicted_trajectories;
    shared_word quarantined;
    shared_word unused2[4];
    shared_word unused3[8];
};
_Static_assert(offsetof(struct lane_header, restart_position) == 64, "layout");
_Static_assert(offsetof(struct lane_header, tail) == 128, "producer and consumer lines apart");
_Static_assert(sizeof(struct lane_header) == 256, "layout");

/* A record in a lane: this header, then for a trajectory
 *
 *   embedding f32[hidden_dim] | per step: step_header, activations f32[hidden_dim],
 *   attention f32[attention_count] | extra: extra_bytes of msgpack (strings) | zero padding
 *
 * A feedback is the header alone.  Lengths are multiples of the cache line; a padding record
 * fills the end of the ring before a wrap.  Positions grow without bound; the byte of position p
 * is ring[p % lane_bytes]. */
enum record_kind { RECORD_TRAJECTORY = 1, RECORD_FEEDBACK = 2, RECORD_PADDING = 3 };
#define NO_ROUTE UINT32_MAX

struct record_header {
    uint32_t length;
    uint32_t kind;
    uint64_t id; /* of the trajectory or the decision */
    uint64_t time_ns;
    float quality;
    uint32_t route; /* NO_ROUTE where a trajectory names none */
    uint64_t latency_us;
    uint32_t hidden_dim;
    uint32_t steps;
    uint32_t extra_bytes;
    uint32_t unused[3];
};
_Static_assert(sizeof(struct record_header) == CACHE_LINE, "one line");

struct step_header {
    float reward;
    uint32_t attention_count;
    uint32_t index;
    uint32_t unused;
};
_Static_assert(sizeof(struct step_header) == 16, "layout");

/* A remembered decision: this header, then the embedding f32[hidden_dim].
 *
 * word  written by   read by   order and reason
 * ----- ------------ --------- -------------------------------------------------------------
 * id    producer     learner   0 and a release fence before the slot is changed, the id with
 *                              release after; the reader checks it before and after its copy
 * rest  producer     learner   racing_copy: intended race, checked by `id` */
struct decision {
    uint64_t time_ns;
    uint64_t version; /* of the weights that decided */
    uint32_t route;
    float propensity;
};
struct decision_slot {
    shared_word id;
    struct decision decision;
    uint64_t unused[4];
};
_Static_assert(sizeof(struct decision_slot) == CACHE_LINE, "one line");

/* Learner only, and its successor (version relaxed, id release: a mark is whole or void):
 * which decision of this slot was used, in the snapshot of which version.
 * `version` is stored before `id`; a mark whose version was never published is void and swept
 * by the next learner. */
struct used_mark {
    shared_word version;
    shared_word id;
};

/* Cell header.
 *
 * word     written by  read by   order and reason
 * -------- ----------- --------- ----------------------------------------------------------------
 * begun    learner     readers   relaxed store, then a release fence, before any byte of the
 *                                buffer changes; readers fence (acquire) and load it after their
 *                                reads: had they seen a changed byte, they see this too
 * version  learner     readers   release/acquire: the buffer of that version is complete */
struct cell_header {
    shared_word begun;
    uint64_t unused0[7];
    shared_word version;
    uint64_t unused1[7];
};
_Static_assert(sizeof(struct cell_header) == 2 * CACHE_LINE, "begun and version apart");

/* What the learner has counted; part of the snapshot, so exact across its deaths. */
#define LEARNER_COUNTERS(X)                                                                        \
    X(trajectories_processed)                                                                      \
    X(signals_accumulated)                                                                         \
    X(flushes_performed)                                                                           \
    X(updates_applied)                                                                             \
    X(feedback_processed)                                                                          \
    X(outcomes_learned)                                                                            \
    X(feedback_duplicate)                                                                          \
    X(feedback_expired)                                                                            \
    X(feedback_unknown)                                                                            \
    X(nonfinite_skipped)                                                                           \
    X(records_corrupt)                                                                             \
    X(lanes_quarantined)                                                                           \
    X(records_lost)

#define COUNTER_ENUM(name) COUNTER_##name,
enum learner_counter { LEARNER_COUNTERS(COUNTER_ENUM) COUNTER_COUNT };
#undef COUNTER_ENUM

/* How far one lane has been learned, in the snapshot: weights and positions are one store. */
struct lane_progress {
    uint64_t epoch;
    uint64_t position;
    uint64_t records;
    uint64_t trajectories;
};

/* Running mean with a horizon: an equal-weight mean at first, then exponential forgetting. */
struct running_mean {
    double mean;
    double weight;
};

/* Head of the published block; arrays follow at the offsets of `struct geometry`. */
struct snapshot_header {
    uint64_t version;
    uint64_t reference_pending; /* signals in the reference accumulator */
    struct running_mean step_reward;
    struct running_mean quality;
    uint64_t unused[2];
    uint64_t counters[24];
};
_Static_assert(sizeof(struct snapshot_header) == 256, "layout");
_Static_assert(COUNTER_COUNT <= 24, "room for the counters");

/* Per route, for people: how often its outcome was learned and the mean of its reward. */
struct route_statistics {
    uint64_t outcomes;
    double reward_mean;
};

/* All sizes and offsets that follow from a configuration; computed by each process from the
 * validated configuration, never read from shared memory. */
struct geometry {
    uint64_t hidden_dim, rank, routes, max_workers, pending_decisions, lane_bytes;
    /* control */
    uint64_t owners_offset, config_offset, config_capacity, control_bytes;
    /* ring */
    uint64_t lane_stride, lane_ring_offset, lane_slots_offset, lane_marks_offset, slot_bytes;
    uint64_t lanes_offset, ring_bytes;
    /* weights */
    uint64_t cell_offset, buffers_offset, buffer_stride, weights_bytes;
    /* inside the published block */
    uint64_t micro_a, micro_b, heads, head_bias, price, heads_squared, bias_squared;
    uint64_t reference_sum, route_statistics, lane_progress, snapshot_bytes;
};

/* Fills the derived fields; returns NULL, or which given field is out of range. */
const char *geometry_complete(struct geometry *geometry);

#endif
