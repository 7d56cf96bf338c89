/* Layout of the three shared-memory segments: structures and sizes, no behaviour.
 *
 * This, with blocks.h for what the cells publish, is the single declaration of the layout.  Python
 * reads the offsets from the compiled module (shm/layout.py), so the two sides cannot disagree; the
 * assertions below pin the offsets so that a change of layout is a change of these files and of
 * SONA_LAYOUT_VERSION.
 *
 *   control   | header | owners[max_workers] | configuration (msgpack) | result of Loop B |
 *             | errors[ERROR_ENTRIES] |
 *   ring      | identity | lane 0 | lane 1 | ...      each lane:
 *             |   lane header | ring bytes | decision slots | used marks |
 *   weights   | identity | fast cell header, slow cell header | fast buffers 0 to 3 |
 *             | slow buffers 0 to 3 | reservoir rows |
 *
 * All words are little-endian 64-bit; the engine refuses to build on a big-endian machine. */
#ifndef SONA_LAYOUT_H
#define SONA_LAYOUT_H

#include <stddef.h>

#include "atomics.h"

#define SONA_MAGIC UINT64_C(0x4d48535f414e4f53) /* "SONA_SHM" */
#define SONA_LAYOUT_VERSION 3
#define CACHE_LINE 64
#define PAGE 4096
#define CELL_BUFFERS 4
#define LABEL_BYTES 40
#define NAME_BYTES 64
#define ERROR_ENTRIES 48
#define ERROR_TEXT_BYTES 448
#define LARGEST_ROUTES 1024
#define LARGEST_RESERVOIR (1u << 20)

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
 * created_ns         creator, before ready      people            plain; 0 where it is not known
 * next_trajectory_id any process, fetch_add     the same          acq_rel: uniqueness would do
 * flush_requested    any process, fetch_add     learner           acq_rel/acquire: a request
 *                                                                 follows the records it means
 * learner_sleeping   learner: 1; producers,     producers,        seq_cst with a fence on both
 *                    requesters, destroyer and  requesters,       sides: store-then-load (Dekker);
 *                    learner: 0                 destroyer         0 again relaxed: only a hint
 * flush_served       learner                    requesters        release/acquire: weights first
 * learn_requested    any process, fetch_add     learner           acq_rel/acquire: as above
 * learn_served       learner                    requesters        release/acquire: weights and the
 *                                                                 result area first
 * result area        learner                    requesters        plain, before learn_served; its
 *                                                                 checksum tells a later result
 *                                                                 that is just being written
 * learner_*, _ns     learner                    people            relaxed: for display only
 * errors_unlisted    any process, fetch_add     people            acq_rel: a count            */
struct control_header {
    struct segment_identity identity;
    shared_word ready;
    shared_word destroyed;
    uint64_t config_length;
    uint64_t config_checksum;
    uint64_t created_ns;
    uint64_t unused0[3];
    /* the geometry that the sizes were computed from */
    uint64_t hidden_dim;
    uint64_t rank;
    uint64_t routes;
    uint64_t max_workers;
    uint64_t pending_decisions;
    uint64_t lane_bytes;
    uint64_t patterns;
    uint64_t reservoir;
    uint64_t base_rank;
    uint64_t tasks;
    uint64_t unused1[6];
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
    shared_word errors_unlisted;
    uint64_t unused5[2];
    shared_word learn_requested;
    uint64_t unused6[7];
    shared_word learn_served;
    uint64_t unused7[7];
};
_Static_assert(offsetof(struct control_header, ready) == 64, "layout");
_Static_assert(offsetof(struct control_header, hidden_dim) == 128, "layout");
_Static_assert(offsetof(struct control_header, next_trajectory_id) == 256, "layout");
_Static_assert(offsetof(struct control_header, flush_requested) == 320, "layout");
_Static_assert(offsetof(struct control_header, learner_sleeping) == 384, "layout");
_Static_assert(offsetof(struct control_header, flush_served) == 448, "layout");
_Static_assert(offsetof(struct control_header, learn_requested) == 512, "layout");
_Static_assert(offsetof(struct control_header, learn_served) == 576, "layout");
_Static_assert(sizeof(struct control_header) == 640, "layout");

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

/* A distinct error of any process of the engine, readable after all of them are dead.
 *
 * word       written by              read by          order and reason
 * ---------- ----------------------- ---------------- ------------------------------------------
 * key        any process, once, by   any process      acq_rel: from zero to a hash of where and
 *            compare-and-exchange                     what kind; never changes again
 * count      any process, fetch_add  people           acq_rel: a count
 * first_ns   any process, once, by   people           acq_rel: the first who comes
 *            compare-and-exchange
 * last_ns,   any process             people           release: display only
 *   pid
 * text_mark  any process             any process      release/acquire: after the text; length and
 *                                                     checksum of it
 * text       who finds no text that  any process      plain: two writers at once make the checksum
 *            fits its mark                            wrong, and the next one writes it again  */
struct error_entry {
    shared_word key;
    shared_word count;
    shared_word first_ns;
    shared_word last_ns;
    shared_word pid;
    shared_word text_mark;
    uint64_t unused[2];
    char text[ERROR_TEXT_BYTES];
};
_Static_assert(sizeof(struct error_entry) == 8 * CACHE_LINE, "whole lines");

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
 * A feedback is the header alone; an outcome (of a decision made elsewhere) is the header and an
 * embedding; a route command is the header and a struct route_command.  Lengths are multiples of
 * the cache line; a padding record fills the end of the ring before a wrap.  Positions grow without
 * bound; the byte of position p is ring[p % lane_bytes]. */
enum record_kind {
    RECORD_TRAJECTORY = 1,
    RECORD_FEEDBACK = 2,
    RECORD_PADDING = 3,
    RECORD_OUTCOME = 4,
    RECORD_ROUTE = 5
};
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
    uint32_t tokens;
    uint32_t unused[2];
};
_Static_assert(sizeof(struct record_header) == CACHE_LINE, "one line");

/* A change of the routes travels through a lane like everything that is learned, so it is applied
 * once, at one place in the sequence of records, and survives the learner. */
enum route_operation { ROUTE_ADD = 1, ROUTE_RETIRE = 2, ROUTE_PRICE = 3 };
struct route_command {
    char name[NAME_BYTES]; /* UTF-8, ended by a zero byte */
    double cost, price;    /* price: cost_weight * cost */
    double expected;       /* of a new route: quality to start from; NaN: none stated */
    uint32_t operation;
    uint32_t like;         /* of a new route: the route it starts from, or NO_ROUTE */
    uint64_t unused[4];
};
_Static_assert(sizeof(struct route_command) == 2 * CACHE_LINE, "two lines");

struct step_header {
    float reward;
    uint32_t attention_count;
    uint32_t index;
    uint32_t unused;
};
_Static_assert(sizeof(struct step_header) == 16, "layout");

/* A remembered decision: this header, then a bit for each route that was allowed
 * (u64[allowed_words]), then the embedding f32[hidden_dim].
 *
 * word  written by   read by   order and reason
 * ----- ------------ --------- -------------------------------------------------------------
 * id    producer     learner,  0 and a release fence before the slot is changed, the id with
 *                    monitor   release after; the reader checks it before and after its copy
 * rest  producer     the same  racing_copy (monitor: acquire loads of words): intended race,
 *                              checked by `id` */
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
 * Of the fast cell (what every outcome changes) and of the slow one (what a refit, Loop B or the
 * change of a task changes).  The fast block names the slow version it belongs to; that one is
 * published first.
 *
 * word     written by  read by   order and reason
 * -------- ----------- --------- ----------------------------------------------------------------
 * begun    learner     readers   relaxed store, then a release fence, before any byte of the
 *                                buffer changes; readers fence (acquire) and load it after their
 *                                reads: had they seen a changed byte, they see this too
 * version  learner     readers   release/acquire: the buffer of that version is complete
 * buffers  learner     readers   racing_copy: intended race, checked by `begun`
 *
 * So no word of a block needs a row of its own: see blocks.h. */
struct cell_header {
    shared_word begun;
    uint64_t unused0[7];
    shared_word version;
    uint64_t unused1[7];
};
_Static_assert(sizeof(struct cell_header) == 2 * CACHE_LINE, "begun and version apart");

/* A row of the reservoir: an outcome as it was learned, then its embedding f32[hidden_dim].
 * Rows from reservoir_position on are rewritten with the same values by the learner's successor.
 *
 * word      written by  read by             order and reason
 * --------- ----------- ------------------- -----------------------------------------------------
 * sequence  learner     other processes     0 and a release fence before the row is changed, its
 *                                           position + 1 with release after; a reader checks it
 *                                           before and after its copy
 *           restorer,   the same            plain, ordered by ready: ROW_ABSENT where a checkpoint
 *             once                          did not have the row
 * rest      learner     the same; learner   racing_copy: intended race, checked by `sequence`; the
 *                       and its refit       learner's own threads are ordered by reservoir_filled */
struct reservoir_row {
    shared_word sequence;
    uint64_t time_ns;
    uint32_t route;
    float quality;
    float baseline; /* mean quality over all routes at that time */
    float propensity; /* with which the route was chosen; 1 where nobody knows */
    /* predictions before this outcome was learned: route's mean, linear expert, bank */
    float base, linear, bank;
    uint32_t unused[5];
};
_Static_assert(sizeof(struct reservoir_row) == CACHE_LINE, "one line");
#define ROW_ABSENT UINT64_MAX

/* All sizes and offsets that follow from a configuration; computed by each process from the
 * validated configuration, never read from shared memory. */
struct geometry {
    uint64_t hidden_dim, rank, routes, max_workers, pending_decisions, lane_bytes, patterns,
        reservoir, base_rank, tasks;
    /* control */
    uint64_t owners_offset, config_offset, config_capacity, result_offset, result_capacity,
        errors_offset, control_bytes;
    /* ring */
    uint64_t lane_stride, lane_ring_offset, lane_slots_offset, lane_marks_offset;
    uint64_t slot_bytes, slot_embedding, allowed_words;
    uint64_t lanes_offset, ring_bytes;
    /* weights */
    uint64_t cell_offset, buffers_offset, buffer_stride;
    uint64_t slow_cell_offset, slow_buffers_offset, slow_buffer_stride;
    uint64_t reservoir_offset, reservoir_stride, reservoir_rows, weights_bytes;
    /* inside the published block */
    uint64_t micro_a, micro_b, feature_mean, reference_sum, lane_progress, pattern_uses;
    uint64_t task_detector, task_means, task_lags;
    uint64_t routes_offset, route_stride, snapshot_bytes;
    /* inside a route's part */
    uint64_t route_head, route_squared, route_ridge, route_covariance, route_bank;
    /* inside the slow block */
    uint64_t slow_projection, slow_offset, slow_centroids, pattern_stride;
    uint64_t slow_full_centroids, slow_sizes, slow_base_a, slow_base_b;
    uint64_t slow_tasks, task_stride, task_state, task_state_bytes, task_heads;
    uint64_t slow_anchors, anchor_stride, slow_begun, begun_stride, slow_bytes;
};

/* Fills the derived fields; returns NULL, or which given field is out of range. */
const char *geometry_complete(struct geometry *geometry);

#endif
