/* See tasks.h. */
#include "tasks.h"

#include <math.h>
#include <string.h>

#include "ewc.h"
#include "kernels.h"
#include "settings.h"

#define NO_TASK UINT64_MAX
/* Nothing is divided by less. */
#define LEAST_TASK_SPREAD 1e-9

static float *mean_of(const struct model *m, enum task_mean which)
{
    return model_floats(m, m->geometry->task_means) + which * m->geometry->hidden_dim;
}

static struct task_header *memory_of(const struct model *m, uint64_t task)
{
    return (struct task_header *)(m->slow + m->geometry->slow_tasks +
                                  task * m->geometry->task_stride);
}

static float *centroid_of(const struct model *m, uint64_t task)
{
    return (float *)(memory_of(m, task) + 1);
}

static uint8_t *state_of(const struct model *m, uint64_t task)
{
    return (uint8_t *)memory_of(m, task) + m->geometry->task_state;
}

static uint8_t *lag_of(const struct model *m, uint64_t lag)
{
    return m->block + m->geometry->task_lags + lag * m->geometry->task_state_bytes;
}

/* ---- what a task needs beyond what all share ---- */

static struct task_route *routes_of(uint8_t *state)
{
    return (struct task_route *)(state + sizeof(struct mixture));
}

static void copy_state(const struct model *m, uint8_t *state)
{
    struct task_route *row = routes_of(state);
    memcpy(state, &model_header(m)->mixture, sizeof(struct mixture));
    for (uint64_t k = 0; k < model_routes(m); k++) {
        const struct route_state *route = model_route(m, k);
        row[k] = (struct task_route){route->quality, route->error, route->variance, route->bias, 0};
    }
}

/* Routes that came since keep what they have. */
static void resume_state(const struct model *m, const uint8_t *state, uint64_t routes)
{
    const struct task_route *row = routes_of((uint8_t *)state);
    memcpy(&model_header(m)->mixture, state, sizeof(struct mixture));
    for (uint64_t k = 0; k < routes && k < model_routes(m); k++) {
        struct route_state *route = model_route(m, k);
        route->quality = row[k].quality;
        route->error = row[k].error;
        route->variance = row[k].variance;
        route->bias = row[k].bias;
    }
}

static void keep_lags(const struct model *m)
{
    struct task_detector *d = model_detector(m);
    if (d->stay % TASK_LAG) return;
    memcpy(lag_of(m, 1), lag_of(m, 0), m->geometry->task_state_bytes);
    copy_state(m, lag_of(m, 0));
    d->lags += 1;
}

/* The state from before whatever has just begun: the oldest one that is of this stay. */
static void copy_earlier_state(const struct model *m, uint8_t *state)
{
    const uint64_t lags = model_detector(m)->lags;
    if (lags == 0) copy_state(m, state);
    else memcpy(state, lag_of(m, lags > 1), m->geometry->task_state_bytes);
}

/* ---- memory ---- */

static void remember_current(const struct model *m)
{
    const struct task_detector *d = model_detector(m);
    struct task_header *memory = memory_of(m, d->current);
    memory->outcomes = d->outcomes;
    memory->routes = model_routes(m);
    memcpy(memory + 1, mean_of(m, TASK_CENTROID), m->geometry->hidden_dim * sizeof(float));
    copy_earlier_state(m, state_of(m, d->current));
    heads_remember(m, d->current);
}

static void add_sums(struct discounted *to, const struct discounted *from)
{
    to->sum += from->sum;
    to->weight += from->weight;
}

static void merge_states(const struct model *m, uint64_t into, uint64_t from, double share)
{
    struct mixture *mixture = (struct mixture *)state_of(m, into);
    const struct mixture *other = (const struct mixture *)state_of(m, from);
    for (int i = 0; i < EXPERTS; i++) {
        for (int j = 0; j < EXPERTS; j++) mixture->gram[i][j] += other->gram[i][j];
        mixture->moment[i] += other->moment[i];
        mixture->weight[i] += share * (other->weight[i] - mixture->weight[i]);
    }
    struct task_route *row = routes_of(state_of(m, into));
    const struct task_route *added = routes_of(state_of(m, from));
    for (uint64_t k = 0; k < memory_of(m, from)->routes && k < m->geometry->routes; k++) {
        if (k >= memory_of(m, into)->routes) {
            row[k] = added[k];
            continue;
        }
        add_sums(&row[k].quality, &added[k].quality);
        add_sums(&row[k].error, &added[k].error);
        add_sums(&row[k].variance, &added[k].variance);
        row[k].bias += share * (added[k].bias - row[k].bias);
    }
}

/* Makes one task of two; the second one's place is free then. */
static void merge_tasks(const struct model *m, uint64_t into, uint64_t from)
{
    struct task_header *kept = memory_of(m, into), *other = memory_of(m, from);
    const double all = (double)(kept->outcomes + other->outcomes);
    const double share = all > 0.0 ? (double)other->outcomes / all : 0.5;
    merge_states(m, into, from, share);
    heads_merge(m, into, from);
    move_towards(centroid_of(m, into), centroid_of(m, from), (float)share, m->geometry->hidden_dim);
    kept->outcomes += other->outcomes;
    if (other->routes > kept->routes) kept->routes = other->routes;
    model_header(m)->counters[COUNTER_tasks_merged] += 1;
}

/* A place for a new task: an unused one, or the one of the two most similar tasks. */
static uint64_t free_place(const struct model *m)
{
    struct task_detector *d = model_detector(m);
    if (d->tasks < m->geometry->tasks) return d->tasks++;
    uint64_t into = 0, from = 1;
    float least = INFINITY, squared, unused;
    for (uint64_t i = 0; i < d->tasks; i++)
        for (uint64_t j = i + 1; j < d->tasks; j++) {
            centred_products(centroid_of(m, i), centroid_of(m, i), centroid_of(m, j),
                             m->geometry->hidden_dim, &squared, &unused);
            if (squared < least) least = squared, into = i, from = j;
        }
    merge_tasks(m, into, from);
    return from;
}

/* ---- boundaries ---- */

static void enter_task(const struct model *m, uint64_t task, uint64_t outcomes,
                       const float *centroid)
{
    struct task_detector *d = model_detector(m);
    const size_t row = m->geometry->hidden_dim * sizeof(float);
    d->current = task;
    d->stay = d->lags = d->gathered = 0;
    d->outcomes = outcomes;
    memmove(mean_of(m, TASK_CENTROID), centroid, row);
    memcpy(mean_of(m, TASK_RECENT), mean_of(m, TASK_CENTROID), row);
    const double usual = d->product / (d->spread + LEAST_TASK_SPREAD);
    for (uint64_t i = 0; i < TASKS; i++) d->evidence[i] = (struct task_evidence){0.0, usual};
}

static void begin_task(const struct model *m)
{
    const uint64_t gathered = model_detector(m)->gathered;
    remember_current(m);
    const uint64_t place = free_place(m);
    heads_forget(m, place);
    enter_task(m, place, gathered, mean_of(m, TASK_GATHERED));
    anchors_consolidate(m);
    model_header(m)->counters[COUNTER_tasks_begun] += 1;
}

static void return_to(const struct model *m, uint64_t task)
{
    const struct task_header *memory = memory_of(m, task);
    remember_current(m);
    resume_state(m, state_of(m, task), memory->routes);
    heads_resume(m, task);
    enter_task(m, task, memory->outcomes, centroid_of(m, task));
    anchors_consolidate(m);
    model_header(m)->counters[COUNTER_tasks_returned] += 1;
}

/* ---- detection ---- */

/* Squared distance of a mean from the centroid, in standard deviations beyond what chance makes of
 * it; `share` is the variance of the mean over that of one embedding. */
static double surprise(const struct model *m, enum task_mean mean, double share)
{
    const struct task_detector *d = model_detector(m);
    const float *x = mean_of(m, mean);
    float squared, unused;
    centred_products(x, x, mean_of(m, TASK_CENTROID), m->geometry->hidden_dim, &squared, &unused);
    const double deviation = share * sqrt(2.0 * d->product) + LEAST_TASK_SPREAD;
    return (squared - share * d->spread) / deviation;
}

static void spread_learn(const struct model *m, const float *x)
{
    struct task_detector *d = model_detector(m);
    const size_t n = m->geometry->hidden_dim;
    float *previous = mean_of(m, TASK_PREVIOUS);
    float squared, product;
    centred_products(x, previous, mean_of(m, TASK_CENTROID), n, &squared, &product);
    const double seen = (double)d->seen;
    const double share = 1.0 / (seen < TASK_HORIZON ? seen : TASK_HORIZON);
    d->spread += share * (squared - d->spread);
    d->product += share * ((double)product * product - d->product);
    memcpy(previous, x, n * sizeof(float));
}

/* The known task that the stream has returned to, or NO_TASK. */
static uint64_t recognised(const struct model *m, const float *x)
{
    struct task_detector *d = model_detector(m);
    const double least = TASK_LEAST_VARIANCE * d->product / (d->spread + LEAST_TASK_SPREAD);
    uint64_t found = NO_TASK;
    double strongest = TASK_EVIDENCE;
    for (uint64_t i = 0; i < d->tasks; i++) {
        if (i == d->current) continue;
        struct task_evidence *e = &d->evidence[i];
        float squared, product;
        centred_products(centroid_of(m, i), x, mean_of(m, TASK_CENTROID), m->geometry->hidden_dim,
                         &squared, &product);
        if (squared <= LEAST_TASK_SPREAD) continue;
        const double along = (double)product * product / squared;
        e->variance += (along - e->variance) / TASK_VARIANCE_HORIZON;
        const double variance = fmax(e->variance, least) + LEAST_TASK_SPREAD;
        e->evidence = fmax(0.0, e->evidence + (product - 0.5 * squared) / variance);
        if (e->evidence > strongest) strongest = e->evidence, found = i;
    }
    return found;
}

/* After an alarm: embeddings since then decide whether a new task has begun. */
static int gather(const struct model *m, const float *x)
{
    struct task_detector *d = model_detector(m);
    const size_t n = m->geometry->hidden_dim;
    d->gathered += 1;
    move_towards(mean_of(m, TASK_GATHERED), x, 1.0f / (float)d->gathered, n);
    if (d->gathered >= TASK_LEAST_GATHERED &&
        surprise(m, TASK_GATHERED, 1.0 / (double)d->gathered) > TASK_NEW) {
        begin_task(m);
        return 1;
    }
    if (d->gathered >= TASK_MOST_GATHERED) {
        d->gathered = 0;
        memcpy(mean_of(m, TASK_RECENT), mean_of(m, TASK_CENTROID), n * sizeof(float));
    }
    return 0;
}

static void watch(const struct model *m, const float *x)
{
    struct task_detector *d = model_detector(m);
    const size_t n = m->geometry->hidden_dim;
    d->outcomes += 1;
    const double weight = (double)d->outcomes < TASK_HORIZON ? (double)d->outcomes : TASK_HORIZON;
    move_towards(mean_of(m, TASK_CENTROID), x, (float)(1.0 / weight), n);
    keep_lags(m);
    if (d->seen < TASK_WARM_UP || d->stay < TASK_LEAST_STAY) return;
    const double share = TASK_SHARE / (2.0 - TASK_SHARE) + 1.0 / weight;
    if (surprise(m, TASK_RECENT, share) <= TASK_ALARM) return;
    d->gathered = 1;
    memcpy(mean_of(m, TASK_GATHERED), x, n * sizeof(float));
    model_header(m)->counters[COUNTER_task_alarms] += 1;
}

static void first_task(const struct model *m, const float *x)
{
    struct task_detector *d = model_detector(m);
    d->tasks = 1;
    memcpy(mean_of(m, TASK_PREVIOUS), x, m->geometry->hidden_dim * sizeof(float));
    enter_task(m, 0, 1, x);
}

int tasks_are_sound(const struct model *m)
{
    const struct task_detector *d = model_detector(m);
    if (d->tasks == 0) return 1;
    return d->tasks <= m->geometry->tasks && d->current < d->tasks;
}

int tasks_observe(const struct model *m, const float *x)
{
    struct task_detector *d = model_detector(m);
    if (m->geometry->tasks < 2) return 0;
    d->seen += 1;
    if (d->tasks == 0) {
        first_task(m, x);
        return 0;
    }
    spread_learn(m, x);
    d->stay += 1;
    const uint64_t task = recognised(m, x);
    if (task != NO_TASK) {
        return_to(m, task);
        return 1;
    }
    move_towards(mean_of(m, TASK_RECENT), x, (float)TASK_SHARE, m->geometry->hidden_dim);
    if (d->gathered) return gather(m, x);
    watch(m, x);
    return 0;
}
