/* What the Python-facing files share: module state, arguments, held segments. */
#ifndef SONA_PYTHON_H
#define SONA_PYTHON_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "layout.h"

/* Python objects the core needs; set once when the module is first imported. */
struct core_objects {
    PyObject *shape_error, *non_finite_error, *record_too_large_error, *engine_closed;
    PyObject *corrupt_segment, *dtype_error, *out_of_range_error;
    PyObject *config_error, *engine_not_found;
    PyObject *as_float32; /* coerces what is no contiguous float32 array, or raises */
    PyObject *out;        /* the interned keyword */
    PyObject *pack_extra; /* the strings of a trajectory as bytes */
    PyTypeObject *query_trajectory, *trajectory_step;
};
extern struct core_objects core;

extern PyType_Spec words_spec, reader_spec, lane_spec, learner_spec;

/* ---- arguments.c ---- */

/* A contiguous float32 array: numpy arrays and buffers without a copy, the rest through numpy. */
struct float_argument {
    float *data;
    Py_ssize_t rows, columns; /* rows is -1 for one dimension */
    PyObject *owner;
    Py_buffer buffer; /* buffer.obj is NULL if none is held */
};
int arguments_initialise(void);
/* One dimension or two; `columns`, where not 0, is only for the message about any other. */
int float_argument_read(struct float_argument *argument, PyObject *object, const char *name,
                        uint64_t columns);
/* One dimension of `columns` values. */
int float_argument_row(struct float_argument *argument, PyObject *object, const char *name,
                       uint64_t columns);
int float_argument_write(struct float_argument *argument, PyObject *object, const char *name);
void float_argument_release(struct float_argument *argument);
PyObject *new_float_array(Py_ssize_t rows, Py_ssize_t columns, float **data);

/* A number as double; raises TypeError naming it. */
int number_argument(PyObject *object, const char *name, double *value);
/* An integer from 0 to 2**64 - 1, of Python or numpy. */
int unsigned_argument(PyObject *object, const char *name, uint64_t *value);
/* A finite quality in [0, 1]. */
int quality_argument(PyObject *object, double *quality);

/* ---- segments held by an object ---- */

/* Takes a writable buffer of at least `bytes` bytes; returns its address or NULL with an error. */
uint8_t *segment_hold(Py_buffer *view, PyObject *object, uint64_t bytes, const char *name);
int geometry_argument(PyObject *tuple, struct geometry *geometry);

/* ---- record.c ---- */

struct producer;
/* Learns where the fields of the two Python classes lie; call once. */
int record_initialise(void);
/* Encodes a trajectory straight into the lane: 1 recorded, 0 lane full, -1 with an error.
 * Reading the trajectory may run Python, which may close the engine: `ring` tells.  `route_index`
 * maps the names of routes to their indices. */
int record_trajectory(struct producer *producer, const Py_buffer *ring, uint64_t hidden_dim,
                      PyObject *trajectory, PyObject *route_index);
/* (id, embedding, [(activations, attention, reward, index)], quality, latency_us, extra) */
PyObject *decode_trajectory(const struct record_header *record, const uint8_t *body,
                            uint64_t hidden_dim);

uint64_t clock_ns(void);

#endif
