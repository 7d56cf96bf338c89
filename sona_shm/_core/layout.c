/* Sizes and offsets that follow from a configuration. */
#include "blocks.h"

static uint64_t round_up(uint64_t value, uint64_t unit) { return (value + unit - 1) / unit * unit; }

static uint64_t place(uint64_t *cursor, uint64_t bytes)
{
    uint64_t offset = *cursor;
    *cursor = round_up(offset + bytes, CACHE_LINE);
    return offset;
}

static const char *out_of_range(const struct geometry *g)
{
    /* Limits keep every product below 2^63, so no size can overflow. */
    if (g->hidden_dim < 1 || g->hidden_dim > 65536) return "hidden_dim must be 1 to 65536";
    if (g->rank < 1 || g->rank > 64) return "rank must be 1 to 64";
    if (g->base_rank < 1 || g->base_rank > 64) return "base_rank must be 1 to 64";
    if (g->tasks > TASKS) return "tasks must be 0 to 8";
    if (g->routes > LARGEST_ROUTES) return "at most 1024 routes";
    if (g->max_workers < 1 || g->max_workers > 1024) return "max_workers must be 1 to 1024";
    if (g->pending_decisions < 1 || g->pending_decisions > (1u << 24))
        return "pending_decisions must be 1 to 16777216";
    if (g->lane_bytes < PAGE || g->lane_bytes > (UINT64_C(1) << 31) || g->lane_bytes % PAGE)
        return "lane_bytes must be whole pages, at most 2 GiB";
    if (g->patterns < 1 || g->patterns > 4096) return "patterns must be 1 to 4096";
    if (g->reservoir < 64 || g->reservoir > LARGEST_RESERVOIR)
        return "reservoir must be 64 to 1048576";
    return NULL;
}

/* A refit reads the last `reservoir` rows while a quarter as many new ones may arrive. */
static uint64_t reservoir_rows(uint64_t reservoir) { return reservoir + reservoir / 4; }

static void place_route(struct geometry *g)
{
    uint64_t cursor = sizeof(struct route_state);
    const uint64_t row = g->hidden_dim * sizeof(float);
    g->route_head = place(&cursor, row);
    g->route_squared = place(&cursor, row);
    g->route_ridge = place(&cursor, FEATURES * sizeof(float));
    g->route_covariance = place(&cursor, FEATURES * FEATURES * sizeof(float));
    g->route_bank = place(&cursor, g->patterns * sizeof(struct bank_cell));
    g->route_stride = cursor;
}

static void place_snapshot(struct geometry *g)
{
    uint64_t cursor = sizeof(struct snapshot_header);
    const uint64_t row = g->hidden_dim * sizeof(float);
    g->micro_a = place(&cursor, g->rank * row);
    g->micro_b = place(&cursor, g->rank * row);
    g->feature_mean = place(&cursor, row);
    g->reference_sum = place(&cursor, row);
    g->lane_progress = place(&cursor, g->max_workers * sizeof(struct lane_progress));
    g->pattern_uses = place(&cursor, g->patterns * sizeof(struct pattern_use));
    g->task_state_bytes = sizeof(struct mixture) + g->routes * sizeof(struct task_route);
    g->task_detector = place(&cursor, sizeof(struct task_detector));
    g->task_means = place(&cursor, TASK_MEANS * row);
    g->task_lags = place(&cursor, 2 * g->task_state_bytes);
    g->routes_offset = place(&cursor, g->routes * g->route_stride);
    g->snapshot_bytes = cursor;
}

static void place_slow(struct geometry *g)
{
    uint64_t cursor = sizeof(struct slow_header);
    const uint64_t row = g->hidden_dim * sizeof(float);
    g->pattern_stride = round_up(g->patterns, 16);
    g->slow_projection = place(&cursor, PROJECTED * row);
    g->slow_offset = place(&cursor, FEATURES * sizeof(float));
    g->slow_centroids = place(&cursor, FEATURES * g->pattern_stride * sizeof(float));
    g->slow_full_centroids = place(&cursor, g->patterns * row);
    g->slow_sizes = place(&cursor, g->patterns * sizeof(uint64_t));
    g->slow_base_a = place(&cursor, g->base_rank * row);
    g->slow_base_b = place(&cursor, g->base_rank * row);
    g->task_state = round_up(sizeof(struct task_header) + row, CACHE_LINE);
    g->anchor_stride = round_up(sizeof(struct anchor_header) + 2 * row, CACHE_LINE);
    g->task_heads = g->task_state + g->task_state_bytes;
    g->task_stride = g->task_heads + g->routes * g->anchor_stride;
    g->slow_tasks = place(&cursor, g->tasks * g->task_stride);
    g->slow_anchors = place(&cursor, g->routes * g->anchor_stride);
    g->begun_stride = round_up(sizeof(struct begun_header) + row, CACHE_LINE);
    g->slow_begun = place(&cursor, g->routes * g->begun_stride);
    g->slow_bytes = cursor;
}

static void place_weights(struct geometry *g)
{
    g->cell_offset = PAGE;
    g->slow_cell_offset = PAGE + sizeof(struct cell_header);
    g->buffers_offset = 2 * PAGE;
    g->buffer_stride = round_up(g->snapshot_bytes, PAGE);
    g->slow_buffers_offset = g->buffers_offset + CELL_BUFFERS * g->buffer_stride;
    g->slow_buffer_stride = round_up(g->slow_bytes, PAGE);
    g->reservoir_offset = g->slow_buffers_offset + CELL_BUFFERS * g->slow_buffer_stride;
    g->reservoir_stride =
        round_up(sizeof(struct reservoir_row) + g->hidden_dim * sizeof(float), CACHE_LINE);
    g->reservoir_rows = g->routes ? reservoir_rows(g->reservoir) : 0;
    g->weights_bytes =
        round_up(g->reservoir_offset + g->reservoir_rows * g->reservoir_stride, PAGE);
}

const char *geometry_complete(struct geometry *g)
{
    const char *problem = out_of_range(g);
    if (problem) return problem;

    uint64_t cursor = sizeof(struct control_header);
    g->owners_offset = place(&cursor, g->max_workers * sizeof(struct lane_owner));
    g->config_capacity = 64 * 1024;
    g->config_offset = place(&cursor, g->config_capacity);
    g->result_capacity = 32 * 1024; /* some words for each of 1024 routes */
    g->result_offset = place(&cursor, g->result_capacity);
    g->errors_offset = place(&cursor, ERROR_ENTRIES * sizeof(struct error_entry));
    g->control_bytes = round_up(cursor, PAGE);

    g->allowed_words = (g->routes + 63) / 64;
    g->slot_embedding = sizeof(struct decision_slot) + g->allowed_words * sizeof(uint64_t);
    g->slot_bytes = round_up(g->slot_embedding + g->hidden_dim * sizeof(float), CACHE_LINE);
    cursor = 0;
    place(&cursor, sizeof(struct lane_header));
    g->lane_ring_offset = place(&cursor, g->lane_bytes);
    g->lane_slots_offset = place(&cursor, g->pending_decisions * g->slot_bytes);
    g->lane_marks_offset = place(&cursor, g->pending_decisions * sizeof(struct used_mark));
    g->lane_stride = round_up(cursor, PAGE);
    g->lanes_offset = PAGE;
    g->ring_bytes = g->lanes_offset + g->max_workers * g->lane_stride;

    place_route(g);
    place_snapshot(g);
    place_slow(g);
    place_weights(g);
    return NULL;
}
