/* What the two cells publish: structures of the fast and of the slow block, no behaviour.
 *
 *   fast | snapshot_header | adapter, means, progress of lanes, uses of patterns | task_detector and
 *        | its means and lags | routes: route_state, head, ridge, bank
 *   slow | slow_header | projection and patterns | BaseLoRA | tasks | anchors | begun
 *
 * The learner changes both in memory of its own, and the cell protocol covers every word of them:
 * see struct cell_header.  Arrays lie at the offsets of struct geometry. */
#ifndef SONA_BLOCKS_H
#define SONA_BLOCKS_H

#include "layout.h"

/* Embeddings are projected to so many principal directions, and a constant makes it FEATURES. */
#define PROJECTED 31
#define FEATURES 32

/* Tasks that can be remembered. */
#define TASKS 8

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
    X(records_lost)                                                                                \
    X(defaults_learned)                                                                            \
    X(reward_failed)                                                                               \
    X(routes_changed)                                                                              \
    X(routes_refused)                                                                              \
    X(refits_installed)                                                                            \
    X(refits_failed)                                                                               \
    X(reservoir_corrupt)                                                                           \
    X(journal_missed)                                                                              \
    X(task_alarms)                                                                                 \
    X(tasks_begun)                                                                                 \
    X(tasks_returned)                                                                              \
    X(tasks_merged)                                                                                \
    X(cycles_installed)                                                                            \
    X(cycles_skipped)                                                                              \
    X(cycles_failed)                                                                               \
    X(heads_refitted)

#define COUNTER_ENUM(name) COUNTER_##name,
enum learner_counter { LEARNER_COUNTERS(COUNTER_ENUM) COUNTER_COUNT };
#undef COUNTER_ENUM

/* How far one lane has been learned, in the snapshot: weights and positions are one store. */
struct lane_progress {
    uint64_t epoch;
    uint64_t position;
    uint64_t records;
    uint64_t trajectories;
    uint64_t journaled; /* decisions handed to the journal */
    uint64_t settled;   /* decisions that have their outcome, or had their time */
};

/* Running mean with a horizon: an equal-weight mean at first, then exponential forgetting. */
struct running_mean {
    double mean;
    double weight;
};

/* Sum and weight under exponential forgetting. */
struct discounted {
    double sum;
    double weight;
};

enum expert { EXPERT_LINEAR, EXPERT_RIDGE, EXPERT_BANK, EXPERTS };

/* How much each expert is listened to, and the discounted least squares that say so. */
struct mixture {
    double gram[EXPERTS][EXPERTS]; /* of the experts' deviations */
    double moment[EXPERTS];        /* their products with what was observed */
    double weight[EXPERTS];
    uint64_t unused;
};
_Static_assert(sizeof(struct mixture) == 2 * CACHE_LINE, "two lines");

/* Head of the published block; arrays follow at the offsets of `struct geometry`. */
struct snapshot_header {
    uint64_t version;
    uint64_t slow_version;       /* of the patterns that this block was learned with */
    uint64_t routes;             /* route parts in use: [0, routes) */
    uint64_t experts;            /* bit mask of enum expert: which ones are mixed */
    uint64_t reservoir_position; /* rows ever written */
    uint64_t refits;             /* installed or given up */
    uint64_t reference_pending;  /* signals in the reference accumulator */
    uint64_t unused0;
    struct running_mean step_reward; /* of trajectories */
    struct running_mean quality;     /* of trajectories */
    struct running_mean outcome;     /* quality of routed outcomes */
    struct running_mean spread;      /* squared length of centred embeddings */
    struct mixture mixture;
    uint64_t counters[32];
};
_Static_assert(sizeof(struct snapshot_header) == 512, "layout");
_Static_assert(COUNTER_COUNT <= 32, "room for the counters");

enum route_flags { ROUTE_ACTIVE = 1, ROUTE_ARRIVED = 2 };

/* Head of a route's part; arrays follow at the route_* offsets of `struct geometry`. */
struct route_state {
    char name[NAME_BYTES];
    uint64_t flags;
    double cost, price;
    uint64_t outcomes;
    double reward_mean; /* for people */
    struct running_mean latency_ms, tokens; /* for people */
    struct discounted quality;  /* over all requests */
    struct discounted error;    /* of the mixture without its correction */
    struct discounted variance; /* squared errors of the mixture */
    double bias;                /* of the linear expert */
    uint64_t unused[8];
};
_Static_assert(sizeof(struct route_state) == 4 * CACHE_LINE, "layout");

/* Where the stream of requests stands among the tasks that it goes through; in the fast block.
 * Embeddings follow at task_means, one for each enum task_mean, and at task_lags two task states:
 * how things were up to TASK_LAG and 2·TASK_LAG outcomes ago. */
struct task_detector {
    uint64_t tasks;    /* known, the current one included; 0 before the first outcome */
    uint64_t current;  /* index of the one that is learned */
    uint64_t stay;     /* outcomes since it was entered */
    uint64_t lags;     /* states kept since */
    uint64_t outcomes; /* outcomes of it, in all its stays */
    uint64_t gathered; /* outcomes since an alarm that is not decided yet; 0: none */
    uint64_t seen;     /* outcomes of all tasks */
    double spread;     /* mean squared distance of an embedding to its task's centroid: Σλ of the
                          covariance */
    double product;    /* mean squared product of two successive such differences: Σλ² */
    struct discounted anchor_error, head_error; /* squared, of the linear expert: see ewc.c */
    uint64_t unused[3];
    struct task_evidence {
        double evidence; /* log-likelihood ratio of having returned to that task, from 0 up */
        double variance; /* of embeddings along the line to its centroid */
    } evidence[TASKS];
};
_Static_assert(sizeof(struct task_detector) == 4 * CACHE_LINE, "four lines");

enum task_mean { TASK_CENTROID, TASK_RECENT, TASK_GATHERED, TASK_PREVIOUS, TASK_MEANS };

/* What a task needs of one route beyond what all tasks share.  A task state is a struct mixture,
 * then one of these for each route. */
struct task_route {
    struct discounted quality, error, variance;
    double bias;
    uint64_t unused;
};
_Static_assert(sizeof(struct task_route) == CACHE_LINE, "one line");

/* A remembered task, in the slow block; its centroid f32[hidden_dim] follows, at task_state how it
 * was left, and at task_heads the head of each route.  The current task's place is older. */
struct task_header {
    uint64_t outcomes; /* learned in it */
    uint64_t routes;   /* that existed when it was left */
    uint64_t unused[6];
};
_Static_assert(sizeof(struct task_header) == CACHE_LINE, "one line");

/* What a task, or at slow_anchors all tasks but the current one, need of a route's head; f32
 * [hidden_dim] each follow: where they need it, and how much (Fisher information). */
struct anchor_header {
    double outcomes; /* that the information is of */
    uint64_t unused[7];
};
_Static_assert(sizeof(struct anchor_header) == CACHE_LINE, "one line");

/* A route as it was when the current task was entered, in the slow block; its sums of squared
 * gradients f32[hidden_dim] follow. */
struct begun_header {
    uint64_t outcomes;
    uint64_t unused[7];
};
_Static_assert(sizeof(struct begun_header) == CACHE_LINE, "one line");

/* What one pattern has seen of one route, discounted. */
struct bank_cell {
    float weight, sum, squares, unused;
};

/* How often outcomes fell into a pattern; for people, and for pruning. */
struct pattern_use {
    uint64_t count;
    uint64_t last_ns;
};

/* Head of the slow block; arrays follow at the slow_* offsets of `struct geometry`. */
struct slow_header {
    uint64_t version;
    uint64_t patterns; /* in use */
    uint64_t fitted_ns;
    uint64_t rows;     /* the fit was made from */
    uint64_t consolidations; /* of the MicroLoRA into the BaseLoRA; 0: that one is zero */
    uint64_t learned_signals; /* signals_accumulated when Loop B last installed something */
    uint64_t unused[2];
};
_Static_assert(sizeof(struct slow_header) == CACHE_LINE, "one line");

#endif
