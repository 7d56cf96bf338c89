/* Learner: what the one process that holds the lease may do. */
#include "learner.h"

#include "python.h"

typedef struct {
    PyObject_HEAD
    Py_buffer control, ring, weights; /* .obj is NULL when released */
    struct learner learner;
    void *memory;
    int draining; /* the GIL is released while this is set */
} Learner;

static void release_segments(Learner *self)
{
    Py_buffer *views[] = {&self->control, &self->ring, &self->weights};
    for (size_t i = 0; i < 3; i++)
        if (views[i]->obj) PyBuffer_Release(views[i]);
}

static PyObject *learner_release(Learner *self, PyObject *unused)
{
    (void)unused;
    if (self->draining) {
        PyErr_SetString(PyExc_RuntimeError, "another thread is draining");
        return NULL;
    }
    release_segments(self);
    Py_RETURN_NONE;
}

static PyObject *learner_after_fork(Learner *self, PyObject *unused)
{
    (void)unused;
    self->draining = 0; /* the thread that was draining is the parent's */
    Py_RETURN_NONE;
}

static uint64_t line(uint64_t bytes) { return (bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE; }

static int allocate_memory(Learner *self)
{
    struct learner *l = &self->learner;
    const struct geometry *g = &l->geometry;
    const uint64_t row = line(g->hidden_dim * sizeof(float));
    const uint64_t lanes = line(g->max_workers * sizeof(struct lane));
    const uint64_t released = line(g->max_workers * sizeof(struct lane_release));
    const uint64_t bytes = g->snapshot_bytes + 3 * row + lanes + released + CACHE_LINE;
    self->memory = PyMem_Calloc(1, bytes);
    if (!self->memory) return PyErr_NoMemory(), -1;
    uint8_t *at = (uint8_t *)line((uintptr_t)self->memory);
    l->work = at;
    at += g->snapshot_bytes;
    l->embedding = (float *)at;
    l->adapted = (float *)(at + row);
    l->gradient = (float *)(at + 2 * row);
    l->lanes = (struct lane *)(at + 3 * row);
    l->released = (struct lane_release *)(at + 3 * row + lanes);
    return 0;
}

static int hold_segments(Learner *self, PyObject *control, PyObject *ring, PyObject *weights)
{
    struct learner *l = &self->learner;
    const struct geometry *g = &l->geometry;
    uint8_t *base = segment_hold(&self->control, control, g->control_bytes, "control");
    if (!base) return -1;
    l->control = (struct control_header *)base;
    base = segment_hold(&self->weights, weights, g->weights_bytes, "weights");
    if (!base) return -1;
    l->cell = cell_at(base, g);
    base = segment_hold(&self->ring, ring, g->ring_bytes, "ring");
    if (!base) return -1;
    for (uint64_t i = 0; i < g->max_workers; i++) l->lanes[i] = lane_at(base, g, i);
    return 0;
}

static int learner_init(Learner *self, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"control",         "ring",      "weights",
                               "geometry",        "adapter_rate", "head_rate",
                               "flush_threshold", "reference", "keep", NULL};
    PyObject *control, *ring, *weights, *geometry;
    double adapter_rate, head_rate;
    unsigned long long flush_threshold;
    int reference, keep;
    if (self->memory) {
        PyErr_SetString(PyExc_RuntimeError, "a Learner is initialised once");
        return -1;
    }
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOOddKpp", keywords, &control, &ring, &weights,
                                     &geometry, &adapter_rate, &head_rate, &flush_threshold,
                                     &reference, &keep))
        return -1;
    struct learner *l = &self->learner;
    if (geometry_argument(geometry, &l->geometry) < 0) return -1;
    l->options = (struct learner_options){(float)adapter_rate, (float)head_rate, flush_threshold,
                                          reference, keep};
    if (allocate_memory(self) < 0) return -1;
    if (hold_segments(self, control, ring, weights) == 0) {
        if (learner_load(l)) return 0;
        PyErr_SetString(core.corrupt_segment, "the published block does not carry its own version; "
                                              "destroy the engine and create it again");
    }
    release_segments(self);
    return -1;
}

static void learner_dealloc(Learner *self)
{
    PyTypeObject *type = Py_TYPE(self);
    release_segments(self); /* after fork also the copy of one whose thread was draining */
    PyMem_Free(self->memory);
    type->tp_free(self);
    Py_DECREF(type);
}

static int learner_open(const Learner *self)
{
    if (self->draining) {
        PyErr_SetString(PyExc_RuntimeError, "another thread is draining");
        return 0;
    }
    if (self->ring.obj) return 1;
    PyErr_SetString(core.engine_closed, "the engine is closed; attach to it again");
    return 0;
}

static PyObject *learner_drain_method(Learner *self, PyObject *limit_object)
{
    const unsigned long long limit = PyLong_AsUnsignedLongLong(limit_object);
    uint64_t consumed;
    if ((limit == ULLONG_MAX && PyErr_Occurred()) || !learner_open(self)) return NULL;
    self->draining = 1;
    Py_BEGIN_ALLOW_THREADS
    consumed = learner_drain(&self->learner, limit);
    Py_END_ALLOW_THREADS
    self->draining = 0;
    return PyLong_FromUnsignedLongLong(consumed);
}

static PyObject *learner_drain_all_method(Learner *self, PyObject *unused)
{
    uint64_t consumed;
    (void)unused;
    if (!learner_open(self)) return NULL;
    self->draining = 1;
    Py_BEGIN_ALLOW_THREADS
    consumed = learner_drain_all(&self->learner);
    Py_END_ALLOW_THREADS
    self->draining = 0;
    return PyLong_FromUnsignedLongLong(consumed);
}

static PyObject *learner_publish_method(Learner *self, PyObject *unused)
{
    (void)unused;
    if (!learner_open(self)) return NULL;
    learner_publish(&self->learner, clock_ns());
    return PyLong_FromUnsignedLongLong(self->learner.version);
}

static PyObject *learner_apply_reference_method(Learner *self, PyObject *unused)
{
    (void)unused;
    if (!learner_open(self)) return NULL;
    learner_apply_reference(&self->learner);
    Py_RETURN_NONE;
}

static PyObject *learner_take_method(Learner *self, PyObject *unused)
{
    struct record_header record;
    const uint8_t *body;
    uint64_t lane;
    (void)unused;
    if (!learner_open(self)) return NULL;
    if (!learner_take(&self->learner, &record, &body, &lane)) Py_RETURN_NONE;
    PyObject *decoded = decode_trajectory(&record, body, self->learner.geometry.hidden_dim);
    learner_release_taken(&self->learner, lane);
    return decoded;
}

static PyObject *learner_may_sleep_method(Learner *self, PyObject *unused)
{
    (void)unused;
    if (!learner_open(self)) return NULL;
    return PyBool_FromLong(learner_may_sleep(&self->learner));
}

static PyObject *learner_wakes_method(Learner *self, PyObject *unused)
{
    (void)unused;
    if (!learner_open(self)) return NULL;
    learner_wakes(&self->learner);
    Py_RETURN_NONE;
}

static PyObject *learner_unpublished(Learner *self, void *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLongLong(self->learner.unpublished);
}

static PyObject *learner_unpublished_signals(Learner *self, void *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLongLong(self->learner.unpublished_signals);
}

static int learner_getbuffer(Learner *self, Py_buffer *view, int flags)
{
    return PyBuffer_FillInfo(view, (PyObject *)self, self->learner.work,
                             (Py_ssize_t)self->learner.geometry.snapshot_bytes, 0, flags);
}

static PyMethodDef learner_methods[] = {
    {"drain", (PyCFunction)learner_drain_method, METH_O,
     PyDoc_STR("drain($self, limit, /)\n--\n\nLearn up to limit records; returns how many.")},
    {"drain_all", (PyCFunction)learner_drain_all_method, METH_NOARGS,
     PyDoc_STR("drain_all($self, /)\n--\n\nLearn all that the lanes hold at this moment.")},
    {"publish", (PyCFunction)learner_publish_method, METH_NOARGS,
     PyDoc_STR("publish($self, /)\n--\n\nPublish the working block; returns its version.")},
    {"apply_reference", (PyCFunction)learner_apply_reference_method, METH_NOARGS,
     PyDoc_STR("apply_reference($self, /)\n--\n\nApply what the reference rule accumulated.")},
    {"take", (PyCFunction)learner_take_method, METH_NOARGS,
     PyDoc_STR("take($self, /)\n--\n\nA learned trajectory that nobody took yet, or None.")},
    {"may_sleep", (PyCFunction)learner_may_sleep_method, METH_NOARGS,
     PyDoc_STR("may_sleep($self, /)\n--\n\nAnnounce sleep; False if there is work after all.")},
    {"wakes", (PyCFunction)learner_wakes_method, METH_NOARGS,
     PyDoc_STR("wakes($self, /)\n--\n\nTake the announcement back.")},
    {"after_fork", (PyCFunction)learner_after_fork, METH_NOARGS,
     PyDoc_STR("after_fork($self, /)\n--\n\nForget a thread that drains in the parent.")},
    {"release", (PyCFunction)learner_release, METH_NOARGS,
     PyDoc_STR("release($self, /)\n--\n\nLet the segments go.")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef learner_attributes[] = {
    {"unpublished", (getter)learner_unpublished, NULL,
     PyDoc_STR("Records consumed since the last publication."), NULL},
    {"unpublished_signals", (getter)learner_unpublished_signals, NULL,
     PyDoc_STR("Signals learned since the last publication."), NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot learner_slots[] = {
    {Py_tp_init, learner_init},
    {Py_tp_dealloc, learner_dealloc},
    {Py_tp_methods, learner_methods},
    {Py_tp_getset, learner_attributes},
    {Py_bf_getbuffer, learner_getbuffer},
    {Py_tp_doc, "Consumer of all lanes and writer of the weights; its buffer is the working block."},
    {0, NULL},
};

PyType_Spec learner_spec = {
    .name = "sona_shm._core.Learner",
    .basicsize = sizeof(Learner),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = learner_slots,
};
