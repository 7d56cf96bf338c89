/* The extension module sona_shm._core: types, plain-array functions, layout. */
#include "cell.h"
#include "identifier.h"
#include "kernels.h"
#include "model.h"
#include "policy.h"
#include "python.h"
#include "refit.h"
#include "settings.h"

struct core_objects core;

/* ---- layout for Python ---- */

static int put_number(PyObject *dict, const char *name, uint64_t value)
{
    PyObject *number = PyLong_FromUnsignedLongLong(value);
    const int status = number ? PyDict_SetItemString(dict, name, number) : -1;
    Py_XDECREF(number);
    return status;
}

static PyObject *geometry_sizes(PyObject *module, PyObject *tuple)
{
    struct geometry g;
    (void)module;
    if (geometry_argument(tuple, &g) < 0) return NULL;
    PyObject *sizes = PyDict_New();
#define PUT(field)                                                                                 \
    if (sizes && put_number(sizes, #field, g.field) < 0) Py_CLEAR(sizes);
    PUT(owners_offset) PUT(config_offset) PUT(config_capacity) PUT(result_offset)
    PUT(result_capacity) PUT(errors_offset) PUT(control_bytes)
    PUT(lanes_offset) PUT(lane_stride) PUT(lane_ring_offset) PUT(lane_slots_offset)
    PUT(lane_marks_offset) PUT(slot_bytes) PUT(slot_embedding) PUT(allowed_words) PUT(ring_bytes)
    PUT(cell_offset) PUT(buffers_offset) PUT(buffer_stride)
    PUT(slow_cell_offset) PUT(slow_buffers_offset) PUT(slow_buffer_stride)
    PUT(reservoir_offset) PUT(reservoir_stride) PUT(reservoir_rows) PUT(weights_bytes)
    PUT(micro_a) PUT(micro_b) PUT(feature_mean) PUT(reference_sum) PUT(lane_progress)
    PUT(pattern_uses) PUT(task_detector) PUT(task_means) PUT(task_lags) PUT(routes_offset)
    PUT(route_stride) PUT(snapshot_bytes)
    PUT(route_head) PUT(route_squared) PUT(route_ridge) PUT(route_covariance) PUT(route_bank)
    PUT(slow_projection) PUT(slow_offset) PUT(slow_centroids) PUT(pattern_stride)
    PUT(slow_full_centroids) PUT(slow_sizes) PUT(slow_base_a) PUT(slow_base_b)
    PUT(slow_tasks) PUT(task_stride) PUT(task_state) PUT(task_state_bytes) PUT(task_heads)
    PUT(slow_anchors) PUT(anchor_stride) PUT(slow_begun) PUT(begun_stride) PUT(slow_bytes)
#undef PUT
    return sizes;
}

static PyObject *layout_offsets(void)
{
    PyObject *offsets = PyDict_New();
#define PUT(structure, field)                                                                      \
    if (offsets && put_number(offsets, #structure "." #field,                                      \
                              offsetof(struct structure, field)) < 0)                              \
        Py_CLEAR(offsets);
    PUT(segment_identity, magic) PUT(segment_identity, layout_version)
    PUT(segment_identity, kind) PUT(segment_identity, creation_id) PUT(segment_identity, bytes)
    PUT(control_header, ready) PUT(control_header, destroyed) PUT(control_header, config_length)
    PUT(control_header, config_checksum) PUT(control_header, created_ns)
    PUT(control_header, hidden_dim)
    PUT(control_header, next_trajectory_id) PUT(control_header, flush_requested)
    PUT(control_header, learner_sleeping) PUT(control_header, flush_served)
    PUT(control_header, learner_pid) PUT(control_header, learner_since_ns)
    PUT(control_header, published_ns) PUT(control_header, learner_terms)
    PUT(control_header, errors_unlisted)
    PUT(control_header, learn_requested) PUT(control_header, learn_served)
    PUT(lane_owner, pid) PUT(lane_owner, since_ns) PUT(lane_owner, generation)
    PUT(lane_owner, label)
    PUT(error_entry, key) PUT(error_entry, count) PUT(error_entry, first_ns)
    PUT(error_entry, last_ns) PUT(error_entry, pid) PUT(error_entry, text_mark)
    PUT(error_entry, text)
    PUT(decision_slot, id) PUT(decision_slot, decision)
    PUT(decision, time_ns) PUT(decision, version) PUT(decision, route)
    PUT(lane_header, head) PUT(lane_header, intent) PUT(lane_header, trajectories)
    PUT(lane_header, feedbacks) PUT(lane_header, dropped) PUT(lane_header, decisions)
    PUT(lane_header, epoch)
    PUT(lane_header, base_trajectories) PUT(lane_header, base_feedbacks)
    PUT(lane_header, base_dropped) PUT(lane_header, base_decisions) PUT(lane_header, tail)
    PUT(lane_header, released_trajectories) PUT(lane_header, evicted_trajectories)
    PUT(lane_header, quarantined)
    PUT(cell_header, begun) PUT(cell_header, version)
    PUT(snapshot_header, version) PUT(snapshot_header, reference_pending)
    PUT(snapshot_header, slow_version) PUT(snapshot_header, routes) PUT(snapshot_header, experts)
    PUT(snapshot_header, reservoir_position) PUT(snapshot_header, refits)
    PUT(snapshot_header, step_reward) PUT(snapshot_header, quality)
    PUT(snapshot_header, outcome) PUT(snapshot_header, spread)
    PUT(snapshot_header, mixture) PUT(snapshot_header, counters)
    PUT(mixture, weight)
    PUT(route_state, flags) PUT(route_state, cost) PUT(route_state, price)
    PUT(route_state, outcomes) PUT(route_state, reward_mean) PUT(route_state, latency_ms)
    PUT(route_state, tokens) PUT(route_state, quality) PUT(route_state, error)
    PUT(route_state, variance) PUT(route_state, bias)
    PUT(task_detector, tasks) PUT(task_detector, current) PUT(task_detector, stay)
    PUT(task_detector, outcomes) PUT(task_detector, spread)
    PUT(slow_header, version) PUT(slow_header, patterns) PUT(slow_header, fitted_ns)
    PUT(slow_header, rows) PUT(slow_header, consolidations) PUT(slow_header, learned_signals)
    PUT(lane_progress, records) PUT(lane_progress, trajectories)
    PUT(lane_progress, journaled) PUT(lane_progress, settled)
    PUT(reservoir_row, sequence) PUT(reservoir_row, time_ns)
#undef PUT
    return offsets;
}

static PyObject *counter_names(void)
{
#define NAME(name) #name,
    static const char *const names[] = {LEARNER_COUNTERS(NAME)};
#undef NAME
    PyObject *tuple = PyTuple_New(COUNTER_COUNT);
    for (Py_ssize_t i = 0; tuple && i < COUNTER_COUNT; i++) {
        PyObject *name = PyUnicode_FromString(names[i]);
        if (!name) Py_CLEAR(tuple);
        else PyTuple_SET_ITEM(tuple, i, name);
    }
    return tuple;
}

/* ---- the same kernels on plain arrays ---- */

/* Two arrays of shape (rank, n) and rows of n: what every kernel on an adapter takes. */
struct adapter_arguments {
    struct float_argument a, b, x;
};

static int read_adapter(struct adapter_arguments *m, PyObject *const *args)
{
    if (float_argument_write(&m->a, args[0], "a") < 0) return -1;
    if (float_argument_write(&m->b, args[1], "b") < 0) goto release_a;
    const int same = m->a.rows >= 1 && m->a.rows <= 64 && m->b.rows == m->a.rows &&
                     m->b.columns == m->a.columns && m->a.columns >= 1;
    if (!same) {
        PyErr_SetString(core.shape_error, "a and b must both have shape (rank, hidden_dim), with "
                                          "rank from 1 to 64");
        goto release_b;
    }
    if (float_argument_row(&m->x, args[2], "x", (uint64_t)m->a.columns) == 0) return 0;
release_b:
    float_argument_release(&m->b);
release_a:
    float_argument_release(&m->a);
    return -1;
}

static void release_adapter(struct adapter_arguments *m)
{
    float_argument_release(&m->x);
    float_argument_release(&m->b);
    float_argument_release(&m->a);
}

static PyObject *forward_function(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    struct adapter_arguments m;
    float *out;
    (void)module;
    if (count != 3) return PyErr_SetString(PyExc_TypeError, "adapter_forward(a, b, x)"), NULL;
    if (read_adapter(&m, args) < 0) return NULL;
    PyObject *result = new_float_array(-1, m.a.columns, &out);
    if (result && !adapter_forward(m.a.data, m.b.data, (size_t)m.a.rows, (size_t)m.a.columns,
                                   m.x.data, out)) {
        PyErr_SetString(core.non_finite_error, "x holds NaN or infinity, expected finite numbers");
        Py_CLEAR(result);
    }
    release_adapter(&m);
    return result;
}

static PyObject *direction_function(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    struct adapter_arguments m;
    struct float_argument direction;
    double target, rate;
    (void)module;
    if (count != 6)
        return PyErr_SetString(PyExc_TypeError,
                               "learn_direction(a, b, x, direction, target, rate)"), NULL;
    if (number_argument(args[4], "target", &target) < 0 ||
        number_argument(args[5], "rate", &rate) < 0 || read_adapter(&m, args) < 0)
        return NULL;
    PyObject *result = NULL;
    if (float_argument_row(&direction, args[3], "direction", (uint64_t)m.a.columns) == 0) {
        const struct adapter adapter = {.a = m.a.data,
                                        .b = m.b.data,
                                        .rank = (size_t)m.a.rows,
                                        .n = (size_t)m.a.columns,
                                        .rate = (float)rate};
        result = PyBool_FromLong(
            learn_direction(&adapter, m.x.data, direction.data, (float)target));
        float_argument_release(&direction);
    }
    release_adapter(&m);
    return result;
}

/* Both arrays as doubles, in one piece of memory. */
static double *policy_arrays(const struct float_argument *score,
                             const struct float_argument *deviation)
{
    const Py_ssize_t n = score->columns;
    if (score->rows != -1 || deviation->rows != -1 || n < 1 || deviation->columns != n) {
        PyErr_SetString(core.shape_error, "scores and deviations must have one dimension, of the "
                                          "same length, 1 or more");
        return NULL;
    }
    double *memory = PyMem_Calloc(3 * (size_t)n, sizeof *memory);
    if (!memory) return PyErr_NoMemory(), NULL;
    for (Py_ssize_t k = 0; k < n; k++) {
        memory[k] = (double)score->data[k];
        memory[n + k] = (double)deviation->data[k];
    }
    return memory;
}

static PyObject *list_of(const double *values, Py_ssize_t count)
{
    PyObject *list = PyList_New(count);
    for (Py_ssize_t k = 0; list && k < count; k++) {
        PyObject *value = PyFloat_FromDouble(values[k]);
        if (value) PyList_SET_ITEM(list, k, value);
        else Py_CLEAR(list);
    }
    return list;
}

static PyObject *policy_function_probabilities(PyObject *module, PyObject *args)
{
    const char *name;
    PyObject *scores, *deviations;
    unsigned long long learned;
    double strength, usual;
    struct float_argument score, deviation;
    (void)module;
    if (!PyArg_ParseTuple(args, "sOOKd", &name, &scores, &deviations, &learned, &strength))
        return NULL;
    policy_function *policy = policy_named(name, &usual);
    if (!policy) return PyErr_Format(PyExc_ValueError, "no policy '%s'", name);
    if (float_argument_read(&score, scores, "scores", 0) < 0) return NULL;
    PyObject *result = NULL;
    if (float_argument_read(&deviation, deviations, "deviations", 0) == 0) {
        const Py_ssize_t n = score.columns;
        double *memory = policy_arrays(&score, &deviation);
        if (memory) {
            const struct policy_input input = {memory, memory + n, (uint32_t)n, learned,
                                               isnan(strength) ? usual : strength};
            policy(&input, memory + 2 * n);
            result = list_of(memory + 2 * n, n);
            PyMem_Free(memory);
        }
        float_argument_release(&deviation);
    }
    float_argument_release(&score);
    return result;
}

static PyObject *add_route_function(PyObject *module, PyObject *args)
{
    struct geometry g;
    PyObject *geometry;
    Py_buffer block;
    const char *name;
    Py_ssize_t length;
    char padded[NAME_BYTES] = {0};
    struct route_start start = {.name = padded, .expected = NAN, .like = NO_ROUTE,
                                .flags = ROUTE_ACTIVE};
    (void)module;
    if (!PyArg_ParseTuple(args, "w*Os#dd", &block, &geometry, &name, &length, &start.cost,
                          &start.price))
        return NULL;
    int added = -1;
    if (geometry_argument(geometry, &g) == 0) {
        if ((uint64_t)block.len != g.snapshot_bytes || length >= NAME_BYTES) {
            PyErr_SetString(PyExc_ValueError, "block or name have the wrong length");
        } else {
            memcpy(padded, name, (size_t)length);
            const struct model model = {&g, block.buf, NULL};
            added = model_add_route(&model, &start);
        }
    }
    PyBuffer_Release(&block);
    return added < 0 ? NULL : PyBool_FromLong(added);
}

static PyObject *refit_bounds(PyObject *module, PyObject *args)
{
    unsigned long long number, reservoir;
    (void)module;
    if (!PyArg_ParseTuple(args, "KK", &number, &reservoir)) return NULL;
    if (number > MOST_REFITS || reservoir > LARGEST_RESERVOIR) {
        PyErr_SetString(PyExc_ValueError, "there is no such refit");
        return NULL;
    }
    return Py_BuildValue("KK", (unsigned long long)refit_begins_at(number),
                         (unsigned long long)refit_installs_at(number, reservoir));
}

static PyObject *policy_names(void)
{
    uint32_t count = 0;
    while (policy_name(count)) count += 1;
    PyObject *tuple = PyTuple_New((Py_ssize_t)count);
    for (uint32_t i = 0; tuple && i < count; i++) {
        PyObject *name = PyUnicode_FromString(policy_name(i));
        if (name) PyTuple_SET_ITEM(tuple, (Py_ssize_t)i, name);
        else Py_CLEAR(tuple);
    }
    return tuple;
}

static PyMethodDef functions[] = {
    {"geometry_sizes", (PyCFunction)geometry_sizes, METH_O,
     PyDoc_STR("geometry_sizes(geometry, /)\n--\n\n"
               "Offsets and sizes that follow from a geometry.")},
    {"adapter_forward", (PyCFunction)(void (*)(void))forward_function, METH_FASTCALL,
     PyDoc_STR("adapter_forward(a, b, x, /)\n--\n\nh = x + (x A^T) B / sqrt(rank).")},
    {"learn_direction", (PyCFunction)(void (*)(void))direction_function, METH_FASTCALL,
     PyDoc_STR("learn_direction(a, b, x, direction, target, rate, /)\n--\n\n"
               "One step of a and b, in place; False if a value was not finite.")},
    {"policy_probabilities", (PyCFunction)policy_function_probabilities, METH_VARARGS,
     PyDoc_STR("policy_probabilities(name, scores, deviations, learned, strength, /)\n--\n\n"
               "The probability of each route; a strength of NaN is the usual one.")},
    {"add_route", (PyCFunction)add_route_function, METH_VARARGS,
     PyDoc_STR("add_route(block, geometry, name, cost, price, /)\n--\n\n"
               "Append a route to a first block; False if there is no room.")},
    {"refit_bounds", (PyCFunction)refit_bounds, METH_VARARGS,
     PyDoc_STR("refit_bounds(number, reservoir, /)\n--\n\n"
               "Outcomes at which the refit of that number begins, and is installed.")},
    {NULL, NULL, 0, NULL},
};

/* ---- initialisation ---- */

static int import_objects(void)
{
    PyObject *errors = PyImport_ImportModule("sona_shm.errors");
    PyObject *arrays = errors ? PyImport_ImportModule("sona_shm.arrays") : NULL;
    PyObject *trajectory = arrays ? PyImport_ImportModule("sona_shm.trajectory") : NULL;
#define IMPORT(from, field, name)                                                                  \
    if (!(core.field = (void *)(from ? PyObject_GetAttrString(from, name) : NULL))) goto failed;
    IMPORT(errors, shape_error, "ShapeError")
    IMPORT(errors, non_finite_error, "NonFiniteError")
    IMPORT(errors, record_too_large_error, "RecordTooLargeError")
    IMPORT(errors, engine_closed, "EngineClosed")
    IMPORT(errors, corrupt_segment, "CorruptSegment")
    IMPORT(errors, dtype_error, "DtypeError")
    IMPORT(errors, out_of_range_error, "OutOfRangeError")
    IMPORT(errors, config_error, "ConfigError")
    IMPORT(errors, engine_not_found, "EngineNotFound")
    IMPORT(arrays, as_float32, "as_float32")
    IMPORT(trajectory, pack_extra, "pack_extra")
    IMPORT(trajectory, query_trajectory, "QueryTrajectory")
    IMPORT(trajectory, trajectory_step, "TrajectoryStep")
#undef IMPORT
    Py_DECREF(errors);
    Py_DECREF(arrays);
    Py_DECREF(trajectory);
    core.out = PyUnicode_InternFromString("out");
    return core.out ? record_initialise() : -1;
failed:
    Py_XDECREF(errors);
    Py_XDECREF(arrays);
    Py_XDECREF(trajectory);
    return -1;
}

static int add_owned(PyObject *module, const char *name, PyObject *value)
{
    const int status = value ? PyModule_AddObjectRef(module, name, value) : -1;
    Py_XDECREF(value);
    return status;
}

#define NUMBER(name) {#name, name}
static const struct {
    const char *name;
    uint64_t value;
} numbers[] = {
    {"MAGIC", SONA_MAGIC},
    {"GENERATIONS", IDENTIFIER_GENERATION_MASK},
    {"LANE_OWNER_BYTES", sizeof(struct lane_owner)},
    {"ERROR_ENTRY_BYTES", sizeof(struct error_entry)},
    {"ERROR_ENTRIES", ERROR_ENTRIES},
    {"ERROR_TEXT_BYTES", ERROR_TEXT_BYTES},
    {"LANE_PROGRESS_BYTES", sizeof(struct lane_progress)},
    {"RECORD_HEADER_BYTES", sizeof(struct record_header)},
    {"RESERVOIR_ROW_BYTES", sizeof(struct reservoir_row)},
    {"STEP_HEADER_BYTES", sizeof(struct step_header)},
    {"BANK_CELL_BYTES", sizeof(struct bank_cell)},
    NUMBER(SONA_LAYOUT_VERSION), NUMBER(CELL_BUFFERS), NUMBER(CACHE_LINE), NUMBER(PAGE),
    NUMBER(LABEL_BYTES), NUMBER(NAME_BYTES), NUMBER(LARGEST_ROUTES), NUMBER(MOST_REFITS),
    NUMBER(ROUTE_ADD), NUMBER(ROUTE_RETIRE), NUMBER(ROUTE_PRICE), NUMBER(NO_ROUTE),
    NUMBER(ROUTE_ACTIVE), NUMBER(ROUTE_ARRIVED), NUMBER(ROW_ABSENT), NUMBER(EXPERTS),
    NUMBER(PROJECTED), NUMBER(TASKS), NUMBER(TASK_MEANS),
};

/* What Python computes, too, beside the core or before it. */
static const struct {
    const char *name;
    double value;
} settings[] = {
    NUMBER(LEAST_SPREAD), NUMBER(BANK_PRIOR), NUMBER(BANK_DECAY), NUMBER(MIXTURE_PRIOR),
    NUMBER(MIXTURE_RIDGE),
};
#undef NUMBER

#define COUNT(table) (sizeof(table) / sizeof(table)[0])
static int add_numbers(PyObject *module)
{
    for (size_t i = 0; i < COUNT(numbers); i++)
        if (add_owned(module, numbers[i].name, PyLong_FromUnsignedLongLong(numbers[i].value)) < 0)
            return -1;
    for (size_t i = 0; i < COUNT(settings); i++)
        if (add_owned(module, settings[i].name, PyFloat_FromDouble(settings[i].value)) < 0)
            return -1;
    return 0;
}

static int module_exec(PyObject *module)
{
    if (arguments_initialise() < 0 || import_objects() < 0) return -1;
    if (add_owned(module, "Words", PyType_FromSpec(&words_spec)) < 0) return -1;
    if (add_owned(module, "Reader", PyType_FromSpec(&reader_spec)) < 0) return -1;
    if (add_owned(module, "Lane", PyType_FromSpec(&lane_spec)) < 0) return -1;
    if (add_owned(module, "Learner", PyType_FromSpec(&learner_spec)) < 0) return -1;
    if (add_owned(module, "OFFSETS", layout_offsets()) < 0) return -1;
    if (add_owned(module, "LEARNER_COUNTERS", counter_names()) < 0) return -1;
    if (add_owned(module, "POLICIES", policy_names()) < 0) return -1;
    return add_numbers(module);
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
    {0, NULL},
};

static struct PyModuleDef module_definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "sona_shm._core",
    .m_doc = PyDoc_STR("Atomics, shared-memory protocols and hot loops of sona_shm."),
    .m_slots = module_slots,
    .m_methods = functions,
};

PyMODINIT_FUNC PyInit__core(void) { return PyModuleDef_Init(&module_definition); }
