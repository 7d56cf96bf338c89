/* Lane: what the one process that holds a lane's lock byte may do with it. */
#include "decide.h"
#include "identifier.h"
#include "kernels.h"
#include "python.h"

enum put_status { PUT_FULL = 0, PUT_DONE = 1, PUT_DONE_WAKE_LEARNER = 2 };

typedef struct {
    PyObject_HEAD
    Py_buffer control, ring, weights; /* .obj is NULL when released */
    struct control_header *header;
    struct producer producer;
    struct decider decider;
    uint64_t id_base;
    PyObject *route_index; /* dict: name of a route to its index */
    void *scratch;
} Lane;

static PyObject *lane_release(Lane *self, PyObject *unused)
{
    (void)unused;
    Py_buffer *views[] = {&self->control, &self->ring, &self->weights};
    for (size_t i = 0; i < 3; i++)
        if (views[i]->obj) PyBuffer_Release(views[i]);
    Py_RETURN_NONE;
}

static int allocate_scratch(Lane *self)
{
    struct decider *d = &self->decider;
    const struct geometry *g = &d->geometry;
    const size_t routes = g->routes, n = g->hidden_dim;
    self->scratch = PyMem_Calloc(1, 3 * routes * sizeof(double) +
                                        g->allowed_words * sizeof(uint64_t) +
                                        (2 * n + routes) * sizeof(float) +
                                        routes * sizeof(uint32_t));
    if (!self->scratch) return PyErr_NoMemory(), -1;
    struct candidates *c = &d->candidates;
    c->score = self->scratch;
    c->deviation = c->score + routes;
    c->probability = c->deviation + routes;
    d->allowed = (uint64_t *)(c->probability + routes);
    d->embedding = (float *)(d->allowed + g->allowed_words);
    d->features.adapted = d->embedding + n;
    d->dot = d->features.adapted + n;
    c->route = (uint32_t *)(d->dot + routes);
    return 0;
}

static int hold_segments(Lane *self, PyObject *control, PyObject *ring, PyObject *weights,
                         uint64_t index)
{
    struct geometry *g = &self->decider.geometry;
    uint8_t *base = segment_hold(&self->control, control, g->control_bytes, "control");
    if (!base) return -1;
    self->header = (struct control_header *)base;
    base = segment_hold(&self->weights, weights, g->weights_bytes, "weights");
    if (!base) return -1;
    self->decider.fast = fast_cell(base, g);
    self->decider.slow = slow_cell(base, g);
    base = segment_hold(&self->ring, ring, g->ring_bytes, "ring");
    if (!base) return -1;
    const struct lane lane = lane_at(base, g, index);
    producer_claim(&self->producer, &lane);
    return 0;
}

static int lane_init(Lane *self, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"control", "ring", "weights", "geometry", "index", "generation",
                               "seed",    "policy",  "strength", "route_index", NULL};
    PyObject *control, *ring, *weights, *geometry, *route_index;
    unsigned long long index, generation, seed;
    const char *policy;
    double strength, usual;
    if (self->route_index) {
        PyErr_SetString(PyExc_RuntimeError, "a Lane is initialised once");
        return -1;
    }
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOOKKKsdO!", keywords, &control, &ring,
                                     &weights, &geometry, &index, &generation, &seed, &policy,
                                     &strength, &PyDict_Type, &route_index))
        return -1;
    self->route_index = Py_NewRef(route_index);
    struct decider *d = &self->decider;
    if (geometry_argument(geometry, &d->geometry) < 0) return -1;
    d->policy = policy_named(policy, &usual);
    if (!d->policy || index >= d->geometry.max_workers) {
        PyErr_Format(PyExc_ValueError, "no policy '%s' or no lane %llu", policy, index);
        return -1;
    }
    d->strength = isnan(strength) ? usual : strength;
    random_seed(&d->random, seed);
    self->id_base = identifier_base(index, generation);
    if (allocate_scratch(self) < 0) return -1;
    if (hold_segments(self, control, ring, weights, index) == 0) return 0;
    Py_XDECREF(lane_release(self, NULL));
    return -1;
}

static void lane_dealloc(Lane *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Py_XDECREF(lane_release(self, NULL));
    PyMem_Free(self->scratch);
    Py_XDECREF(self->route_index); /* strings and integers: no cycle to collect */
    type->tp_free(self);
    Py_DECREF(type);
}

/* Checked after the arguments are read, which may run Python and so close the engine. */
static int lane_open(const Lane *self)
{
    if (!self->ring.obj) {
        PyErr_SetString(core.engine_closed, "the engine is closed; attach to it again");
        return 0;
    }
    if (load_relaxed(&self->header->destroyed)) {
        PyErr_SetString(core.engine_not_found, "the engine was destroyed or replaced; nobody "
                                               "learns from it any more, attach again");
        return 0;
    }
    return 1;
}

/* The record is visible; does somebody have to wake the learner?  The fence is the producer's
 * half of the agreement in learner_may_sleep. */
static enum put_status after_put(Lane *self)
{
    shared_word *sleeping = &self->header->learner_sleeping;
    atomic_thread_fence(memory_order_seq_cst);
    if (load_relaxed(sleeping) == 0) return PUT_DONE;
    const uint64_t was = atomic_exchange_explicit(sleeping, 0, memory_order_relaxed);
    return was ? PUT_DONE_WAKE_LEARNER : PUT_DONE;
}

static PyObject *lane_record(Lane *self, PyObject *trajectory)
{
    if (!lane_open(self)) return NULL;
    const int status = record_trajectory(&self->producer, &self->ring,
                                         self->decider.geometry.hidden_dim, trajectory,
                                         self->route_index);
    if (status < 0) return NULL;
    return PyLong_FromLong(status ? after_put(self) : PUT_FULL);
}

/* ---- outcomes ---- */

/* None is 0: not known. */
static int latency_argument(PyObject *object, uint64_t *latency_us)
{
    double latency_ms;
    *latency_us = 0;
    if (object == Py_None) return 0;
    if (number_argument(object, "latency_ms", &latency_ms) < 0) return -1;
    if (!(latency_ms >= 0.0 && latency_ms <= 1e12)) {
        PyErr_Format(core.out_of_range_error,
                     "latency_ms is %R, expected milliseconds from 0 to 1e12", object);
        return -1;
    }
    *latency_us = (uint64_t)(latency_ms * 1000.0);
    return 0;
}

static int tokens_argument(PyObject *object, uint32_t *tokens)
{
    uint64_t value = 0;
    *tokens = 0;
    if (object == Py_None) return 0;
    if (unsigned_argument(object, "tokens", &value) < 0) return -1;
    if (value > UINT32_MAX) {
        PyErr_Format(core.out_of_range_error, "tokens is %R, expected 0 to 2**32 - 1", object);
        return -1;
    }
    *tokens = (uint32_t)value;
    return 0;
}

/* Quality, and optionally latency and tokens, from args[0] on. */
static int service_arguments(struct record_header *record, PyObject *const *args, Py_ssize_t count)
{
    double quality;
    if (quality_argument(args[0], &quality) < 0) return -1;
    record->quality = (float)quality;
    if (count > 1 && latency_argument(args[1], &record->latency_us) < 0) return -1;
    return count > 2 ? tokens_argument(args[2], &record->tokens) : 0;
}

/* Writes header and body as one record. */
static PyObject *put(Lane *self, struct record_header *record, const void *body, size_t bytes)
{
    record->length = (uint32_t)((sizeof *record + bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
    record->time_ns = clock_ns();
    uint8_t *at = producer_reserve(&self->producer, record->length);
    if (!at) {
        producer_drop(&self->producer);
        return PyLong_FromLong(PUT_FULL);
    }
    memcpy(at, record, sizeof *record);
    if (bytes) memcpy(at + sizeof *record, body, bytes);
    producer_commit(&self->producer, record->length, record->kind);
    return PyLong_FromLong(after_put(self));
}

static PyObject *lane_feedback(Lane *self, PyObject *const *args, Py_ssize_t count)
{
    struct record_header record = {.kind = RECORD_FEEDBACK, .route = NO_ROUTE};
    if (count < 2 || count > 4) {
        PyErr_SetString(PyExc_TypeError, "feedback(id, quality, latency_ms, tokens)");
        return NULL;
    }
    if (unsigned_argument(args[0], "id", &record.id) < 0) {
        /* A negative or huge integer is no decision of ours; the learner counts it as unknown. */
        if (!PyErr_ExceptionMatches(core.out_of_range_error)) return NULL;
        PyErr_Clear();
        record.id = UINT64_MAX;
    }
    if (service_arguments(&record, args + 1, count - 1) < 0 || !lane_open(self)) return NULL;
    return put(self, &record, NULL, 0);
}

/* ---- decisions ---- */

/* A finite embedding of at most unit length. */
static int embedding_argument(Lane *self, PyObject *x)
{
    struct float_argument embedding;
    struct decider *d = &self->decider;
    if (float_argument_row(&embedding, x, "x", d->geometry.hidden_dim) < 0) return -1;
    const int finite = copy_finite(d->embedding, embedding.data, d->geometry.hidden_dim);
    float_argument_release(&embedding);
    if (finite && limit_length(d->embedding, d->geometry.hidden_dim)) return 0;
    PyErr_SetString(core.non_finite_error,
                    "x holds NaN or infinity, or numbers too large to square; expected finite "
                    "numbers, best of about unit length");
    return -1;
}

static int allowed_argument(Lane *self, PyObject *object)
{
    struct decider *d = &self->decider;
    const size_t bytes = d->geometry.allowed_words * sizeof *d->allowed;
    if (object == Py_None) {
        memset(d->allowed, 0xff, bytes);
        return 0;
    }
    if (!PyBytes_Check(object) || (size_t)PyBytes_GET_SIZE(object) != bytes) {
        PyErr_Format(PyExc_TypeError, "allowed is None or %zu bytes, a bit for each route", bytes);
        return -1;
    }
    memcpy(d->allowed, PyBytes_AS_STRING(object), bytes);
    return 0;
}

/* x and what is allowed; the lane is open afterwards. */
static int request_arguments(Lane *self, PyObject *const *args, Py_ssize_t count)
{
    if (count < 1 || count > 2) {
        PyErr_SetString(PyExc_TypeError, "x and optionally allowed");
        return -1;
    }
    if (!lane_open(self)) return -1;
    if (embedding_argument(self, args[0]) < 0) return -1;
    if (allowed_argument(self, count > 1 ? args[1] : Py_None) < 0) return -1;
    return lane_open(self) ? 0 : -1; /* reading x may have run Python */
}

static PyObject *no_choice(enum decide_status status)
{
    if (status == DECIDE_DISTURBED)
        PyErr_SetString(core.corrupt_segment, "the weights never stood still for one read; destroy "
                                              "the engine and create it again");
    else
        PyErr_SetString(core.config_error,
                        "no route may be chosen: the engine has none, or all that were allowed "
                        "are retired; create it with SonaConfig(routes=[Route(name, cost), ...]) "
                        "or use add_route");
    return NULL;
}

static PyObject *lane_decide(Lane *self, PyObject *const *args, Py_ssize_t count)
{
    struct choice choice;
    if (request_arguments(self, args, count) < 0) return NULL;
    const enum decide_status status = decide(&self->decider, &choice);
    if (status != DECIDE_DONE) return no_choice(status);
    const uint64_t id =
        remember(&self->decider, &self->producer, self->id_base, &choice, clock_ns());
    return Py_BuildValue("(KId)", (unsigned long long)id, choice.route, choice.propensity);
}

static PyObject *lane_predict(Lane *self, PyObject *const *args, Py_ssize_t count)
{
    uint64_t version;
    if (request_arguments(self, args, count) < 0) return NULL;
    const enum decide_status status = evaluate(&self->decider, &version);
    if (status != DECIDE_DONE) return no_choice(status);
    const struct candidates *c = &self->decider.candidates;
    PyObject *list = PyList_New(c->count);
    for (uint32_t i = 0; list && i < c->count; i++) {
        PyObject *row = Py_BuildValue("(Iddd)", c->route[i], c->score[i], c->deviation[i],
                                      c->probability[i]);
        if (row) PyList_SET_ITEM(list, i, row);
        else Py_CLEAR(list);
    }
    return list;
}

static PyObject *lane_observe(Lane *self, PyObject *const *args, Py_ssize_t count)
{
    const struct geometry *g = &self->decider.geometry;
    uint64_t route;
    if (count < 3 || count > 5) {
        PyErr_SetString(PyExc_TypeError, "observe(x, route, quality, latency_ms, tokens)");
        return NULL;
    }
    struct record_header record = {.kind = RECORD_OUTCOME, .hidden_dim = (uint32_t)g->hidden_dim};
    if (unsigned_argument(args[1], "route", &route) < 0) return NULL;
    record.route = route < g->routes ? (uint32_t)route : NO_ROUTE;
    if (service_arguments(&record, args + 2, count - 2) < 0) return NULL;
    if (embedding_argument(self, args[0]) < 0 || !lane_open(self)) return NULL;
    return put(self, &record, self->decider.embedding, g->hidden_dim * sizeof(float));
}

static PyObject *lane_change_route(Lane *self, PyObject *args)
{
    struct route_command command = {0};
    const char *name;
    Py_ssize_t length;
    unsigned int operation, like;
    if (!PyArg_ParseTuple(args, "Is#dddI", &operation, &name, &length, &command.cost,
                          &command.price, &command.expected, &like))
        return NULL;
    if (length >= NAME_BYTES || strlen(name) != (size_t)length) {
        PyErr_SetString(PyExc_ValueError, "the name of a route has at most 63 bytes, none of 0");
        return NULL;
    }
    memcpy(command.name, name, (size_t)length);
    command.operation = operation;
    command.like = like;
    if (!lane_open(self)) return NULL;
    struct record_header record = {.kind = RECORD_ROUTE, .route = NO_ROUTE};
    return put(self, &record, &command, sizeof command);
}

static PyMethodDef lane_methods[] = {
    {"record", (PyCFunction)lane_record, METH_O,
     PyDoc_STR("record($self, trajectory, /)\n--\n\n"
               "Put a trajectory: 0 full, 1 done, 2 done and the learner wants to be woken.")},
    {"feedback", (PyCFunction)(void (*)(void))lane_feedback, METH_FASTCALL,
     PyDoc_STR("feedback($self, id, quality, latency_ms=None, tokens=None, /)\n--\n\n"
               "Put the outcome of a decision: 0 full, 1 done, 2 done and wake the learner.")},
    {"decide", (PyCFunction)(void (*)(void))lane_decide, METH_FASTCALL,
     PyDoc_STR("decide($self, x, allowed=None, /)\n--\n\nChoose: (id, index, propensity).")},
    {"predict", (PyCFunction)(void (*)(void))lane_predict, METH_FASTCALL,
     PyDoc_STR("predict($self, x, allowed=None, /)\n--\n\n"
               "[(index, reward, deviation, probability)] of the routes that may be chosen.")},
    {"observe", (PyCFunction)(void (*)(void))lane_observe, METH_FASTCALL,
     PyDoc_STR("observe($self, x, route, quality, latency_ms=None, tokens=None, /)\n--\n\n"
               "Put the outcome of a decision made elsewhere.")},
    {"change_route", (PyCFunction)lane_change_route, METH_VARARGS,
     PyDoc_STR("change_route($self, operation, name, cost, price, expected, like, /)\n--\n\n"
               "Put a change of the routes.")},
    {"release", (PyCFunction)lane_release, METH_NOARGS,
     PyDoc_STR("release($self, /)\n--\n\nLet the segments go.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot lane_slots[] = {
    {Py_tp_init, lane_init},
    {Py_tp_dealloc, lane_dealloc},
    {Py_tp_methods, lane_methods},
    {Py_tp_doc, "Producer side of one lane."},
    {0, NULL},
};

PyType_Spec lane_spec = {
    .name = "sona_shm._core.Lane",
    .basicsize = sizeof(Lane),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = lane_slots,
};
