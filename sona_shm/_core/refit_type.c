/* Learner: refits, which run in threads of their own beside the one that drains. */
#include "learner_type.h"
#include "refit.h"

#define CAPSULE_NAME "sona_shm._core.refit"

PyObject *learner_refit_rows(Learner *self, PyObject *unused)
{
    const struct geometry *g = &self->learner.geometry;
    uint64_t rows;
    (void)unused;
    if (!self->ring.obj) return PyErr_SetString(core.engine_closed, "the engine is closed"), NULL;
    PyObject *bytes = PyByteArray_FromStringAndSize(
        NULL, (Py_ssize_t)(g->reservoir * g->hidden_dim * sizeof(float)));
    if (!bytes) return NULL;
    float *embeddings = (float *)PyByteArray_AS_STRING(bytes);
    self->refitting += 1;
    Py_BEGIN_ALLOW_THREADS
    rows = refit_rows(&self->learner, embeddings);
    Py_END_ALLOW_THREADS
    self->refitting -= 1;
    if (PyByteArray_Resize(bytes, (Py_ssize_t)(rows * g->hidden_dim * sizeof(float))) < 0)
        Py_CLEAR(bytes);
    return bytes;
}

static int fit_is_sound(const struct geometry *g, const Py_buffer *view, uint64_t count)
{
    return count >= 1 && count <= g->patterns &&
           (uint64_t)view[0].len == PROJECTED * g->hidden_dim * sizeof(float) &&
           (uint64_t)view[1].len == PROJECTED * sizeof(float) &&
           (uint64_t)view[2].len == count * PROJECTED * sizeof(float) &&
           (uint64_t)view[3].len == count * g->hidden_dim * sizeof(float);
}

static void free_capsule(PyObject *capsule)
{
    refit_free(PyCapsule_GetPointer(capsule, CAPSULE_NAME));
}

static PyObject *prepare(Learner *self, const struct patterns_fit *fit, int scheduled)
{
    struct learner *l = &self->learner;
    const uint64_t filled = load_acquire(&l->reservoir_filled);
    const uint64_t begins = scheduled ? refit_begins_at(l->refit_number) : filled;
    if (begins == 0 || begins > filled)
        return PyErr_SetString(PyExc_ValueError, "there are no outcomes to repeat"), NULL;
    struct refit *refit;
    self->refitting += 1;
    Py_BEGIN_ALLOW_THREADS
    refit = refit_prepare(l, fit, begins);
    Py_END_ALLOW_THREADS
    self->refitting -= 1;
    if (!refit) return PyErr_NoMemory();
    PyObject *capsule = PyCapsule_New(refit, CAPSULE_NAME, free_capsule);
    if (!capsule) refit_free(refit);
    return capsule;
}

PyObject *learner_prepare_refit(Learner *self, PyObject *args)
{
    Py_buffer view[5];
    unsigned long long rows, time_ns;
    int scheduled;
    if (!PyArg_ParseTuple(args, "y*y*y*y*y*KKp", &view[0], &view[1], &view[2], &view[3], &view[4],
                          &rows, &time_ns, &scheduled))
        return NULL;
    const uint64_t count = (uint64_t)view[4].len / sizeof(uint64_t);
    const struct patterns_fit fit = {view[0].buf, view[1].buf, view[2].buf, view[3].buf,
                                     view[4].buf, count,       rows,        time_ns};
    PyObject *capsule = NULL;
    if (!self->ring.obj || !fit_is_sound(&self->learner.geometry, view, count))
        PyErr_SetString(PyExc_ValueError, "the engine is closed, or the arrays of the fit do not "
                                          "have the shapes of its geometry");
    else capsule = prepare(self, &fit, scheduled);
    for (int i = 0; i < 5; i++) PyBuffer_Release(&view[i]);
    return capsule;
}

/* A refit that this learner prepared, or NULL with an error. */
static struct refit *refit_of(const Learner *self, PyObject *capsule)
{
    struct refit *refit = PyCapsule_GetPointer(capsule, CAPSULE_NAME);
    if (!refit || refit->model.geometry == &self->learner.geometry) return refit;
    PyErr_SetString(PyExc_ValueError, "the refit was prepared by another learner");
    return NULL;
}

PyObject *learner_catch_up_refit(Learner *self, PyObject *args)
{
    PyObject *capsule;
    unsigned long long limit;
    if (!PyArg_ParseTuple(args, "OK", &capsule, &limit) || !learner_open(self)) return NULL;
    struct refit *refit = refit_of(self, capsule);
    if (!refit) return NULL;
    return PyLong_FromUnsignedLongLong(refit_catch_up(&self->learner, refit, limit));
}

PyObject *learner_install_refit(Learner *self, PyObject *capsule)
{
    if (!learner_open(self)) return NULL;
    struct refit *refit = refit_of(self, capsule);
    if (!refit) return NULL;
    refit_install(&self->learner, refit);
    Py_RETURN_NONE;
}

PyObject *learner_end_scheduled_refit(Learner *self, PyObject *installed)
{
    const int done = PyObject_IsTrue(installed);
    if (done < 0 || !learner_open(self)) return NULL;
    refit_done(&self->learner, done);
    Py_RETURN_NONE;
}

PyObject *learner_refit_may_begin(Learner *self, void *unused)
{
    (void)unused;
    return PyBool_FromLong(refit_may_begin(&self->learner));
}

PyObject *learner_refit_is_due(Learner *self, void *unused)
{
    (void)unused;
    return PyBool_FromLong(refit_is_due(&self->learner));
}

PyObject *learner_refits(Learner *self, void *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLongLong(learner_header(&self->learner)->refits);
}
