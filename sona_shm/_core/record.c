/* Trajectories between Python objects and records of a lane. */
#include "python.h"

#include <math.h>
#include <time.h>

#include "kernels.h"
#include "lane.h"

/* Steps whose arrays are kept on the stack; longer trajectories take memory for them. */
#define INLINE_STEPS 16

uint64_t clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

struct step_argument {
    struct float_argument activations, attention;
    int has_attention;
    double reward;
    uint32_t index;
};

struct trajectory_argument {
    struct float_argument embedding;
    struct step_argument inline_steps[INLINE_STEPS], *steps;
    Py_ssize_t step_count, held; /* steps whose arrays are held */
    int has_embedding;
    uint64_t id, latency_us;
    double quality;
};

static void release_step(struct step_argument *step)
{
    float_argument_release(&step->activations);
    if (step->has_attention) float_argument_release(&step->attention);
}

static void release_trajectory(struct trajectory_argument *t)
{
    if (t->has_embedding) float_argument_release(&t->embedding);
    for (Py_ssize_t i = 0; i < t->held; i++) release_step(&t->steps[i]);
    if (t->steps != t->inline_steps) PyMem_Free(t->steps);
}

/* ---- reading attributes ---- */

static int read_unsigned(PyObject *object, PyObject *name, uint64_t *value)
{
    PyObject *attribute = PyObject_GetAttr(object, name);
    if (!attribute) return -1;
    *value = PyLong_AsUnsignedLongLong(attribute);
    Py_DECREF(attribute);
    if (*value != UINT64_MAX || !PyErr_Occurred()) return 0;
    PyErr_Format(core.dtype_error, "%U must be an integer from 0 to 2**64 - 1", name);
    return -1;
}

static int is_empty(PyObject *object)
{
    return object == Py_None || (PyList_CheckExact(object) && PyList_GET_SIZE(object) == 0) ||
           (PyTuple_CheckExact(object) && PyTuple_GET_SIZE(object) == 0);
}

static int read_attention(PyObject *object, struct step_argument *step)
{
    PyObject *attention = PyObject_GetAttr(object, core.attention_weights);
    if (!attention) return -1;
    int status = 0;
    step->has_attention = 0;
    if (!is_empty(attention)) {
        status = float_argument_read(&step->attention, attention, "attention_weights");
        step->has_attention = status == 0;
        if (step->has_attention && step->attention.rows != -1) {
            PyErr_SetString(core.shape_error, "attention_weights must have one dimension");
            status = -1;
        }
    }
    Py_DECREF(attention);
    return status;
}

static int read_step(PyObject *object, struct step_argument *step, uint64_t hidden_dim)
{
    uint64_t index;
    PyObject *reward = PyObject_GetAttr(object, core.reward);
    if (!reward) return -1;
    const int is_number = number_argument(reward, "reward", &step->reward) == 0;
    if (is_number && !isfinite((float)step->reward))
        PyErr_Format(core.non_finite_error, "the reward of a step is %R, expected a finite number",
                     reward);
    Py_DECREF(reward);
    if (!is_number || !isfinite((float)step->reward)) return -1;
    if (read_unsigned(object, core.step_idx, &index) < 0) return -1;
    step->index = (uint32_t)index;

    PyObject *activations = PyObject_GetAttr(object, core.activations);
    if (!activations) return -1;
    const int status =
        float_argument_row(&step->activations, activations, "activations", hidden_dim);
    Py_DECREF(activations);
    if (status < 0) return -1;
    if (read_attention(object, step) == 0) return 0;
    release_step(step);
    return -1;
}

static int read_steps(PyObject *object, struct trajectory_argument *t, uint64_t hidden_dim)
{
    PyObject *steps = PyObject_GetAttr(object, core.steps);
    if (!steps) return -1;
    PyObject *sequence = PySequence_Fast(steps, "steps must be a sequence of TrajectoryStep");
    Py_DECREF(steps);
    if (!sequence) return -1;
    t->step_count = PySequence_Fast_GET_SIZE(sequence);
    if (t->step_count > INLINE_STEPS) {
        t->steps = PyMem_Calloc((size_t)t->step_count, sizeof *t->steps);
        if (!t->steps) {
            t->steps = t->inline_steps;
            Py_DECREF(sequence);
            PyErr_NoMemory();
            return -1;
        }
    }
    int status = 0;
    for (; status == 0 && t->held < t->step_count; t->held += status == 0)
        status = read_step(PySequence_Fast_GET_ITEM(sequence, t->held), &t->steps[t->held],
                           hidden_dim);
    Py_DECREF(sequence);
    return status;
}

static int read_trajectory(PyObject *object, struct trajectory_argument *t, uint64_t hidden_dim)
{
    if (read_unsigned(object, core.id, &t->id) < 0) return -1;
    if (read_unsigned(object, core.latency_us, &t->latency_us) < 0) return -1;
    PyObject *quality = PyObject_GetAttr(object, core.final_quality);
    if (!quality) return -1;
    int status = quality_argument(quality, &t->quality);
    Py_DECREF(quality);
    if (status < 0) return -1;
    PyObject *embedding = PyObject_GetAttr(object, core.query_embedding);
    if (!embedding) return -1;
    status = float_argument_row(&t->embedding, embedding, "query_embedding", hidden_dim);
    Py_DECREF(embedding);
    if (status < 0) return -1;
    t->has_embedding = 1;
    return read_steps(object, t, hidden_dim);
}

/* ---- writing the record ---- */

static uint64_t record_length(const struct trajectory_argument *t, uint64_t hidden_dim,
                              uint64_t extra_bytes)
{
    const uint64_t row = hidden_dim * sizeof(float);
    uint64_t length = sizeof(struct record_header) + row + extra_bytes;
    for (Py_ssize_t i = 0; i < t->step_count; i++) {
        length += sizeof(struct step_header) + row;
        if (t->steps[i].has_attention)
            length += (uint64_t)t->steps[i].attention.columns * sizeof(float);
    }
    return (length + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
}

static int not_finite(const char *name)
{
    PyErr_Format(core.non_finite_error, "%s holds NaN or infinity, expected finite numbers", name);
    return -1;
}

/* Fills the reserved room; on an error nothing of it ever becomes visible. */
static int write_trajectory(uint8_t *at, const struct trajectory_argument *t, uint64_t length,
                            uint64_t hidden_dim, uint32_t route, const char *extra,
                            uint64_t extra_bytes)
{
    const uint64_t row = hidden_dim * sizeof(float);
    const struct record_header header = {
        .length = (uint32_t)length,
        .kind = RECORD_TRAJECTORY,
        .id = t->id,
        .time_ns = clock_ns(),
        .quality = (float)t->quality,
        .route = route,
        .latency_us = t->latency_us,
        .hidden_dim = (uint32_t)hidden_dim,
        .steps = (uint32_t)t->step_count,
        .extra_bytes = (uint32_t)extra_bytes,
    };
    memcpy(at, &header, sizeof header);
    at += sizeof header;
    if (!copy_finite((float *)at, t->embedding.data, hidden_dim)) return not_finite("the embedding");
    at += row;
    for (Py_ssize_t i = 0; i < t->step_count; i++) {
        const struct step_argument *step = &t->steps[i];
        const size_t attention = step->has_attention ? (size_t)step->attention.columns : 0;
        const struct step_header step_header = {
            .reward = (float)step->reward,
            .attention_count = (uint32_t)attention,
            .index = step->index,
        };
        memcpy(at, &step_header, sizeof step_header);
        at += sizeof step_header;
        if (!copy_finite((float *)at, step->activations.data, hidden_dim))
            return not_finite("activations");
        at += row;
        if (attention && !copy_finite((float *)at, step->attention.data, attention))
            return not_finite("attention_weights");
        at += attention * sizeof(float);
    }
    if (extra_bytes) memcpy(at, extra, extra_bytes);
    return 0;
}

int record_trajectory(struct producer *producer, uint64_t hidden_dim, PyObject *object,
                      uint32_t route, PyObject *extra)
{
    struct trajectory_argument t;
    t.steps = t.inline_steps;
    t.step_count = t.held = 0;
    t.has_embedding = 0;
    int status = read_trajectory(object, &t, hidden_dim);
    if (status == 0) {
        const uint64_t extra_bytes = extra == Py_None ? 0 : (uint64_t)PyBytes_GET_SIZE(extra);
        const uint64_t length = record_length(&t, hidden_dim, extra_bytes);
        if (length > producer->lane.ring_bytes / 2) {
            PyErr_Format(core.record_too_large_error,
                         "the trajectory needs %llu bytes, but a record may have at most %llu, half "
                         "of a lane; raise trajectory_capacity or send fewer steps",
                         (unsigned long long)length,
                         (unsigned long long)producer->lane.ring_bytes / 2);
            status = -1;
        } else {
            uint8_t *at = producer_reserve(producer, length);
            if (at) {
                status = write_trajectory(at, &t, length, hidden_dim, route,
                                          extra_bytes ? PyBytes_AS_STRING(extra) : NULL,
                                          extra_bytes);
                if (status == 0) {
                    producer_commit(producer, length, RECORD_TRAJECTORY);
                    status = 1;
                }
            }
        }
    }
    release_trajectory(&t);
    return status;
}

/* ---- reading a record back ---- */

static PyObject *copy_floats(const uint8_t *from, uint64_t count)
{
    float *data;
    PyObject *array = new_float_array(-1, (Py_ssize_t)count, &data);
    if (array && count) memcpy(data, from, count * sizeof(float));
    return array;
}

static PyObject *decode_steps(const struct record_header *record, uint64_t hidden_dim,
                              const uint8_t **at, const uint8_t *end)
{
    const uint64_t row = hidden_dim * sizeof(float);
    PyObject *steps = PyList_New(0);
    for (uint32_t i = 0; steps && i < record->steps; i++) {
        struct step_header header;
        if ((uint64_t)(end - *at) < sizeof header + row) break;
        memcpy(&header, *at, sizeof header);
        const uint8_t *activations = *at + sizeof header;
        const uint64_t attention = (uint64_t)header.attention_count * sizeof(float);
        if ((uint64_t)(end - activations) - row < attention) break;
        PyObject *step = Py_BuildValue("(NNfI)", copy_floats(activations, hidden_dim),
                                       copy_floats(activations + row, header.attention_count),
                                       (double)header.reward, header.index);
        if (!step || PyList_Append(steps, step) < 0) Py_CLEAR(steps);
        Py_XDECREF(step);
        *at = activations + row + attention;
    }
    return steps;
}

PyObject *decode_trajectory(const struct record_header *record, const uint8_t *body,
                            uint64_t hidden_dim)
{
    const uint64_t row = hidden_dim * sizeof(float);
    const uint8_t *at = body, *end = body + record->length - sizeof *record;
    if (record->hidden_dim != hidden_dim || (uint64_t)(end - at) < row) Py_RETURN_NONE;
    PyObject *embedding = copy_floats(at, hidden_dim);
    at += row;
    PyObject *steps = decode_steps(record, hidden_dim, &at, end);
    uint64_t extra = record->extra_bytes;
    if (extra > (uint64_t)(end - at)) extra = 0;
    return Py_BuildValue("(KNNfKy#)", (unsigned long long)record->id, embedding, steps,
                         (double)record->quality, (unsigned long long)record->latency_us,
                         (const char *)at, (Py_ssize_t)extra);
}
