/* Words: single 64-bit words of a segment, for control words, counters and the monitor. */
#include "python.h"

typedef struct {
    PyObject_HEAD
    Py_buffer view; /* view.obj is NULL when released */
} Words;

static int words_init(Words *self, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"segment", NULL};
    PyObject *segment;
    if (self->view.obj) {
        PyErr_SetString(PyExc_RuntimeError, "a Words is initialised once");
        return -1;
    }
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O", keywords, &segment)) return -1;
    return segment_hold(&self->view, segment, sizeof(shared_word), "given") ? 0 : -1;
}

static PyObject *words_release(Words *self, PyObject *unused)
{
    (void)unused;
    if (self->view.obj) PyBuffer_Release(&self->view);
    Py_RETURN_NONE;
}

static void words_dealloc(Words *self)
{
    PyTypeObject *type = Py_TYPE(self);
    if (self->view.obj) PyBuffer_Release(&self->view);
    type->tp_free(self);
    Py_DECREF(type);
}

static shared_word *word_at(const Words *self, PyObject *offset_object)
{
    const Py_ssize_t offset = PyLong_AsSsize_t(offset_object);
    if (offset == -1 && PyErr_Occurred()) return NULL;
    if (!self->view.obj) {
        PyErr_SetString(core.engine_closed, "the engine is closed; attach to it again");
        return NULL;
    }
    if (offset < 0 || offset % 8 || offset > self->view.len - 8) {
        PyErr_Format(PyExc_IndexError, "no word at offset %zd of %zd bytes", offset,
                     self->view.len);
        return NULL;
    }
    return (shared_word *)((uint8_t *)self->view.buf + offset);
}

static PyObject *words_load(Words *self, PyObject *offset)
{
    const shared_word *word = word_at(self, offset);
    return word ? PyLong_FromUnsignedLongLong(load_acquire(word)) : NULL;
}

static int two_arguments(PyObject *const *args, Py_ssize_t count, uint64_t *value)
{
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "expected an offset and a value");
        return 0;
    }
    *value = PyLong_AsUnsignedLongLong(args[1]);
    return !(*value == UINT64_MAX && PyErr_Occurred());
}

static PyObject *words_store(Words *self, PyObject *const *args, Py_ssize_t count)
{
    uint64_t value;
    if (!two_arguments(args, count, &value)) return NULL;
    shared_word *word = word_at(self, args[0]);
    if (!word) return NULL;
    store_release(word, value);
    Py_RETURN_NONE;
}

static PyObject *words_add(Words *self, PyObject *const *args, Py_ssize_t count)
{
    uint64_t value;
    if (!two_arguments(args, count, &value)) return NULL;
    shared_word *word = word_at(self, args[0]);
    if (!word) return NULL;
    return PyLong_FromUnsignedLongLong(
        atomic_fetch_add_explicit(word, value, memory_order_acq_rel));
}

static PyObject *words_exchange(Words *self, PyObject *const *args, Py_ssize_t count)
{
    uint64_t value;
    if (!two_arguments(args, count, &value)) return NULL;
    shared_word *word = word_at(self, args[0]);
    if (!word) return NULL;
    atomic_thread_fence(memory_order_seq_cst);
    return PyLong_FromUnsignedLongLong(
        atomic_exchange_explicit(word, value, memory_order_seq_cst));
}

static PyObject *words_first(Words *self, PyObject *const *args, Py_ssize_t count)
{
    uint64_t value, found = 0;
    if (!two_arguments(args, count, &value)) return NULL;
    shared_word *word = word_at(self, args[0]);
    if (!word) return NULL;
    const int stored = atomic_compare_exchange_strong_explicit(
        word, &found, value, memory_order_acq_rel, memory_order_acquire);
    return PyLong_FromUnsignedLongLong(stored ? value : found);
}

static PyMethodDef words_methods[] = {
    {"load", (PyCFunction)words_load, METH_O,
     PyDoc_STR("load($self, offset, /)\n--\n\nThe word at a byte offset (acquire).")},
    {"store", (PyCFunction)(void (*)(void))words_store, METH_FASTCALL,
     PyDoc_STR("store($self, offset, value, /)\n--\n\nStore a word (release).")},
    {"add", (PyCFunction)(void (*)(void))words_add, METH_FASTCALL,
     PyDoc_STR("add($self, offset, value, /)\n--\n\nAdd to a word; returns what it was.")},
    {"exchange", (PyCFunction)(void (*)(void))words_exchange, METH_FASTCALL,
     PyDoc_STR("exchange($self, offset, value, /)\n--\n\nReplace a word; returns what it was.")},
    {"first", (PyCFunction)(void (*)(void))words_first, METH_FASTCALL,
     PyDoc_STR("first($self, offset, value, /)\n--\n\n"
               "Store a word that is still zero; returns what it is then.")},
    {"release", (PyCFunction)words_release, METH_NOARGS,
     PyDoc_STR("release($self, /)\n--\n\nLet the segment go.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot words_slots[] = {
    {Py_tp_init, words_init},
    {Py_tp_dealloc, words_dealloc},
    {Py_tp_methods, words_methods},
    {Py_tp_doc, "Atomic access to the 64-bit words of a segment."},
    {0, NULL},
};

PyType_Spec words_spec = {
    .name = "sona_shm._core.Words",
    .basicsize = sizeof(Words),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = words_slots,
};
