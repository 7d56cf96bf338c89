/* Arguments: numbers, float32 arrays, segments. */
#include "python.h"

#include <math.h>

#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#define NPY_TARGET_VERSION NPY_1_25_API_VERSION
#include <numpy/arrayobject.h>

#include "kernels.h"

int arguments_initialise(void)
{
    import_array1(-1);
    return 0;
}

/* ---- float arrays ---- */

static int take_array(struct float_argument *argument, PyArrayObject *array)
{
    if (PyArray_TYPE(array) != NPY_FLOAT32 || !PyArray_ISCARRAY_RO(array)) return 0;
    const int dimensions = PyArray_NDIM(array);
    if (dimensions != 1 && dimensions != 2) return 0;
    argument->rows = dimensions == 2 ? PyArray_DIM(array, 0) : -1;
    argument->columns = PyArray_DIM(array, dimensions - 1);
    argument->data = PyArray_DATA(array);
    argument->owner = (PyObject *)array;
    Py_INCREF(array);
    argument->buffer.obj = NULL;
    return 1;
}

static int is_float_format(const char *format)
{
    return format && (strcmp(format, "f") == 0 || strcmp(format, "<f") == 0 ||
                      strcmp(format, "=f") == 0 || strcmp(format, "@f") == 0);
}

static int take_buffer(struct float_argument *argument, PyObject *object, int flags)
{
    Py_buffer *view = &argument->buffer;
    if (!PyObject_CheckBuffer(object)) return 0;
    if (PyObject_GetBuffer(object, view, PyBUF_FORMAT | PyBUF_C_CONTIGUOUS | flags) < 0) {
        PyErr_Clear();
        return 0;
    }
    const int aligned = (uintptr_t)view->buf % sizeof(float) == 0;
    if (!aligned || !is_float_format(view->format) || view->ndim < 1 || view->ndim > 2) {
        PyBuffer_Release(view);
        return 0;
    }
    argument->rows = view->ndim == 2 ? view->shape[0] : -1;
    argument->columns = view->shape[view->ndim - 1];
    argument->data = view->buf;
    argument->owner = NULL;
    return 1;
}

static void refuse_dimensions(PyArrayObject *array, const char *name, uint64_t columns)
{
    PyObject *shape = PyObject_GetAttrString((PyObject *)array, "shape");
    if (shape && columns) {
        PyErr_Format(core.shape_error, "%s has shape %R, expected (%llu,) or (rows, %llu)", name,
                     shape, (unsigned long long)columns, (unsigned long long)columns);
    } else if (shape) {
        PyErr_Format(core.shape_error, "%s has shape %R, expected one dimension", name, shape);
    }
    Py_XDECREF(shape);
}

int float_argument_read(struct float_argument *argument, PyObject *object, const char *name,
                        uint64_t columns)
{
    if (PyArray_Check(object) && take_array(argument, (PyArrayObject *)object)) return 0;
    if (!PyArray_Check(object) && take_buffer(argument, object, 0)) return 0;
    PyObject *array = PyObject_CallFunction(core.as_float32, "Os", object, name);
    if (!array) return -1;
    const int taken = take_array(argument, (PyArrayObject *)array);
    if (!taken) refuse_dimensions((PyArrayObject *)array, name, columns);
    Py_DECREF(array);
    return taken ? 0 : -1;
}

int float_argument_row(struct float_argument *argument, PyObject *object, const char *name,
                       uint64_t columns)
{
    if (float_argument_read(argument, object, name, columns) < 0) return -1;
    if (argument->rows == -1 && (uint64_t)argument->columns == columns) return 0;
    if (argument->rows == -1) {
        PyErr_Format(core.shape_error, "%s has shape (%zd,), expected (%llu,)", name,
                     argument->columns, (unsigned long long)columns);
    } else {
        PyErr_Format(core.shape_error, "%s has shape (%zd, %zd), expected (%llu,)", name,
                     argument->rows, argument->columns, (unsigned long long)columns);
    }
    float_argument_release(argument);
    return -1;
}

int float_argument_write(struct float_argument *argument, PyObject *object, const char *name)
{
    if (PyArray_Check(object)) {
        PyArrayObject *array = (PyArrayObject *)object;
        if (PyArray_ISWRITEABLE(array) && take_array(argument, array)) return 0;
    } else if (take_buffer(argument, object, PyBUF_WRITABLE)) {
        return 0;
    }
    PyErr_Format(core.dtype_error,
                 "%s must be a writable, C-contiguous float32 array of one or two dimensions, "
                 "got %.200s; allocate it with numpy.empty(shape, numpy.float32)",
                 name, Py_TYPE(object)->tp_name);
    return -1;
}

void float_argument_release(struct float_argument *argument)
{
    if (argument->buffer.obj) PyBuffer_Release(&argument->buffer);
    Py_CLEAR(argument->owner);
}

PyObject *new_float_array(Py_ssize_t rows, Py_ssize_t columns, float **data)
{
    npy_intp shape[2] = {rows, columns};
    PyObject *array = rows < 0 ? PyArray_SimpleNew(1, shape + 1, NPY_FLOAT32)
                               : PyArray_SimpleNew(2, shape, NPY_FLOAT32);
    if (array) *data = PyArray_DATA((PyArrayObject *)array);
    return array;
}

/* ---- numbers ---- */

int number_argument(PyObject *object, const char *name, double *value)
{
    *value = PyFloat_AsDouble(object);
    if (*value != -1.0 || !PyErr_Occurred()) return 0;
    if (PyErr_ExceptionMatches(PyExc_OverflowError))
        PyErr_Format(core.out_of_range_error, "%s is too large for a number of 64 bits", name);
    if (PyErr_ExceptionMatches(PyExc_TypeError))
        PyErr_Format(core.dtype_error, "%s must be a number, got %.200s", name,
                     Py_TYPE(object)->tp_name);
    return -1;
}

int unsigned_argument(PyObject *object, const char *name, uint64_t *value)
{
    PyObject *integer = PyNumber_Index(object); /* numpy's integers are meant too */
    *value = integer ? PyLong_AsUnsignedLongLong(integer) : UINT64_MAX;
    Py_XDECREF(integer);
    if (*value != UINT64_MAX || !PyErr_Occurred()) return 0;
    if (PyErr_ExceptionMatches(PyExc_OverflowError)) {
        PyErr_Format(core.out_of_range_error, "%s is %R, expected an integer from 0 to 2**64 - 1",
                     name, object);
    } else if (PyErr_ExceptionMatches(PyExc_TypeError)) {
        PyErr_Format(core.dtype_error, "%s must be an integer, got %.200s", name,
                     Py_TYPE(object)->tp_name);
    }
    return -1;
}

int quality_argument(PyObject *object, double *quality)
{
    if (number_argument(object, "quality", quality) < 0) return -1;
    if (!isfinite(*quality)) {
        PyErr_Format(core.non_finite_error, "quality is %R, expected a finite number in [0, 1]",
                     object);
        return -1;
    }
    if (*quality < 0.0 || *quality > 1.0) {
        PyErr_Format(core.out_of_range_error, "quality is %R, expected a number in [0, 1]", object);
        return -1;
    }
    return 0;
}

/* ---- segments ---- */

uint8_t *segment_hold(Py_buffer *view, PyObject *object, uint64_t bytes, const char *name)
{
    if (PyObject_GetBuffer(object, view, PyBUF_WRITABLE) < 0) return NULL;
    if ((uint64_t)view->len >= bytes && (uintptr_t)view->buf % CACHE_LINE == 0) return view->buf;
    PyErr_Format(PyExc_ValueError, "the %s segment has %zd bytes, the geometry needs %llu", name,
                 view->len, (unsigned long long)bytes);
    PyBuffer_Release(view);
    return NULL;
}

int geometry_argument(PyObject *tuple, struct geometry *g)
{
    unsigned long long v[10];
    if (!PyTuple_Check(tuple)) {
        PyErr_SetString(PyExc_TypeError, "geometry must be a tuple of ten integers");
        return -1;
    }
    if (!PyArg_ParseTuple(tuple, "KKKKKKKKKK;geometry is a tuple of ten integers", &v[0], &v[1],
                          &v[2], &v[3], &v[4], &v[5], &v[6], &v[7], &v[8], &v[9]))
        return -1;
    *g = (struct geometry){.hidden_dim = v[0], .rank = v[1], .routes = v[2], .max_workers = v[3],
                           .pending_decisions = v[4], .lane_bytes = v[5], .patterns = v[6],
                           .reservoir = v[7], .base_rank = v[8], .tasks = v[9]};
    const char *problem = geometry_complete(g);
    if (!problem) return 0;
    PyErr_SetString(PyExc_ValueError, problem);
    return -1;
}
