/* Reader: what any attached process may do with the published weights.  Base class of Engine. */
#include "decide.h"
#include "python.h"
#include "reservoir.h"

typedef struct {
    PyObject_HEAD
    Py_buffer weights; /* weights.obj is NULL when released */
    struct geometry geometry;
    struct cell fast, slow;
    float *scratch;
} Reader;

static int reader_init(Reader *self, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"weights", "geometry", NULL};
    PyObject *weights, *geometry;
    if (self->weights.obj) {
        PyErr_SetString(PyExc_RuntimeError, "a Reader is initialised once");
        return -1;
    }
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO", keywords, &weights, &geometry)) return -1;
    if (geometry_argument(geometry, &self->geometry) < 0) return -1;
    const struct geometry *g = &self->geometry;
    self->scratch = PyMem_Malloc(2 * (g->rank + g->base_rank) * g->hidden_dim * sizeof(float));
    if (!self->scratch) return PyErr_NoMemory(), -1;
    uint8_t *base = segment_hold(&self->weights, weights, g->weights_bytes, "weights");
    if (!base) return -1;
    self->fast = fast_cell(base, g);
    self->slow = slow_cell(base, g);
    return 0;
}

static PyObject *reader_release(Reader *self, PyObject *unused)
{
    (void)unused;
    if (self->weights.obj) PyBuffer_Release(&self->weights);
    Py_RETURN_NONE;
}

/* Runs before weak references to the object are called, so that what they close is not held. */
static void reader_finalize(PyObject *self)
{
    Py_buffer *weights = &((Reader *)self)->weights;
    if (weights->obj) PyBuffer_Release(weights);
}

static void reader_dealloc(Reader *self)
{
    PyTypeObject *type = Py_TYPE(self);
    if (PyObject_CallFinalizerFromDealloc((PyObject *)self) < 0) return;
    PyObject_GC_UnTrack(self);
    PyMem_Free(self->scratch);
    type->tp_free(self);
    Py_DECREF(type);
}

static int reader_traverse(Reader *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->weights.obj);
    return 0;
}

static int reader_open(const Reader *self)
{
    if (self->weights.obj) return 1;
    PyErr_SetString(core.engine_closed, "the engine is closed; attach to it again");
    return 0;
}

static PyObject *disturbed(void)
{
    PyErr_Format(core.corrupt_segment,
                 "the weights changed under %d reads in a row, which a sound cell cannot do; "
                 "destroy the engine and create it again",
                 READ_ATTEMPTS);
    return NULL;
}

/* ---- apply ---- */

/* "(384,)" or "(2, 384)" */
static PyObject *shape_of(const struct float_argument *array)
{
    return array->rows < 0 ? PyUnicode_FromFormat("(%zd,)", array->columns)
                           : PyUnicode_FromFormat("(%zd, %zd)", array->rows, array->columns);
}

static int shapes_match(const Reader *self, const struct float_argument *x,
                        const struct float_argument *out)
{
    const Py_ssize_t n = (Py_ssize_t)self->geometry.hidden_dim;
    if (x->columns == n && (!out || (out->columns == n && out->rows == x->rows))) return 1;
    PyObject *given = shape_of(x->columns == n ? out : x), *expected = shape_of(x);
    if (given && expected && x->columns != n) {
        PyErr_Format(core.shape_error, "x has shape %U, expected (%zd,) or (rows, %zd)", given, n,
                     n);
    } else if (given && expected) {
        PyErr_Format(core.shape_error, "out has shape %U, expected that of x, %U", given, expected);
    }
    Py_XDECREF(given);
    Py_XDECREF(expected);
    return 0;
}

/* out may be x or overlap it: then x is copied first, so that a repeated read sees it unchanged. */
static int apply_arrays(Reader *self, const struct float_argument *x, float *out)
{
    if (!reader_open(self)) return -1; /* again: reading x may have run Python */
    const size_t rows = x->rows < 0 ? 1 : (size_t)x->rows;
    const size_t count = rows * self->geometry.hidden_dim;
    const float *from = x->data;
    float *copy = NULL;
    if (out < from + count && from < out + count) {
        copy = PyMem_Malloc(count * sizeof(float));
        if (!copy) return PyErr_NoMemory(), -1;
        from = memcpy(copy, from, count * sizeof(float));
    }
    const enum apply_status status =
        cell_apply(&self->fast, &self->slow, &self->geometry, from, out, rows, self->scratch);
    PyMem_Free(copy);
    if (status == APPLY_DISTURBED) disturbed();
    if (status == APPLY_NOT_FINITE)
        PyErr_SetString(core.non_finite_error,
                        "x holds NaN or infinity, or numbers too large to adapt; expected finite "
                        "numbers, best of about unit length");
    return status == APPLY_DONE ? 0 : -1;
}

static PyObject *apply_into(Reader *self, struct float_argument *x, PyObject *out_object)
{
    struct float_argument out;
    PyObject *result = NULL;
    if (out_object == Py_None) {
        float *data;
        if (!shapes_match(self, x, NULL)) return NULL;
        result = new_float_array(x->rows, x->columns, &data);
        if (result && apply_arrays(self, x, data) < 0) Py_CLEAR(result);
        return result;
    }
    if (float_argument_write(&out, out_object, "out") < 0) return NULL;
    if (shapes_match(self, x, &out) && apply_arrays(self, x, out.data) == 0) {
        Py_INCREF(out_object);
        result = out_object;
    }
    float_argument_release(&out);
    return result;
}

PyDoc_STRVAR(apply_doc,
"apply($self, /, x, out=None)\n--\n\n"
"Adapt embeddings with the adapters that are published at this moment.\n\n"
"Computes ``h = x + (x @ A.T) @ B / sqrt(rank)`` with A and B of the MicroLoRA, plus the same\n"
"term of the BaseLoRA once Loop B has consolidated; without a lock and always from one version\n"
"of the weights, also for a batch.  This is the hot path: with a contiguous float32 ``x`` and\n"
"``out`` nothing is allocated.\n\n"
"Parameters\n----------\n"
"x : array of float32, shape (hidden_dim,) or (n, hidden_dim)\n"
"    Embeddings; other real number types, and lists, are converted first.\n"
"out : writable C-contiguous float32 array with the shape of x, optional\n"
"    Receives the result; may be x itself.\n\n"
"Returns\n-------\n"
"numpy.ndarray of float32, or out\n"
"    The adapted embeddings.\n\n"
"Raises\n------\n"
"ShapeError\n    If the last dimension is not hidden_dim, or out has another shape.\n"
"NonFiniteError\n    If x holds NaN, infinity, or numbers whose products are infinite.\n"
"TypeError\n    If x cannot be converted to float32, or out is not writable float32.\n"
"EngineClosed\n    After close().\n\n"
"Examples\n--------\n"
">>> import numpy as np, sona_shm as sona\n"
">>> engine = sona.Engine.create('doc-apply', sona.SonaConfig(hidden_dim=4), learner='inline')\n"
">>> engine.apply(np.ones(4, np.float32))          # nothing learned yet: the identity\n"
"array([1., 1., 1., 1.], dtype=float32)\n"
">>> engine.close(); sona.Engine.destroy('doc-apply')\n\n"
"References\n----------\n"
"Hu et al. (2021), LoRA: Low-Rank Adaptation of Large Language Models, arXiv:2106.09685.\n");

static int is_keyword(PyObject *keyword, const char *name)
{
    return PyUnicode_CompareWithASCIIString(keyword, name) == 0;
}

static PyObject *reader_apply(Reader *self, PyObject *const *args, Py_ssize_t count,
                              PyObject *keywords)
{
    static const char *const names[] = {"x", "out"};
    PyObject *values[2] = {NULL, NULL};
    const Py_ssize_t named = keywords ? PyTuple_GET_SIZE(keywords) : 0;
    int known = count <= 2;
    for (Py_ssize_t i = 0; known && i < count; i++) values[i] = args[i];
    for (Py_ssize_t i = 0; known && i < named; i++) {
        PyObject *keyword = PyTuple_GET_ITEM(keywords, i);
        /* Keywords of a call are interned: the usual one is found without comparing letters. */
        const int which = keyword == core.out || is_keyword(keyword, names[1]);
        known = !values[which] && (keyword == core.out || is_keyword(keyword, names[which]));
        values[which] = args[count + i];
    }
    if (!known || !values[0]) {
        PyErr_SetString(PyExc_TypeError, "apply() takes x and optionally out");
        return NULL;
    }
    if (!reader_open(self)) return NULL;
    struct float_argument x;
    if (float_argument_read(&x, values[0], "x", self->geometry.hidden_dim) < 0) return NULL;
    PyObject *result = apply_into(self, &x, values[1] ? values[1] : Py_None);
    float_argument_release(&x);
    return result;
}

/* ---- the whole block ---- */

PyDoc_STRVAR(snapshot_doc, "_snapshot($self, /)\n--\n\n"
                           "A consistent copy of the whole published block, as bytes.");

static PyObject *reader_snapshot(Reader *self, PyObject *unused)
{
    (void)unused;
    if (!reader_open(self)) return NULL;
    const struct geometry *g = &self->geometry;
    PyObject *block = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)g->snapshot_bytes);
    if (!block) return NULL;
    if (cell_copy(&self->fast, &self->slow, g, (uint8_t *)PyBytes_AS_STRING(block), NULL))
        return block;
    Py_DECREF(block);
    return disturbed();
}

PyDoc_STRVAR(patterns_doc, "_patterns($self, /)\n--\n\n"
                           "The published block and the patterns it belongs to, as bytes.");

static PyObject *reader_patterns(Reader *self, PyObject *unused)
{
    (void)unused;
    if (!reader_open(self)) return NULL;
    const struct geometry *g = &self->geometry;
    PyObject *block = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)g->snapshot_bytes);
    PyObject *slow = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)g->slow_bytes);
    PyObject *both = NULL;
    if (block && slow) {
        both = cell_copy(&self->fast, &self->slow, g, (uint8_t *)PyBytes_AS_STRING(block),
                         (uint8_t *)PyBytes_AS_STRING(slow))
                   ? PyTuple_Pack(2, block, slow)
                   : disturbed();
    }
    Py_XDECREF(block);
    Py_XDECREF(slow);
    return both;
}

PyDoc_STRVAR(rows_doc,
"_rows($self, first, end, /, *, whole=False)\n--\n\n"
"Copies of the reservoir's rows [first, end), as a bytearray: a struct reservoir_row and its\n"
"embedding each, ``reservoir_stride`` bytes apart.  Those that may be learned from; with `whole`\n"
"all of them, but for the oldest ones if a restored engine never had them, or None if one is not\n"
"there any more.");

/* Whether a row belongs into the copy: 1, 0, or -1 if all are wanted and this one is gone.  What a
 * stray write has spoiled, but not moved, is still the row of that position. */
static int is_wanted(enum row_state state, const struct reservoir_row *copy, uint64_t position,
                     int whole, int is_first)
{
    if (!whole || state == ROW_SOUND) return state == ROW_SOUND;
    if (state == ROW_NEVER_HELD && is_first) return 0;
    return state == ROW_UNSOUND && load_relaxed(&copy->sequence) == position + 1 ? 1 : -1;
}

/* Oldest first: the learner overwrites them in this order, and more slowly.  The number of bytes
 * copied, or -1 if a row is not there any more. */
static Py_ssize_t copy_rows(const Reader *self, uint64_t first, uint64_t end, int whole,
                            uint8_t *rows)
{
    const struct geometry *g = &self->geometry;
    const uint8_t *reservoir = (const uint8_t *)self->weights.buf + g->reservoir_offset;
    uint8_t *at = rows;
    for (uint64_t position = first; position < end; position++) {
        struct reservoir_row *copy = (struct reservoir_row *)at;
        const enum row_state state = reservoir_read(g, reservoir, position, copy);
        const int wanted = is_wanted(state, copy, position, whole, at == rows);
        if (wanted < 0) return -1;
        if (wanted) at += g->reservoir_stride;
    }
    return at - rows;
}

static int check_range(const Reader *self, uint64_t first, uint64_t end)
{
    const uint64_t held = self->geometry.reservoir_rows;
    if (first <= end && end - first <= held) return 1;
    PyErr_Format(PyExc_ValueError, "rows %llu to %llu of a reservoir of %llu",
                 (unsigned long long)first, (unsigned long long)end, (unsigned long long)held);
    return 0;
}

static PyObject *reader_rows(Reader *self, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"", "", "whole", NULL};
    unsigned long long first, end;
    int whole = 0;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "KK|$p", names, &first, &end, &whole) ||
        !reader_open(self) || !check_range(self, first, end))
        return NULL;
    const Py_ssize_t bytes = (Py_ssize_t)((end - first) * self->geometry.reservoir_stride);
    PyObject *rows = PyByteArray_FromStringAndSize(NULL, bytes);
    if (!rows) return NULL;
    uint8_t *memory = (uint8_t *)PyByteArray_AS_STRING(rows);
    memset(memory, 0, (size_t)bytes); /* what lies between two rows */
    const Py_ssize_t copied = copy_rows(self, first, end, whole, memory);
    if (copied < 0) {
        Py_DECREF(rows);
        Py_RETURN_NONE;
    }
    if (PyByteArray_Resize(rows, copied) < 0) Py_CLEAR(rows);
    return rows;
}

PyDoc_STRVAR(version_doc, "_version($self, /)\n--\n\nThe number of the published version.");

static PyObject *reader_version(Reader *self, PyObject *unused)
{
    (void)unused;
    if (!reader_open(self)) return NULL;
    return PyLong_FromUnsignedLongLong(load_acquire(&self->fast.header->version));
}

static PyMethodDef reader_methods[] = {
    {"apply", (PyCFunction)(void (*)(void))reader_apply, METH_FASTCALL | METH_KEYWORDS, apply_doc},
    {"_snapshot", (PyCFunction)reader_snapshot, METH_NOARGS, snapshot_doc},
    {"_patterns", (PyCFunction)reader_patterns, METH_NOARGS, patterns_doc},
    {"_rows", (PyCFunction)(void (*)(void))reader_rows, METH_VARARGS | METH_KEYWORDS, rows_doc},
    {"_version", (PyCFunction)reader_version, METH_NOARGS, version_doc},
    {"_release", (PyCFunction)reader_release, METH_NOARGS,
     PyDoc_STR("_release($self, /)\n--\n\nLet the weights segment go.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot reader_slots[] = {
    {Py_tp_init, reader_init},       {Py_tp_dealloc, reader_dealloc},
    {Py_tp_methods, reader_methods}, {Py_tp_traverse, reader_traverse},
    {Py_tp_finalize, reader_finalize},
    {Py_tp_doc, "Reads the published weights of an engine."},
    {0, NULL},
};

PyType_Spec reader_spec = {
    .name = "sona_shm._core.Reader",
    .basicsize = sizeof(Reader),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = reader_slots,
};
