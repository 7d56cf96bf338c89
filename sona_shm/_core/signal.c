/* What the steps of a trajectory teach: they move the adapter.  docs/architecture.md gives the
 * formulas and their reasons. */
#include <math.h>
#include <string.h>

#include "kernels.h"
#include "learner.h"

/* Baselines average over this many observations, then forget exponentially. */
#define BASELINE_HORIZON 1000.0
/* One reward counts at most this much in the baseline. */
#define LARGEST_REWARD 1e3

void learner_mean(struct running_mean *mean, double value)
{
    if (mean->weight < BASELINE_HORIZON) mean->weight += 1.0;
    mean->mean += (value - mean->mean) / mean->weight;
}

static float clamp_unit(double value)
{
    return (float)(value < -1.0 ? -1.0 : value > 1.0 ? 1.0 : value);
}

/* ---- steps of a trajectory ---- */

struct step_cursor {
    const uint8_t *at, *end;
    uint32_t left;
    uint64_t hidden_dim;
};

struct step_view {
    float reward;
    const float *activations;
};

/* The next step, if it lies whole inside the record. */
static int next_step(struct step_cursor *cursor, struct step_view *step)
{
    const uint64_t row = cursor->hidden_dim * sizeof(float);
    struct step_header header;
    if ((uint64_t)(cursor->end - cursor->at) < sizeof header + row) return 0;
    memcpy(&header, cursor->at, sizeof header);
    const uint8_t *activations = cursor->at + sizeof header;
    const uint64_t attention = (uint64_t)header.attention_count * sizeof(float);
    if ((uint64_t)(cursor->end - activations) < row + attention) return 0;
    step->reward = header.reward;
    step->activations = (const float *)activations;
    cursor->at = activations + row + attention;
    cursor->left -= 1;
    return 1;
}

static struct step_cursor steps_of(const struct learner *l, const struct record_header *record,
                                   const uint8_t *body)
{
    const uint64_t row = l->geometry.hidden_dim * sizeof(float);
    struct step_cursor cursor = {body + row, body + record->length - sizeof *record, record->steps,
                                 l->geometry.hidden_dim};
    return cursor;
}

/* Whether every part lies inside the record and every reward is a number. */
static enum lesson check_steps(struct step_cursor cursor, uint64_t extra_bytes, double *mean_reward,
                               int *equal_rewards)
{
    double sum = 0.0;
    float first = 0.0f;
    const uint32_t count = cursor.left;
    *equal_rewards = 1;
    while (cursor.left) {
        struct step_view step;
        if (!next_step(&cursor, &step)) return LESSON_CORRUPT;
        if (!isfinite(step.reward)) return LESSON_REJECTED;
        if (cursor.left + 1 == count) first = step.reward;
        if (step.reward != first) *equal_rewards = 0;
        sum += step.reward;
    }
    if ((uint64_t)(cursor.end - cursor.at) < extra_bytes) return LESSON_CORRUPT;
    *mean_reward = count ? sum / count : 0.0;
    return LESSON_LEARNED;
}

/* ---- the two rules ---- */

/* Moves the adapted embedding along each step's activations by that step's signed advantage: half
 * of its own reward's and half of the final quality's, each over a population baseline. */
static int exact_rule(struct learner *l, const float *x, struct step_cursor cursor, float quality)
{
    const struct geometry *g = &l->geometry;
    const size_t n = g->hidden_dim;
    const struct snapshot_header *header = learner_header(l);
    const int based = model_has_base(&l->model);
    const struct adapter adapter = {
        .a = learner_floats(l, g->micro_a),
        .b = learner_floats(l, g->micro_b),
        .rank = g->rank,
        .n = n,
        .rate = l->options.adapter_rate,
        .base_a = based ? model_slow_floats(&l->model, g->slow_base_a) : NULL,
        .base_b = based ? model_slow_floats(&l->model, g->slow_base_b) : NULL,
        .base_rank = g->base_rank,
    };
    const double advantage = quality - header->quality.mean;
    if (cursor.left == 0) return learn_direction(&adapter, x, x, clamp_unit(advantage));

    const uint32_t count = cursor.left;
    struct step_view step;
    if (count == 1) {
        if (!next_step(&cursor, &step)) return 0;
        const double credit = 0.5 * (step.reward - header->step_reward.mean + advantage);
        return learn_direction(&adapter, x, step.activations, clamp_unit(credit));
    }
    memset(l->gradient, 0, n * sizeof(float));
    while (cursor.left && next_step(&cursor, &step)) {
        const double credit = 0.5 * (step.reward - header->step_reward.mean + advantage);
        const float norm = sqrtf(squared_norm(step.activations, n));
        if (!isfinite(norm)) return 0;
        if (norm > 0.0f)
            add_scaled(l->gradient, clamp_unit(credit) / (norm * (float)count), step.activations, n);
    }
    return learn_direction(&adapter, x, l->gradient, sqrtf(squared_norm(l->gradient, n)));
}

/* The published crate's arithmetic (shared rows of B, A fixed), applied every flush_threshold. */
static int reference_rule(struct learner *l, const float *x, struct step_cursor cursor,
                          float quality, float baseline)
{
    const size_t n = l->geometry.hidden_dim;
    const float *gradient = x;
    if (cursor.left) {
        struct step_view step;
        memset(l->gradient, 0, n * sizeof(float));
        while (cursor.left && next_step(&cursor, &step))
            add_scaled(l->gradient, step.reward - baseline, step.activations, n);
        const float norm = sqrtf(squared_norm(l->gradient, n));
        if (norm > 0.0f) add_scaled(l->gradient, 1.0f / norm - 1.0f, l->gradient, n);
        gradient = l->gradient;
    }
    if (!isfinite(squared_norm(gradient, n)) || !isfinite(squared_norm(x, n))) return 0;
    add_scaled(learner_floats(l, l->geometry.reference_sum), quality, gradient, n);
    if (++learner_header(l)->reference_pending >= l->options.flush_threshold)
        learner_apply_reference(l);
    return 1;
}

void learner_apply_reference(struct learner *l)
{
    struct snapshot_header *header = learner_header(l);
    const struct geometry *g = &l->geometry;
    const uint64_t pending = header->reference_pending;
    if (pending == 0) return;
    float *sum = learner_floats(l, g->reference_sum), *b = learner_floats(l, g->micro_b);
    for (uint64_t r = 0; r < g->rank; r++)
        add_scaled(b + r * g->hidden_dim, l->options.adapter_rate / (float)pending, sum,
                   g->hidden_dim);
    memset(sum, 0, g->hidden_dim * sizeof *sum);
    header->reference_pending = 0;
    learner_count(l, COUNTER_flushes_performed, 1);
    learner_count(l, COUNTER_updates_applied, pending);
}

/* ---- records ---- */

enum lesson learn_trajectory(struct learner *l, const struct record_header *record,
                             const uint8_t *body)
{
    const struct geometry *g = &l->geometry;
    const uint64_t row = g->hidden_dim * sizeof(float);
    if (record->hidden_dim != g->hidden_dim || record->length - sizeof *record < row)
        return LESSON_CORRUPT;
    const float *x = (const float *)body;
    const struct step_cursor cursor = steps_of(l, record, body);
    double mean_reward;
    int equal_rewards;
    enum lesson lesson = check_steps(cursor, record->extra_bytes, &mean_reward, &equal_rewards);
    if (lesson != LESSON_LEARNED) return lesson;
    if (!(record->quality >= 0.0f && record->quality <= 1.0f)) return LESSON_REJECTED;

    const int learned = l->options.reference
                            ? reference_rule(l, x, cursor, record->quality,
                                             equal_rewards ? 0.0f : (float)mean_reward)
                            : exact_rule(l, x, cursor, record->quality);
    if (!learned) return LESSON_REJECTED;
    struct snapshot_header *header = learner_header(l);
    learner_mean(&header->quality, record->quality);
    if (record->steps)
        learner_mean(&header->step_reward, fmin(fmax(mean_reward, -LARGEST_REWARD), LARGEST_REWARD));
    memcpy(l->embedding, x, row);
    if (record->route != NO_ROUTE && limit_length(l->embedding, g->hidden_dim)) {
        struct observation o = {.time_ns = record->time_ns,
                                .latency_us = record->latency_us,
                                .route = record->route,
                                .quality = record->quality};
        learn_observation(l, l->embedding, &o);
    }
    return LESSON_LEARNED;
}

void learn_reference_outcome(struct learner *l, const float *x, float quality)
{
    const struct step_cursor no_steps = {0};
    reference_rule(l, x, no_steps, quality, 0.0f);
}
