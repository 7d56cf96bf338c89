/* Trajectories between Python objects and records of a lane. */
#include "python.h"

#include <structmember.h> /* PyMemberDef, until Python 3.12 */

#include <math.h>
#include <time.h>

#include "kernels.h"
#include "lane.h"

/* Steps whose arrays are kept on the stack; longer trajectories take memory for them. */
#define INLINE_STEPS 16

uint64_t clock_ns(void)
{
    struct timespec now;
    /* Some milliseconds coarse, but never a system call and a fraction of the cost. */
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

/* ---- fields of QueryTrajectory and TrajectoryStep ---- */

/* Both classes keep their fields in __slots__, at fixed places of the object, which the slot's own
 * descriptor tells.  Reading them there costs a load instead of a look-up by name; objects of
 * other classes, and subclasses, are read by name. */
struct field {
    const char *const spelling;
    PyObject *name;
    Py_ssize_t offset;
};

enum trajectory_field { ID, QUERY_EMBEDDING, STEPS, FINAL_QUALITY, LATENCY_US, MODEL_ROUTE, CONTEXT_IDS };
enum step_field { ACTIVATIONS, ATTENTION_WEIGHTS, REWARD, STEP_IDX, LAYER_NAME };

static struct field trajectory_fields[] = {
    [ID] = {"id", NULL, 0},
    [QUERY_EMBEDDING] = {"query_embedding", NULL, 0},
    [STEPS] = {"steps", NULL, 0},
    [FINAL_QUALITY] = {"final_quality", NULL, 0},
    [LATENCY_US] = {"latency_us", NULL, 0},
    [MODEL_ROUTE] = {"model_route", NULL, 0},
    [CONTEXT_IDS] = {"context_ids", NULL, 0},
};
static struct field step_fields[] = {
    [ACTIVATIONS] = {"activations", NULL, 0},
    [ATTENTION_WEIGHTS] = {"attention_weights", NULL, 0},
    [REWARD] = {"reward", NULL, 0},
    [STEP_IDX] = {"step_idx", NULL, 0},
    [LAYER_NAME] = {"layer_name", NULL, 0},
};

static int find_fields(PyTypeObject *type, struct field *fields, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        fields[i].name = PyUnicode_InternFromString(fields[i].spelling);
        PyObject *slot =
            fields[i].name ? PyObject_GetAttr((PyObject *)type, fields[i].name) : NULL;
        if (!slot) return -1;
        const int is_slot = PyObject_TypeCheck(slot, &PyMemberDescr_Type);
        if (is_slot) fields[i].offset = ((PyMemberDescrObject *)slot)->d_member->offset;
        Py_DECREF(slot);
        if (!is_slot) {
            PyErr_Format(PyExc_SystemError, "%s is no slot of %s", fields[i].spelling,
                         type->tp_name);
            return -1;
        }
    }
    return 0;
}

int record_initialise(void)
{
    if (find_fields(core.query_trajectory, trajectory_fields,
                    sizeof trajectory_fields / sizeof *trajectory_fields) < 0)
        return -1;
    return find_fields(core.trajectory_step, step_fields, sizeof step_fields / sizeof *step_fields);
}

/* A new reference to the field's value, or NULL with an error. */
static PyObject *field_of(PyObject *object, PyTypeObject *type, const struct field *field)
{
    if (Py_TYPE(object) == type) {
        PyObject *value = *(PyObject **)((char *)object + field->offset);
        if (value) return Py_NewRef(value);
    }
    return PyObject_GetAttr(object, field->name);
}

static PyObject *trajectory_field(PyObject *object, enum trajectory_field field)
{
    return field_of(object, core.query_trajectory, &trajectory_fields[field]);
}

static PyObject *step_field(PyObject *object, enum step_field field)
{
    return field_of(object, core.trajectory_step, &step_fields[field]);
}

/* ---- a trajectory while it is read ---- */

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
    int has_embedding, has_strings;
    uint64_t id, latency_us;
    double quality;
    uint32_t route;
    PyObject *extra; /* bytes, or NULL */
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
    Py_XDECREF(t->extra);
}

/* ---- reading attributes ---- */

/* Takes the reference to `number`. */
static int read_unsigned(PyObject *number, const char *name, uint64_t *value)
{
    if (!number) return -1;
    const int status = unsigned_argument(number, name, value);
    Py_DECREF(number);
    return status;
}

static int is_empty(PyObject *object)
{
    return object == Py_None || (PyList_CheckExact(object) && PyList_GET_SIZE(object) == 0) ||
           (PyTuple_CheckExact(object) && PyTuple_GET_SIZE(object) == 0);
}

static int read_attention(PyObject *object, struct step_argument *step)
{
    step->has_attention = 0;
    PyObject *attention = step_field(object, ATTENTION_WEIGHTS);
    if (!attention) return -1;
    int status = 0;
    if (!is_empty(attention)) {
        status = float_argument_read(&step->attention, attention, "attention_weights", 0);
        step->has_attention = status == 0;
        if (step->has_attention && step->attention.rows != -1) {
            PyErr_SetString(core.shape_error, "attention_weights must have one dimension");
            status = -1;
        }
    }
    Py_DECREF(attention);
    return status;
}

/* Whether a field that is mostly None holds something; takes the reference. */
static int is_given(PyObject *value)
{
    if (!value) return -1;
    const int given = value != Py_None;
    Py_DECREF(value);
    return given;
}

static int read_step(PyObject *object, struct step_argument *step, uint64_t hidden_dim)
{
    uint64_t index;
    PyObject *reward = step_field(object, REWARD);
    if (!reward) return -1;
    const int is_number = number_argument(reward, "reward", &step->reward) == 0;
    if (is_number && !isfinite((float)step->reward))
        PyErr_Format(core.non_finite_error, "the reward of a step is %R, expected a finite number",
                     reward);
    Py_DECREF(reward);
    if (!is_number || !isfinite((float)step->reward)) return -1;
    if (read_unsigned(step_field(object, STEP_IDX), "step_idx", &index) < 0) return -1;
    if (index > UINT32_MAX) {
        PyErr_Format(core.out_of_range_error, "step_idx is %llu, expected at most 2**32 - 1",
                     (unsigned long long)index);
        return -1;
    }
    step->index = (uint32_t)index;

    PyObject *activations = step_field(object, ACTIVATIONS);
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
    PyObject *steps = trajectory_field(object, STEPS);
    if (!steps) return -1;
    /* A tuple: reading a step may run Python, and that may change a list. */
    PyObject *sequence = PySequence_Tuple(steps);
    if (!sequence && PyErr_ExceptionMatches(PyExc_TypeError))
        PyErr_Format(core.dtype_error, "steps must be a sequence of TrajectoryStep, got %.200s",
                     Py_TYPE(steps)->tp_name);
    Py_DECREF(steps);
    if (!sequence) return -1;
    t->step_count = PyTuple_GET_SIZE(sequence);
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
    while (status == 0 && t->held < t->step_count) {
        PyObject *step = PyTuple_GET_ITEM(sequence, t->held);
        const int named = is_given(step_field(step, LAYER_NAME));
        status = named < 0 ? -1 : read_step(step, &t->steps[t->held], hidden_dim);
        t->held += status == 0;
        t->has_strings |= named;
    }
    Py_DECREF(sequence);
    return status;
}

static int read_route(PyObject *object, struct trajectory_argument *t, PyObject *route_index)
{
    PyObject *route = trajectory_field(object, MODEL_ROUTE);
    if (!route) return -1;
    t->route = NO_ROUTE;
    if (route != Py_None) {
        PyObject *index = PyDict_GetItemWithError(route_index, route);
        if (!index && !PyErr_Occurred())
            PyErr_Format(core.config_error, "no route %R; this engine has %R", route, route_index);
        if (index) t->route = (uint32_t)PyLong_AsUnsignedLong(index);
        t->has_strings = 1;
    }
    Py_DECREF(route);
    return PyErr_Occurred() ? -1 : 0;
}

/* Names and contexts are rare; packing them is left to Python. */
static int read_strings(PyObject *object, struct trajectory_argument *t)
{
    PyObject *contexts = trajectory_field(object, CONTEXT_IDS);
    if (!contexts) return -1;
    if (!is_empty(contexts)) t->has_strings = 1;
    Py_DECREF(contexts);
    if (!t->has_strings) return 0;
    t->extra = PyObject_CallOneArg(core.pack_extra, object);
    return t->extra && PyBytes_Check(t->extra) ? 0 : -1;
}

static int read_trajectory(PyObject *object, struct trajectory_argument *t, uint64_t hidden_dim,
                           PyObject *route_index)
{
    if (read_unsigned(trajectory_field(object, ID), "id", &t->id) < 0) return -1;
    if (read_unsigned(trajectory_field(object, LATENCY_US), "latency_us", &t->latency_us) < 0)
        return -1;
    PyObject *quality = trajectory_field(object, FINAL_QUALITY);
    if (!quality) return -1;
    int status = quality_argument(quality, &t->quality);
    Py_DECREF(quality);
    if (status < 0) return -1;
    PyObject *embedding = trajectory_field(object, QUERY_EMBEDDING);
    if (!embedding) return -1;
    status = float_argument_row(&t->embedding, embedding, "query_embedding", hidden_dim);
    Py_DECREF(embedding);
    if (status < 0) return -1;
    t->has_embedding = 1;
    if (read_route(object, t, route_index) < 0 || read_steps(object, t, hidden_dim) < 0) return -1;
    return read_strings(object, t);
}

/* ---- writing the record ---- */

static uint64_t extra_length(const struct trajectory_argument *t)
{
    return t->extra ? (uint64_t)PyBytes_GET_SIZE(t->extra) : 0;
}

static uint64_t record_length(const struct trajectory_argument *t, uint64_t hidden_dim)
{
    const uint64_t row = hidden_dim * sizeof(float);
    uint64_t length = sizeof(struct record_header) + row + extra_length(t);
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

static int check_finite(const struct trajectory_argument *t, uint64_t hidden_dim)
{
    if (!all_finite(t->embedding.data, hidden_dim)) return not_finite("the embedding");
    for (Py_ssize_t i = 0; i < t->step_count; i++) {
        const struct step_argument *step = &t->steps[i];
        if (!all_finite(step->activations.data, hidden_dim)) return not_finite("activations");
        if (step->has_attention &&
            !all_finite(step->attention.data, (size_t)step->attention.columns))
            return not_finite("attention_weights");
    }
    return 0;
}

/* Fills the reserved room; on an error nothing of it ever becomes visible. */
static int write_trajectory(uint8_t *at, const struct trajectory_argument *t, uint64_t length,
                            uint64_t hidden_dim)
{
    const uint64_t row = hidden_dim * sizeof(float);
    const struct record_header header = {
        .length = (uint32_t)length,
        .kind = RECORD_TRAJECTORY,
        .id = t->id,
        .time_ns = clock_ns(),
        .quality = (float)t->quality,
        .route = t->route,
        .latency_us = t->latency_us,
        .hidden_dim = (uint32_t)hidden_dim,
        .steps = (uint32_t)t->step_count,
        .extra_bytes = (uint32_t)extra_length(t),
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
    if (t->extra) memcpy(at, PyBytes_AS_STRING(t->extra), extra_length(t));
    return 0;
}

static int put_trajectory(struct producer *producer, const struct trajectory_argument *t,
                          uint64_t hidden_dim)
{
    const uint64_t length = record_length(t, hidden_dim);
    if (length > producer->lane.ring_bytes / 2) {
        PyErr_Format(core.record_too_large_error,
                     "the trajectory needs %llu bytes, but a record may have at most %llu, half of "
                     "a lane; raise trajectory_capacity or send fewer steps",
                     (unsigned long long)length,
                     (unsigned long long)producer->lane.ring_bytes / 2);
        return -1;
    }
    uint8_t *at = producer_reserve(producer, length);
    if (!at) {
        /* Bad input is an error also where there is no room for it. */
        if (check_finite(t, hidden_dim) < 0) return -1;
        producer_drop(producer);
        return 0;
    }
    if (write_trajectory(at, t, length, hidden_dim) < 0) return -1;
    producer_commit(producer, length, RECORD_TRAJECTORY);
    return 1;
}

int record_trajectory(struct producer *producer, const Py_buffer *ring, uint64_t hidden_dim,
                      PyObject *object, PyObject *route_index)
{
    struct trajectory_argument t;
    t.steps = t.inline_steps;
    t.step_count = t.held = 0;
    t.has_embedding = t.has_strings = 0;
    t.extra = NULL;
    int status = read_trajectory(object, &t, hidden_dim, route_index);
    if (status == 0 && !ring->obj) {
        PyErr_SetString(core.engine_closed, "the engine was closed while its arguments were read");
        status = -1;
    }
    if (status == 0) status = put_trajectory(producer, &t, hidden_dim);
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
