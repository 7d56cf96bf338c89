/* SIGKILL at every instruction: a child is single-stepped through one operation.  What it leaves
 * in shared memory if it is killed after k steps is what is there after k steps, so after each one
 * a copy is taken and handed to a successor, which must find everything in order.
 *
 *   instructions producer    a record is put: the next owner's counts are what is visible
 *   instructions learner     records are drained and published: a successor ends with the same
 *                            block, every record learned exactly once
 *
 * Status 0: all good, 77: ptrace is not permitted here, 1: a check failed, and says where. */
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "identifier.h"
#include "learner.h"

#define NOT_PERMITTED 77
#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "line %d, step %ld: %s\n", __LINE__, step, #condition);                \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static long step;
static struct geometry geometry = {.hidden_dim = 8,
                                   .rank = 1,
                                   .routes = 1,
                                   .max_workers = 1,
                                   .pending_decisions = 4,
                                   .lane_bytes = PAGE,
                                   .patterns = 1,
                                   .reservoir = 64,
                                   .base_rank = 4,
                                   .tasks = 2};
static uint8_t *shared, *copy; /* control, ring, weights */
static uint64_t bytes;
static struct control_header *control;
static uint8_t *ring, *weights;
static struct lane lane;
static struct producer producer;

/* Which memory everything below works on: the shared one, or the copy that a successor finds. */
static void use(uint8_t *memory)
{
    control = (struct control_header *)memory;
    ring = memory + geometry.control_bytes;
    weights = ring + geometry.ring_bytes;
    lane = lane_at(ring, &geometry, 0);
}

static void map_segments(void)
{
    CHECK(geometry_complete(&geometry) == NULL);
    bytes = geometry.control_bytes + geometry.ring_bytes + geometry.weights_bytes;
    shared = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
    copy = aligned_alloc(PAGE, bytes);
    CHECK(copy);
}

static void reset(void)
{
    use(shared);
    memset(shared, 0, bytes);
    struct snapshot_header *block = (struct snapshot_header *)(weights + geometry.buffers_offset);
    float *a = (float *)((uint8_t *)block + geometry.micro_a);
    for (int i = 0; i < 8; i++) a[i] = 0.1f * (float)(i + 1);
    block->quality = block->step_reward = (struct running_mean){0.5, 1.0};
    block->experts = (1u << EXPERTS) - 1;
    static char name[NAME_BYTES] = "a";
    const struct model model = {&geometry, (uint8_t *)block, NULL};
    const struct route_start first = {
        .name = name, .expected = NAN, .like = NO_ROUTE, .flags = ROUTE_ACTIVE};
    CHECK(model_add_route(&model, &first));
    struct lane_owner *owner = (struct lane_owner *)(shared + geometry.owners_offset);
    store_relaxed(&owner->generation, identifier_first_generation(0));
    producer_claim(&producer, &lane);
}

/* ---- what a worker does ---- */

static int put(enum record_kind kind, uint64_t id, float value)
{
    const int trajectory = kind == RECORD_TRAJECTORY;
    const uint64_t length = CACHE_LINE * (trajectory ? 2 : 1);
    uint8_t *at = producer_reserve(&producer, length);
    if (!at) return 0;
    const struct record_header record = {.length = (uint32_t)length,
                                         .kind = kind,
                                         .id = id,
                                         .quality = value,
                                         .route = trajectory ? 0 : NO_ROUTE,
                                         .hidden_dim = trajectory ? 8 : 0};
    memcpy(at, &record, sizeof record);
    float *x = (float *)(at + sizeof record);
    for (int i = 0; trajectory && i < 8; i++) x[i] = value * (float)i;
    producer_commit(&producer, length, kind);
    return 1;
}

static uint64_t remember_decision(uint64_t number)
{
    struct decision_slot *slot = decision_begin(&producer);
    float *x = (float *)((uint8_t *)slot + geometry.slot_embedding);
    for (int i = 0; i < 8; i++) x[i] = 0.05f * (float)(number + 1);
    slot->decision.route = 0;
    const uint64_t id = identifier_base(0, identifier_first_generation(0)) | number;
    decision_commit(&producer, slot, id);
    return id;
}

static uint64_t visible_records(uint64_t from)
{
    struct lane_progress at = {.position = from};
    struct record_header record;
    const uint8_t *body;
    uint64_t head, count = 0;
    CHECK(lane_head(&lane, from, &head));
    for (;; count++) {
        const enum lane_state state = lane_next(&lane, &at, head, &record, &body);
        if (state == LANE_EMPTY) return count;
        CHECK(state == LANE_RECORD);
        at.position += record.length;
    }
}

/* ---- single steps ---- */

static pid_t start_stopped(void (*body)(void))
{
    int status;
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0) _exit(NOT_PERMITTED);
        raise(SIGSTOP);
        body();
        raise(SIGSTOP);
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    if (!WIFSTOPPED(status)) exit(NOT_PERMITTED);
    return child;
}

/* Runs `body` in a child and `check` on a copy of the memory after each of its instructions. */
static long each_step(void (*body)(void), void (*check)(void))
{
    int status;
    const pid_t child = start_stopped(body);
    for (step = 0;; step++) {
        memcpy(copy, shared, bytes);
        use(copy);
        check();
        if (ptrace(PTRACE_SINGLESTEP, child, NULL, NULL) < 0) exit(NOT_PERMITTED);
        CHECK(waitpid(child, &status, 0) == child && WIFSTOPPED(status));
        if (WSTOPSIG(status) == SIGSTOP) break; /* the body is done */
    }
    kill(child, SIGKILL);
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
    return step;
}

/* ---- producer ---- */

static enum record_kind kind_put;
static uint64_t records_before, learned_before, learned_position;
static int seen_before, seen_after;

static void put_one(void) { put(kind_put, 9, 0.5f); }

static uint64_t visible_in_all(void)
{
    return learned_before + visible_records(learned_position);
}

static void check_successor(void)
{
    const struct producer kept = producer;
    const uint64_t visible = visible_in_all();
    CHECK(visible == records_before || visible == records_before + 1);
    seen_before |= visible == records_before;
    seen_after |= visible > records_before;
    producer_claim(&producer, &lane);
    CHECK(producer.trajectories + producer.feedbacks == visible);
    CHECK(load_relaxed(&lane.header->trajectories) == producer.trajectories);
    CHECK(load_relaxed(&lane.header->feedbacks) == producer.feedbacks);
    CHECK(put(RECORD_FEEDBACK, 2, 0.5f)); /* and the successor goes on */
    CHECK(visible_in_all() == visible + 1);
    producer_claim(&producer, &lane); /* an orderly end leaves nothing to correct */
    CHECK(producer.trajectories + producer.feedbacks == visible + 1);
    producer = kept;
}

static long step_through_put(uint64_t before, enum record_kind before_kind)
{
    reset();
    for (uint64_t i = 0; i < before; i++) CHECK(put(before_kind, 1, 0.5f));
    records_before = before;
    /* What is learned so far is out of the way, so that the ring can wrap. */
    learned_position = before > 10 ? producer.head : 0;
    learned_before = learned_position ? before : 0;
    store_release(&lane.header->tail, learned_position);
    seen_before = seen_after = 0;
    const long steps = each_step(put_one, check_successor);
    CHECK(seen_before && seen_after);
    return steps;
}

static void producer_mode(void)
{
    const enum record_kind kinds[] = {RECORD_TRAJECTORY, RECORD_FEEDBACK};
    long steps = 0;
    for (int i = 0; i < 2; i++) {
        kind_put = kinds[i];
        for (int k = 0; k < 2; k++) {
            steps += step_through_put(0, kinds[k]);
            steps += step_through_put(3, kinds[k]);
            steps += step_through_put(16, kinds[k]);
        }
        /* 63 lines of 64 are used: a trajectory needs padding before the wrap */
        steps += step_through_put(63, RECORD_FEEDBACK);
    }
    printf("producer: %ld steps\n", steps);
}

/* ---- learner ---- */

static struct learner learner;
static struct lane_release released;
static uint8_t *expected;

static void load_learner(void)
{
    const struct learner fresh = {.geometry = geometry,
                                  .options = {.adapter_rate = 0.1f,
                                              .rates = {.adapter = 0.1f, .head = 0.2f, .ewc = 1.0, .forgetting = 1.0},
                                              .flush_threshold = 4,
                                              .default_quality = NAN},
                                  .control = control,
                                  .fast = fast_cell(weights, &geometry),
                                  .slow = slow_cell(weights, &geometry),
                                  .reservoir = weights + geometry.reservoir_offset,
                                  .lanes = &lane,
                                  .released = &released,
                                  .work = learner.work,
                                  .slow_work = learner.slow_work,
                                  .embedding = learner.embedding,
                                  .features.adapted = learner.features.adapted,
                                  .gradient = learner.gradient};
    learner = fresh;
    learner.model = (struct model){&geometry, learner.work, learner.slow_work};
    memset(&released, 0, sizeof released);
    CHECK(learner_load(&learner));
}

static void learn_all(void)
{
    while (learner_drain(&learner, 3)) learner_publish(&learner, 1);
}

static void record_all(void)
{
    for (uint64_t i = 0; i < 3; i++) {
        const uint64_t id = remember_decision(i);
        CHECK(put(RECORD_TRAJECTORY, i, 0.3f + 0.2f * (float)i));
        CHECK(put(RECORD_FEEDBACK, id, 0.9f));
        if (i == 1) CHECK(put(RECORD_FEEDBACK, id, 0.1f)); /* a duplicate */
    }
}

/* The block without what tells how often it was published. */
static void comparable(uint8_t *block)
{
    struct snapshot_header *header = (struct snapshot_header *)block;
    header->version = 0;
    header->counters[COUNTER_flushes_performed] = 0;
}

static void check_next_learner(void)
{
    load_learner();
    learn_all();
    comparable(learner.work);
    CHECK(memcmp(learner.work, expected, geometry.snapshot_bytes) == 0);
}

static void learner_mode(void)
{
    learner.work = aligned_alloc(CACHE_LINE, geometry.snapshot_bytes);
    learner.slow_work = aligned_alloc(CACHE_LINE, geometry.slow_bytes);
    learner.embedding = aligned_alloc(CACHE_LINE, 3 * CACHE_LINE);
    expected = malloc(geometry.snapshot_bytes);
    CHECK(learner.work && learner.slow_work && learner.embedding && expected);
    learner.features.adapted = learner.embedding + 8;
    learner.gradient = learner.embedding + 16;
    reset();
    record_all();
    load_learner();
    learn_all();
    memcpy(expected, learner.work, geometry.snapshot_bytes);
    comparable(expected);
    const uint64_t *counters = ((struct snapshot_header *)expected)->counters;
    CHECK(counters[COUNTER_signals_accumulated] == 6 && counters[COUNTER_feedback_duplicate] == 1);
    reset();
    record_all();
    load_learner();
    printf("learner: %ld steps\n", each_step(learn_all, check_next_learner));
}

int main(int argc, char **argv)
{
    if (argc != 2) return 2;
    map_segments();
    if (strcmp(argv[1], "producer") == 0) producer_mode();
    else learner_mode();
    return 0;
}
