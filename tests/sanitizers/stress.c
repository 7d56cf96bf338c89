/* Stress of lane, cell and learner with threads in place of processes, so that ThreadSanitizer
 * sees both sides.  stress MODE ROUNDS SEED; status 0 if every check held.
 *
 *   lane     one producer, one consumer: wraps, full lanes, quarantine and restart; every record
 *            carries a checksum, and produced = consumed + lost.
 *   cell     one writer, two readers: every copy carries one stamp, stamps never go back.
 *   engine   workers that route, record and give feedback, a learner, a reader of the weights.
 *
 * gcc's ThreadSanitizer does not model atomic_thread_fence (hence -Wno-tsan).  What the fences
 * order are the bytes of cells and decision slots, which are read while they may change: those
 * copies go through racing_copy (race.h), which is not instrumented, so a missing fence is neither
 * reported nor hidden by TSan.  The checksums here, at -O3 and without TSan, are what tests the
 * fences; TSan tests everything else, that is all that is ordered by head, tail, epoch, version. */
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decide.h"
#include "identifier.h"
#include "kernels.h"
#include "learner.h"
#include "race.h"
#include "refit.h"

#define WORKERS 2
#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "line %d: %s\n", __LINE__, #condition);                                \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static struct geometry geometry = {.hidden_dim = 32,
                                   .rank = 2,
                                   .routes = 3,
                                   .max_workers = WORKERS,
                                   .pending_decisions = 64,
                                   .lane_bytes = PAGE,
                                   .patterns = 4,
                                   .reservoir = 64,
                                   .base_rank = 4,
                                   .tasks = 2};
static uint8_t *control, *ring, *weights;
static uint64_t rounds, seed;
static _Atomic int running;

static uint8_t *segment(uint64_t bytes)
{
    uint8_t *memory = aligned_alloc(PAGE, (bytes + PAGE - 1) / PAGE * PAGE);
    CHECK(memory);
    return memset(memory, 0, bytes);
}

static void start(pthread_t *thread, void *(*body)(void *), void *argument)
{
    CHECK(pthread_create(thread, NULL, body, argument) == 0);
}

static int is_running(void) { return atomic_load_explicit(&running, memory_order_relaxed); }

/* ---- lane ---- */

static uint64_t checksum(const uint8_t *bytes, uint64_t count)
{
    uint64_t sum = 1469598103934665603u;
    for (uint64_t i = 0; i < count; i++) sum = (sum ^ bytes[i]) * 1099511628211u;
    return sum;
}

static void *lane_producer(void *argument)
{
    struct producer *p = argument;
    struct random_stream random;
    random_seed(&random, seed);
    for (uint64_t made = 0; made < rounds;) {
        const uint64_t length = CACHE_LINE * (1 + (uint64_t)(random_uniform(&random) * 30.0));
        uint8_t *at = producer_reserve(p, length);
        if (!at) {
            producer_drop(p);
            sched_yield();
            continue;
        }
        struct record_header *record = (struct record_header *)at;
        uint8_t *body = at + sizeof *record;
        const uint64_t body_bytes = length - sizeof *record;
        memset(body, (int)(made & 0xff), body_bytes);
        *record = (struct record_header){.length = (uint32_t)length, .kind = RECORD_TRAJECTORY};
        record->id = made;
        record->time_ns = checksum(body, body_bytes) ^ made;
        producer_commit(p, length, RECORD_TRAJECTORY);
        made++;
    }
    return NULL;
}

struct consumption {
    struct lane lane;
    uint64_t consumed, lost, quarantines;
};

/* Takes a turn at the lane as the learner does; sometimes refuses it as if it were corrupt. */
static int consume_turn(struct consumption *c, struct lane_progress *progress, uint64_t *next_id,
                        struct random_stream *random)
{
    struct lane_header *h = c->lane.header;
    c->lost += lane_follow_epoch(&c->lane, progress);
    if (load_relaxed(&h->quarantined) == progress->epoch + 1) return 0;
    uint64_t head;
    CHECK(lane_head(&c->lane, progress->position, &head));
    int turns = 0;
    struct record_header record;
    const uint8_t *body;
    for (;; turns++) {
        const enum lane_state state = lane_next(&c->lane, progress, head, &record, &body);
        if (state == LANE_EMPTY) break;
        CHECK(state == LANE_RECORD && record.kind == RECORD_TRAJECTORY);
        CHECK(record.id >= *next_id); /* in order; gaps only where a quarantine lost records */
        CHECK(record.id == *next_id || c->quarantines);
        CHECK((checksum(body, record.length - sizeof record) ^ record.id) == record.time_ns);
        *next_id = record.id + 1;
        progress->position += record.length;
        progress->records += 1;
        c->consumed += 1;
    }
    if (turns && random_uniform(random) < 0.01) {
        lane_quarantine(&c->lane, progress);
        c->quarantines += 1;
        return turns;
    }
    if (turns) store_release(&h->tail, progress->position);
    return turns;
}

static void *lane_consumer(void *argument)
{
    struct consumption *c = argument;
    struct lane_progress progress = {0};
    struct random_stream random;
    random_seed(&random, seed + 1);
    uint64_t next_id = 0;
    while (is_running()) consume_turn(c, &progress, &next_id, &random);
    /* The producer is done; a lane that stands refused is not read any more. */
    while (consume_turn(c, &progress, &next_id, &random)) continue;
    c->lost += load_relaxed(&c->lane.header->trajectories) - progress.records;
    return NULL;
}

static void stress_lane(void)
{
    pthread_t producing, consuming;
    struct producer producer;
    struct consumption consumption = {.lane = lane_at(ring, &geometry, 0)};
    producer_claim(&producer, &consumption.lane);
    start(&consuming, lane_consumer, &consumption);
    start(&producing, lane_producer, &producer);
    pthread_join(producing, NULL);
    atomic_store(&running, 0);
    pthread_join(consuming, NULL);
    printf("lane: %llu produced, %llu consumed, %llu lost, %llu quarantines, %llu dropped\n",
           (unsigned long long)rounds, (unsigned long long)consumption.consumed,
           (unsigned long long)consumption.lost, (unsigned long long)consumption.quarantines,
           (unsigned long long)producer.dropped);
    CHECK(consumption.consumed + consumption.lost == rounds);
    CHECK(consumption.consumed > rounds / 4 && consumption.quarantines && producer.dropped);
}

/* ---- cell ---- */

static void *cell_writer(void *argument)
{
    const struct cell cell = fast_cell(weights, &geometry);
    const uint64_t words = geometry.snapshot_bytes / sizeof(uint64_t);
    const struct cell slow = slow_cell(weights, &geometry);
    uint64_t *block = argument;
    for (uint64_t version = 1; version <= rounds; version++) {
        for (uint64_t i = 0; i < words; i++) block[i] = version;
        /* the stamp is the slow version that the block names, too */
        racing_copy(cell_begin(&slow, version), block, geometry.slow_bytes);
        cell_publish(&slow, version);
        racing_copy(cell_begin(&cell, version), block, geometry.snapshot_bytes);
        cell_publish(&cell, version);
    }
    atomic_store(&running, 0);
    return NULL;
}

static void *cell_reader(void *argument)
{
    const struct cell cell = fast_cell(weights, &geometry);
    const struct cell slow = slow_cell(weights, &geometry);
    const uint64_t words = geometry.snapshot_bytes / sizeof(uint64_t);
    uint64_t *block = malloc(geometry.snapshot_bytes), last = 0, *reads = argument;
    uint64_t *slow_block = malloc(geometry.slow_bytes);
    CHECK(block && slow_block);
    do {
        CHECK(cell_copy(&cell, &slow, &geometry, (uint8_t *)block, (uint8_t *)slow_block));
        for (uint64_t i = 1; i < words; i++) CHECK(block[i] == block[0]);
        for (uint64_t i = 0; i < geometry.slow_bytes / sizeof *slow_block; i++)
            CHECK(slow_block[i] == block[0]);
        CHECK(block[0] >= last);
        last = block[0];
        *reads += 1;
    } while (is_running());
    free(block);
    free(slow_block);
    return NULL;
}

static void stress_cell(void)
{
    pthread_t writer, reader[2];
    uint64_t reads[2] = {0, 0};
    uint64_t *block = malloc(geometry.snapshot_bytes);
    CHECK(block);
    start(&writer, cell_writer, block);
    for (int i = 0; i < 2; i++) start(&reader[i], cell_reader, &reads[i]);
    pthread_join(writer, NULL);
    for (int i = 0; i < 2; i++) pthread_join(reader[i], NULL);
    free(block);
    printf("cell: %llu versions, %llu and %llu reads\n", (unsigned long long)rounds,
           (unsigned long long)reads[0], (unsigned long long)reads[1]);
}

/* ---- engine ---- */

struct worker {
    uint64_t index, recorded;
};

struct fitting {
    struct learner *learner;
    struct patterns_fit fit;
    struct refit *refit;
};

static void put_feedback(struct producer *p, struct worker *w, uint64_t id, float quality)
{
    uint8_t *at = producer_reserve(p, sizeof(struct record_header));
    if (!at) {
        producer_drop(p);
        return;
    }
    const struct record_header record = {.length = sizeof record,
                                         .kind = RECORD_FEEDBACK,
                                         .id = id,
                                         .quality = quality,
                                         .route = NO_ROUTE};
    memcpy(at, &record, sizeof record);
    producer_commit(p, sizeof record, RECORD_FEEDBACK);
    w->recorded += 1;
}

static void put_trajectory(struct producer *p, struct worker *w, const float *x, float quality)
{
    const uint64_t row = geometry.hidden_dim * sizeof(float);
    const uint64_t length = sizeof(struct record_header) + row;
    uint8_t *at = producer_reserve(p, length);
    if (!at) {
        producer_drop(p);
        return;
    }
    const struct record_header record = {.length = (uint32_t)length,
                                         .kind = RECORD_TRAJECTORY,
                                         .quality = quality,
                                         .route = NO_ROUTE,
                                         .hidden_dim = (uint32_t)geometry.hidden_dim};
    memcpy(at, &record, sizeof record);
    memcpy(at + sizeof record, x, row);
    producer_commit(p, length, RECORD_TRAJECTORY);
    w->recorded += 1;
}

/* What shm/memory.py writes when a process takes a lane; called before any id is made. */
static uint64_t claim(uint64_t index)
{
    struct control_header *header = (struct control_header *)control;
    struct lane_owner *owners = (struct lane_owner *)(control + geometry.owners_offset);
    const uint64_t generation = identifier_first_generation(header->identity.creation_id);
    store_relaxed(&owners[index].generation, generation);
    return generation;
}

static void *engine_worker(void *argument)
{
    struct worker *w = argument;
    const struct lane lane = lane_at(ring, &geometry, w->index);
    struct producer producer;
    float embedding[32], adapted[32], dot[3];
    double score[3], deviation[3], probability[3], usual;
    uint32_t route[3];
    uint64_t allowed;
    struct decider decider = {.geometry = geometry,
                              .fast = fast_cell(weights, &geometry),
                              .slow = slow_cell(weights, &geometry),
                              .policy = policy_named("maillard", &usual),
                              .strength = 0.35,
                              .embedding = embedding,
                              .allowed = &allowed,
                              .features.adapted = adapted,
                              .dot = dot,
                              .candidates = {.route = route,
                                             .score = score,
                                             .deviation = deviation,
                                             .probability = probability}};
    const uint64_t base = identifier_base(w->index, claim(w->index));
    CHECK(decider.policy);
    random_seed(&decider.random, seed + w->index);
    producer_claim(&producer, &lane);
    for (uint64_t i = 0; i < rounds; i++) {
        struct choice choice;
        for (int k = 0; k < 32; k++) embedding[k] = (float)random_uniform(&decider.random);
        CHECK(limit_length(embedding, 32));
        const float quality = (float)random_uniform(&decider.random);
        allowed = UINT64_MAX;
        CHECK(decide(&decider, &choice) == DECIDE_DONE);
        const uint64_t id = remember(&decider, &producer, base, &choice, i);
        put_feedback(&producer, w, id, quality);
        /* an old decision, whose slot may be changing while the learner reads it */
        if (i > 80) put_feedback(&producer, w, id - 60 - i % 10, quality);
        put_trajectory(&producer, w, embedding, quality);
        if (i % 64 == 0) sched_yield();
    }
    return NULL;
}

static void *prepare(void *argument)
{
    struct fitting *fitting = argument;
    fitting->refit = refit_prepare(fitting->learner, &fitting->fit,
                                   refit_begins_at(fitting->learner->refit_number));
    return NULL;
}

/* Patterns that are no fit, but tell one embedding from another. */
static void refit_by_hand(struct learner *l)
{
    static float projection[PROJECTED * 32], offset[PROJECTED], centroids[2 * PROJECTED], full[64];
    const uint64_t sizes[2] = {1, 1};
    struct fitting fitting = {.learner = l,
                              .fit = {projection, offset, centroids, full, sizes, 2, 1, 1}};
    pthread_t thread;
    for (int i = 0; i < PROJECTED; i++) projection[i * 32 + i] = 1.0f;
    centroids[0] = full[0] = 1.0f;
    centroids[PROJECTED + 1] = full[32 + 1] = 1.0f;
    start(&thread, prepare, &fitting);
    pthread_join(thread, NULL);
    CHECK(fitting.refit);
    refit_install(l, fitting.refit);
    refit_done(l, 1);
    refit_free(fitting.refit);
    learner_publish(l, 1);
}

static void *engine_learner(void *argument)
{
    struct learner *l = argument;
    int last_turn;
    do {
        last_turn = !is_running();
        while (learner_drain(l, 16)) {
            learner_publish(l, 1);
            if (refit_is_due(l)) refit_by_hand(l);
        }
        if (learner_may_sleep(l)) learner_wakes(l);
    } while (!last_turn);
    return NULL;
}

static void *engine_reader(void *argument)
{
    const struct cell cell = fast_cell(weights, &geometry);
    const struct cell slow = slow_cell(weights, &geometry);
    uint8_t *block = malloc(geometry.snapshot_bytes), *slow_block = malloc(geometry.slow_bytes);
    float x[32] = {1.0f}, out[32], scratch[2 * (2 + 4) * 32];
    uint64_t last = 0;
    (void)argument;
    CHECK(block && slow_block);
    while (is_running()) {
        CHECK(cell_apply(&cell, &slow, &geometry, x, out, 1, scratch) == APPLY_DONE);
        CHECK(cell_copy(&cell, &slow, &geometry, block, slow_block));
        const uint64_t version = ((const struct snapshot_header *)block)->version;
        CHECK(version >= last);
        last = version;
        CHECK(((const struct snapshot_header *)block)->slow_version ==
              ((const struct slow_header *)slow_block)->version);
    }
    free(block);
    free(slow_block);
    return NULL;
}

static void make_learner(struct learner *l, struct lane *lanes, struct lane_release *released)
{
    float *rows = (float *)segment(3 * geometry.hidden_dim * sizeof(float));
    *l = (struct learner){.geometry = geometry,
                          .options = {.adapter_rate = 0.002f,
                                      .rates = {.adapter = 0.002f,
                                                .head = 0.12f,
                                                .ewc = 1.0,
                                                .forgetting = 1.0},
                                      .flush_threshold = 16,
                                      .default_quality = NAN},
                          .control = (struct control_header *)control,
                          .fast = fast_cell(weights, &geometry),
                          .slow = slow_cell(weights, &geometry),
                          .lanes = lanes,
                          .released = released,
                          .reservoir = weights + geometry.reservoir_offset,
                          .work = segment(geometry.snapshot_bytes),
                          .slow_work = segment(geometry.slow_bytes),
                          .features.adapted = rows + geometry.hidden_dim,
                          .embedding = rows,
                          .gradient = rows + 2 * geometry.hidden_dim};
    for (uint64_t i = 0; i < WORKERS; i++) lanes[i] = lane_at(ring, &geometry, i);
    l->model = (struct model){&l->geometry, l->work, l->slow_work};
    CHECK(learner_load(l));
}

/* The first published block: three routes. */
static void make_routes(void)
{
    static char names[3][NAME_BYTES] = {"a", "b", "c"};
    uint8_t *block = weights + geometry.buffers_offset;
    const struct model model = {&geometry, block, NULL};
    model_header(&model)->experts = (1u << EXPERTS) - 1;
    for (int i = 0; i < 3; i++) {
        const struct route_start first = {
            .name = names[i], .expected = NAN, .like = NO_ROUTE, .flags = ROUTE_ACTIVE};
        CHECK(model_add_route(&model, &first));
    }
}

static void stress_engine(void)
{
    pthread_t worker[WORKERS], learning, reading;
    struct worker state[WORKERS] = {{0}};
    struct lane lanes[WORKERS];
    struct lane_release released[WORKERS] = {{0}};
    struct learner learner;
    uint64_t recorded = 0, explained = 0;
    make_routes();
    make_learner(&learner, lanes, released);
    start(&learning, engine_learner, &learner);
    start(&reading, engine_reader, NULL);
    for (uint64_t i = 0; i < WORKERS; i++) {
        state[i].index = i;
        start(&worker[i], engine_worker, &state[i]);
    }
    for (uint64_t i = 0; i < WORKERS; i++) {
        pthread_join(worker[i], NULL);
        recorded += state[i].recorded;
    }
    atomic_store(&running, 0);
    pthread_join(learning, NULL);
    pthread_join(reading, NULL);
    const uint64_t *counters = learner_header(&learner)->counters;
    const uint64_t processed =
        counters[COUNTER_trajectories_processed] + counters[COUNTER_feedback_processed];
    explained = counters[COUNTER_signals_accumulated] + counters[COUNTER_feedback_duplicate] +
                counters[COUNTER_feedback_expired] + counters[COUNTER_feedback_unknown];
    printf("engine: %llu recorded, %llu processed, %llu explained, %llu expired, version %llu\n",
           (unsigned long long)recorded, (unsigned long long)processed,
           (unsigned long long)explained,
           (unsigned long long)counters[COUNTER_feedback_expired],
           (unsigned long long)learner.version);
    CHECK(recorded == processed && processed == explained);
    CHECK(counters[COUNTER_refits_installed] > 0);
    CHECK(counters[COUNTER_feedback_unknown] == 0 && counters[COUNTER_outcomes_learned] > 0);
}

int main(int argc, char **argv)
{
    CHECK(argc == 4 && geometry_complete(&geometry) == NULL);
    rounds = strtoull(argv[2], NULL, 10);
    seed = strtoull(argv[3], NULL, 10);
    control = segment(geometry.control_bytes);
    ring = segment(geometry.ring_bytes);
    weights = segment(geometry.weights_bytes);
    running = 1;
    if (strcmp(argv[1], "lane") == 0) stress_lane();
    else if (strcmp(argv[1], "cell") == 0) stress_cell();
    else if (strcmp(argv[1], "engine") == 0) stress_engine();
    else return 2;
    return 0;
}
