/* Sizes and offsets that follow from a configuration. */
#include "layout.h"

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
    if (g->routes > 1024) return "at most 1024 routes";
    if (g->max_workers < 1 || g->max_workers > 1024) return "max_workers must be 1 to 1024";
    if (g->pending_decisions < 1 || g->pending_decisions > (1u << 24))
        return "pending_decisions must be 1 to 16777216";
    if (g->lane_bytes < PAGE || g->lane_bytes > (UINT64_C(1) << 31) || g->lane_bytes % PAGE)
        return "lane_bytes must be whole pages, at most 2 GiB";
    return NULL;
}

static void place_snapshot(struct geometry *g)
{
    uint64_t cursor = sizeof(struct snapshot_header);
    uint64_t row = g->hidden_dim * sizeof(float);
    g->micro_a = place(&cursor, g->rank * row);
    g->micro_b = place(&cursor, g->rank * row);
    g->heads = place(&cursor, g->routes * row);
    g->head_bias = place(&cursor, g->routes * sizeof(float));
    g->price = place(&cursor, g->routes * sizeof(float));
    g->heads_squared = place(&cursor, g->routes * row);
    g->bias_squared = place(&cursor, g->routes * sizeof(float));
    g->reference_sum = place(&cursor, row);
    g->route_statistics = place(&cursor, g->routes * sizeof(struct route_statistics));
    g->lane_progress = place(&cursor, g->max_workers * sizeof(struct lane_progress));
    g->snapshot_bytes = cursor;
}

const char *geometry_complete(struct geometry *g)
{
    const char *problem = out_of_range(g);
    if (problem) return problem;

    uint64_t cursor = sizeof(struct control_header);
    g->owners_offset = place(&cursor, g->max_workers * sizeof(struct lane_owner));
    g->config_capacity = 64 * 1024;
    g->config_offset = place(&cursor, g->config_capacity);
    g->control_bytes = round_up(cursor, PAGE);

    g->slot_bytes = round_up(sizeof(struct decision_slot) + g->hidden_dim * sizeof(float),
                             CACHE_LINE);
    cursor = 0;
    place(&cursor, sizeof(struct lane_header));
    g->lane_ring_offset = place(&cursor, g->lane_bytes);
    g->lane_slots_offset = place(&cursor, g->pending_decisions * g->slot_bytes);
    g->lane_marks_offset = place(&cursor, g->pending_decisions * sizeof(struct used_mark));
    g->lane_stride = round_up(cursor, PAGE);
    g->lanes_offset = PAGE;
    g->ring_bytes = g->lanes_offset + g->max_workers * g->lane_stride;

    place_snapshot(g);
    g->cell_offset = PAGE;
    g->buffers_offset = 2 * PAGE;
    g->buffer_stride = round_up(g->snapshot_bytes, PAGE);
    g->weights_bytes = g->buffers_offset + CELL_BUFFERS * g->buffer_stride;
    return NULL;
}
