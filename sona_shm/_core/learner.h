/* The learner: drains lanes into its working block, publishes the block, frees what it learned.
 *
 * The learned state is a function of the sequence of records alone.  Publishing decides only when
 * others see it, so a learner that dies and is replaced repeats the same steps from the last
 * published version, and ends with the same weights. */
#ifndef SONA_LEARNER_H
#define SONA_LEARNER_H

#include "cell.h"
#include "journal.h"
#include "lane.h"
#include "model.h"

/* What is known of one outcome. */
struct observation {
    uint64_t id, time_ns, latency_us;
    uint32_t route, tokens;
    float quality;
    float propensity; /* with which the route was chosen; 0: not known */
    double price;  /* of the route */
    float reward;  /* filled when it was learned */
};

struct learner_options {
    float adapter_rate;
    struct learning_rates rates; /* for routed outcomes */
    uint64_t flush_threshold;    /* signals to one application of the reference rule */
    int reference;
    int keep;    /* learned trajectories stay for learner_take, in half of each lane */
    int journal; /* gather rows for it */
    double default_quality; /* of a decision without feedback; NaN: none */
    uint64_t feedback_timeout_ns;
    /* The caller's own reward of an outcome, or NULL; 0 if it failed. */
    int (*reward)(void *context, const struct observation *observation, double *reward);
    void *reward_context;
};

struct lane_release { /* what the learner gives back to the producer of one lane */
    uint64_t tail;      /* what nobody needs any more, once it is published as learned */
    uint64_t published; /* position in the published version */
    uint64_t trajectories, evicted, dropped_seen;
};

struct learner {
    struct geometry geometry;
    struct learner_options options;
    struct control_header *control;
    struct cell fast, slow;
    struct lane *lanes;
    struct lane_release *released;
    uint8_t *reservoir;
    uint8_t *work;       /* the block that the next version will be */
    uint8_t *slow_work;  /* the slow block that it belongs to */
    struct model model;  /* both */
    struct features features;
    float *embedding, *gradient;
    struct rows journal_decisions, journal_outcomes;
    int journal_is_behind; /* decisions were left at the last drain */
    uint64_t refit_due;    /* outcomes at which the next refit has to be installed */
    uint64_t refit_number; /* of the next refit; changes only while none is being prepared */
    shared_word reservoir_filled; /* release/acquire: rows below are whole, for a refit's thread */
    uint64_t version;          /* last published */
    int slow_changed;          /* the slow block is another one than the published */
    uint64_t unpublished;      /* records consumed since */
    uint64_t unpublished_signals;
    uint64_t next_lane;
};

/* Starts from the published versions; 0 if what is published are no blocks of ours. */
int learner_load(struct learner *learner);

/* Plans the next refit by what the working block says. */
void learner_schedule_refit(struct learner *learner);

/* Has the slow block published with the next version. */
void learner_slow_changed(struct learner *learner);

/* Learns the default of decisions that had their time without feedback. */
void learner_settle(struct learner *learner, uint64_t now_ns);

/* Learns up to `limit` records, a few from each lane in turn; returns how many were consumed. */
uint64_t learner_drain(struct learner *learner, uint64_t limit);

/* Learns all that every lane held when this was called. */
uint64_t learner_drain_all(struct learner *learner);

/* Applies what the reference rule has accumulated. */
void learner_apply_reference(struct learner *learner);

/* Publishes the working block as the next version, then frees ring space. */
void learner_publish(struct learner *learner, uint64_t now_ns);

/* The oldest learned trajectory of some lane that no one has taken yet: 0 if there is none.
 * `body` may be read until learner_release_taken gives its space back to the producer. */
int learner_take(struct learner *learner, struct record_header *record, const uint8_t **body,
                 uint64_t *lane);
void learner_release_taken(struct learner *learner, uint64_t lane);

/* Tells producers that the learner is about to sleep; 0 if there is something to do after all. */
int learner_may_sleep(struct learner *learner);
void learner_wakes(struct learner *learner);

/* What one record teaches; bodies lie behind the header in the lane. */
enum lesson {
    LESSON_LEARNED,
    LESSON_APPLIED,  /* changed something, but is no signal */
    LESSON_REJECTED, /* counted by its reason */
    LESSON_CORRUPT
};
/* signal.c */
enum lesson learn_trajectory(struct learner *learner, const struct record_header *record,
                             const uint8_t *body);
void learn_reference_outcome(struct learner *learner, const float *x, float quality);
void learner_mean(struct running_mean *mean, double value);
/* outcome.c */
enum lesson learn_feedback(struct learner *learner, const struct record_header *record);
enum lesson learn_outcome_record(struct learner *learner, const struct record_header *record,
                                 const uint8_t *body);
enum lesson learn_observation(struct learner *learner, const float *x, struct observation *o);
/* routes.c */
enum lesson learn_route(struct learner *learner, const struct record_header *record,
                        const uint8_t *body);

static inline struct snapshot_header *learner_header(const struct learner *learner)
{
    return (struct snapshot_header *)learner->work;
}

static inline struct lane_progress *learner_progress(const struct learner *learner)
{
    return (struct lane_progress *)(learner->work + learner->geometry.lane_progress);
}

static inline float *learner_floats(const struct learner *learner, uint64_t offset)
{
    return (float *)(learner->work + offset);
}

static inline void learner_count(struct learner *learner, enum learner_counter counter, uint64_t n)
{
    learner_header(learner)->counters[counter] += n;
}

#endif
