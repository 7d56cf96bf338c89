/* Learner: what the one process that holds the lease may do. */
#include "learner_type.h"

static void release_segments(Learner *self)
{
    Py_buffer *views[] = {&self->control, &self->ring, &self->weights};
    for (size_t i = 0; i < 3; i++)
        if (views[i]->obj) PyBuffer_Release(views[i]);
}

static PyObject *learner_release(Learner *self, PyObject *unused)
{
    (void)unused;
    if (self->draining || self->refitting) {
        PyErr_SetString(PyExc_RuntimeError, "another thread is draining");
        return NULL;
    }
    release_segments(self);
    Py_RETURN_NONE;
}

static PyObject *learner_after_fork(Learner *self, PyObject *unused)
{
    (void)unused;
    self->draining = self->refitting = 0; /* the thread that was draining is the parent's */
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
    const uint64_t bytes =
        g->snapshot_bytes + g->slow_bytes + 3 * row + lanes + released + CACHE_LINE;
    self->memory = PyMem_Calloc(1, bytes);
    if (!self->memory) return PyErr_NoMemory(), -1;
    uint8_t *at = (uint8_t *)line((uintptr_t)self->memory);
    l->work = at;
    at += g->snapshot_bytes;
    l->slow_work = at;
    at += g->slow_bytes;
    l->model = (struct model){g, l->work, l->slow_work};
    l->embedding = (float *)at;
    l->features.adapted = (float *)(at + row);
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
    l->fast = fast_cell(base, g);
    l->slow = slow_cell(base, g);
    l->reservoir = base + g->reservoir_offset;
    base = segment_hold(&self->ring, ring, g->ring_bytes, "ring");
    if (!base) return -1;
    for (uint64_t i = 0; i < g->max_workers; i++) l->lanes[i] = lane_at(base, g, i);
    return 0;
}

/* The caller's function, from a thread that does not hold the GIL. */
static int call_reward(void *context, const struct observation *o, double *reward)
{
    PyObject *function = context;
    PyGILState_STATE state = PyGILState_Ensure();
    PyObject *result = PyObject_CallFunction(function, "IddKI", o->route, (double)o->quality,
                                             o->price, (unsigned long long)o->latency_us,
                                             o->tokens);
    *reward = result ? PyFloat_AsDouble(result) : 0.0;
    const int done = !PyErr_Occurred();
    if (!done) PyErr_WriteUnraisable(function);
    Py_XDECREF(result);
    PyGILState_Release(state);
    return done;
}

static int learner_init(Learner *self, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"control", "ring", "weights", "geometry", "adapter_rate",
                               "head_rate", "forgetting", "flush_threshold", "reference", "keep",
                               "journal", "ewc", "default_quality", "feedback_timeout", "reward",
                               NULL};
    PyObject *control, *ring, *weights, *geometry, *reward;
    double adapter_rate, head_rate, forgetting, ewc, default_quality, feedback_timeout;
    unsigned long long flush_threshold;
    int reference, keep, journal;
    if (self->memory) {
        PyErr_SetString(PyExc_RuntimeError, "a Learner is initialised once");
        return -1;
    }
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOO$dddKpppdddO", keywords, &control, &ring,
                                     &weights, &geometry, &adapter_rate, &head_rate, &forgetting,
                                     &flush_threshold, &reference, &keep, &journal, &ewc,
                                     &default_quality, &feedback_timeout, &reward))
        return -1;
    struct learner *l = &self->learner;
    if (geometry_argument(geometry, &l->geometry) < 0) return -1;
    l->options = (struct learner_options){
        .adapter_rate = (float)adapter_rate,
        /* The reference rule moves the adapter itself. */
        .rates = {reference ? 0.0f : (float)adapter_rate, (float)head_rate, ewc, forgetting},
        .flush_threshold = flush_threshold,
        .reference = reference,
        .keep = keep,
        .journal = journal,
        .default_quality = default_quality,
        .feedback_timeout_ns = (uint64_t)(feedback_timeout * 1e9),
    };
    if (reward != Py_None) {
        self->reward = Py_NewRef(reward);
        l->options.reward = call_reward;
        l->options.reward_context = reward;
    }
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
    journal_free(&self->learner);
    Py_XDECREF(self->reward);
    type->tp_free(self);
    Py_DECREF(type);
}

int learner_open(const Learner *self)
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

static PyObject *learner_settle_method(Learner *self, PyObject *unused)
{
    (void)unused;
    if (!learner_open(self)) return NULL;
    self->draining = 1;
    Py_BEGIN_ALLOW_THREADS
    learner_settle(&self->learner, clock_ns());
    Py_END_ALLOW_THREADS
    self->draining = 0;
    Py_RETURN_NONE;
}

static PyObject *learner_take_journal(Learner *self, PyObject *unused)
{
    struct rows *decisions = &self->learner.journal_decisions;
    struct rows *outcomes = &self->learner.journal_outcomes;
    (void)unused;
    if (!learner_open(self)) return NULL;
    PyObject *taken = Py_BuildValue("(y#y#)", decisions->bytes ? (char *)decisions->bytes : "",
                                    (Py_ssize_t)decisions->used,
                                    outcomes->bytes ? (char *)outcomes->bytes : "",
                                    (Py_ssize_t)outcomes->used);
    if (taken) decisions->used = outcomes->used = 0;
    return taken;
}

static PyObject *learner_journal_is_behind(Learner *self, void *unused)
{
    (void)unused;
    return PyBool_FromLong(self->learner.journal_is_behind);
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

static PyObject *learner_slow_changed_method(Learner *self, PyObject *unused)
{
    (void)unused;
    if (!learner_open(self)) return NULL;
    learner_slow_changed(&self->learner);
    Py_RETURN_NONE;
}

/* The two blocks lie one behind the other. */
static int learner_getbuffer(Learner *self, Py_buffer *view, int flags)
{
    const struct geometry *g = &self->learner.geometry;
    return PyBuffer_FillInfo(view, (PyObject *)self, self->learner.work,
                             (Py_ssize_t)(g->snapshot_bytes + g->slow_bytes), 0, flags);
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
    {"settle", (PyCFunction)learner_settle_method, METH_NOARGS,
     PyDoc_STR("settle($self, /)\n--\n\nLearn the default of decisions without feedback.")},
    {"take_journal", (PyCFunction)learner_take_journal, METH_NOARGS,
     PyDoc_STR("take_journal($self, /)\n--\n\nRows gathered since: (decisions, outcomes).")},
    {"slow_changed", (PyCFunction)learner_slow_changed_method, METH_NOARGS,
     PyDoc_STR("slow_changed($self, /)\n--\n\n"
               "Have the slow block published with the next version.")},
    {"refit_rows", (PyCFunction)learner_refit_rows, METH_NOARGS,
     PyDoc_STR("refit_rows($self, /)\n--\n\n"
               "Embeddings that the next scheduled refit learns from.")},
    {"prepare_refit", (PyCFunction)learner_prepare_refit, METH_VARARGS,
     PyDoc_STR("prepare_refit($self, projection, offset, centroids, full_centroids, sizes, rows, "
               "time_ns, scheduled, /)\n--\n\n"
               "Repeat the reservoir over newly fitted patterns; returns what can be installed.")},
    {"catch_up_refit", (PyCFunction)learner_catch_up_refit, METH_VARARGS,
     PyDoc_STR("catch_up_refit($self, refit, limit, /)\n--\n\n"
               "Repeat up to limit outcomes that came since; returns how many are left.")},
    {"install_refit", (PyCFunction)learner_install_refit, METH_O,
     PyDoc_STR("install_refit($self, refit, /)\n--\n\n"
               "Make a refit part of the working block.")},
    {"end_scheduled_refit", (PyCFunction)learner_end_scheduled_refit, METH_O,
     PyDoc_STR("end_scheduled_refit($self, installed, /)\n--\n\n"
               "Go on to the next scheduled refit.")},
    {"after_fork", (PyCFunction)learner_after_fork, METH_NOARGS,
     PyDoc_STR("after_fork($self, /)\n--\n\nForget a thread that drains in the parent.")},
    {"release", (PyCFunction)learner_release, METH_NOARGS,
     PyDoc_STR("release($self, /)\n--\n\nLet the segments go.")},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef learner_attributes[] = {
    {"refit_may_begin", (getter)learner_refit_may_begin, NULL,
     PyDoc_STR("Whether enough was learned for the next refit."), NULL},
    {"refit_is_due", (getter)learner_refit_is_due, NULL,
     PyDoc_STR("Whether nothing more is learned before the refit is installed."), NULL},
    {"journal_is_behind", (getter)learner_journal_is_behind, NULL,
     PyDoc_STR("Whether the last drain left decisions that are not gathered yet."), NULL},
    {"refits", (getter)learner_refits, NULL,
     PyDoc_STR("Refits installed or given up."), NULL},
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
    {Py_tp_doc, "Consumer of all lanes and writer of the weights; its buffer is the working block, "
                "and behind it the slow block that it belongs to."},
    {0, NULL},
};

PyType_Spec learner_spec = {
    .name = "sona_shm._core.Learner",
    .basicsize = sizeof(Learner),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = learner_slots,
};
