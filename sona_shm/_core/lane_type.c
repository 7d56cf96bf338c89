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
    const size_t doubles = g->routes, floats = 2 * g->hidden_dim + g->routes;
    self->scratch = PyMem_Calloc(1, doubles * sizeof(double) + floats * sizeof(float));
    if (!self->scratch) return PyErr_NoMemory(), -1;
    d->probability = self->scratch;
    d->embedding = (float *)(d->probability + doubles);
    d->adapted = d->embedding + g->hidden_dim;
    d->score = d->adapted + g->hidden_dim;
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
    self->decider.cell = cell_at(base, g);
    base = segment_hold(&self->ring, ring, g->ring_bytes, "ring");
    if (!base) return -1;
    const struct lane lane = lane_at(base, g, index);
    producer_claim(&self->producer, &lane);
    return 0;
}

static int lane_init(Lane *self, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"control", "ring", "weights", "geometry", "index", "generation",
                               "seed",    "policy", "parameters", "route_index", NULL};
    PyObject *control, *ring, *weights, *geometry, *route_index;
    unsigned long long index, generation, seed;
    const char *policy;
    double p0, p1;
    if (self->route_index) {
        PyErr_SetString(PyExc_RuntimeError, "a Lane is initialised once");
        return -1;
    }
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOOKKKs(dd)O!", keywords, &control, &ring,
                                     &weights, &geometry, &index, &generation, &seed, &policy, &p0,
                                     &p1, &PyDict_Type, &route_index))
        return -1;
    self->route_index = Py_NewRef(route_index);
    struct decider *d = &self->decider;
    if (geometry_argument(geometry, &d->geometry) < 0) return -1;
    d->policy = policy_named(policy);
    if (!d->policy || index >= d->geometry.max_workers) {
        PyErr_Format(PyExc_ValueError, "no policy '%s' or no lane %llu", policy, index);
        return -1;
    }
    d->parameter[0] = p0;
    d->parameter[1] = p1;
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

static PyObject *lane_feedback(Lane *self, PyObject *const *args, Py_ssize_t count)
{
    double quality;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "feedback(id, quality)");
        return NULL;
    }
    uint64_t id;
    if (unsigned_argument(args[0], "id", &id) < 0) {
        /* A negative or huge integer is no decision of ours; the learner counts it as unknown. */
        if (!PyErr_ExceptionMatches(core.out_of_range_error)) return NULL;
        PyErr_Clear();
        id = UINT64_MAX;
    }
    if (quality_argument(args[1], &quality) < 0 || !lane_open(self)) return NULL;
    uint8_t *at = producer_reserve(&self->producer, sizeof(struct record_header));
    if (!at) {
        producer_drop(&self->producer);
        return PyLong_FromLong(PUT_FULL);
    }
    const struct record_header record = {
        .length = sizeof record,
        .kind = RECORD_FEEDBACK,
        .id = id,
        .time_ns = clock_ns(),
        .quality = (float)quality,
        .route = NO_ROUTE,
    };
    memcpy(at, &record, sizeof record);
    producer_commit(&self->producer, sizeof record, RECORD_FEEDBACK);
    return PyLong_FromLong(after_put(self));
}

static PyObject *lane_decide(Lane *self, PyObject *x)
{
    struct float_argument embedding;
    struct choice choice;
    struct decider *d = &self->decider;
    if (!lane_open(self)) return NULL;
    if (d->geometry.routes == 0) {
        PyErr_SetString(core.config_error, "this engine has no routes; create it with "
                                          "SonaConfig(routes=[Route(name, cost), ...])");
        return NULL;
    }
    if (float_argument_row(&embedding, x, "x", d->geometry.hidden_dim) < 0) return NULL;
    const int finite = copy_finite(d->embedding, embedding.data, d->geometry.hidden_dim);
    float_argument_release(&embedding);
    if (!finite || !limit_length(d->embedding, d->geometry.hidden_dim)) {
        PyErr_SetString(core.non_finite_error,
                        "x holds NaN or infinity, or numbers too large to square; expected finite "
                        "numbers, best of about unit length");
        return NULL;
    }
    if (!lane_open(self)) return NULL;
    if (!decide(d, &choice)) {
        PyErr_SetString(core.corrupt_segment, "the weights never stood still for one read; destroy "
                                              "the engine and create it again");
        return NULL;
    }
    const uint64_t id = remember(d, &self->producer, self->id_base, &choice, clock_ns());
    return Py_BuildValue("(KId)", (unsigned long long)id, choice.route, choice.propensity);
}

static PyMethodDef lane_methods[] = {
    {"record", (PyCFunction)lane_record, METH_O,
     PyDoc_STR("record($self, trajectory, /)\n--\n\n"
               "Put a trajectory: 0 full, 1 done, 2 done and the learner wants to be woken.")},
    {"feedback", (PyCFunction)(void (*)(void))lane_feedback, METH_FASTCALL,
     PyDoc_STR("feedback($self, id, quality, /)\n--\n\n"
               "Put the outcome of a decision: 0 full, 1 done, 2 done and wake the learner.")},
    {"decide", (PyCFunction)lane_decide, METH_O,
     PyDoc_STR("decide($self, x, /)\n--\n\nChoose a route: (id, index, propensity).")},
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
