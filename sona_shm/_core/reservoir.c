/* See reservoir.h. */
#include "reservoir.h"

#include <math.h>

#include "kernels.h"
#include "race.h"

static uint64_t place_of(const struct geometry *g, uint64_t position)
{
    return position % g->reservoir_rows * g->reservoir_stride;
}

void reservoir_write(const struct geometry *g, uint8_t *reservoir, uint64_t position,
                     const struct reservoir_row *values, const float *x)
{
    struct reservoir_row *row = (struct reservoir_row *)(reservoir + place_of(g, position));
    store_relaxed(&row->sequence, 0);
    atomic_thread_fence(memory_order_release);
    racing_copy(&row->time_ns, &values->time_ns,
                sizeof *values - offsetof(struct reservoir_row, time_ns));
    racing_copy(row + 1, x, g->hidden_dim * sizeof(float));
    store_release(&row->sequence, position + 1);
}

/* Written later, at the same place. */
static int is_later(const struct geometry *g, uint64_t sequence, uint64_t position)
{
    return sequence > position + 1 && (sequence - 1 - position) % g->reservoir_rows == 0;
}

static int may_be_learned(const struct geometry *g, const struct reservoir_row *row)
{
    return row->route < g->routes && row->quality >= LEAST_TARGET &&
           row->quality <= LARGEST_TARGET && fabsf(row->baseline) <= 2.0f &&
           fabsf(row->base) <= 1.0f && fabsf(row->linear) <= 1.0f && fabsf(row->bank) <= 1.0f &&
           row->propensity > 0.0f && row->propensity <= 1.0f &&
           squared_norm((const float *)(row + 1), g->hidden_dim) <= 1.01f;
}

enum row_state reservoir_read(const struct geometry *g, const uint8_t *reservoir,
                              uint64_t position, struct reservoir_row *copy)
{
    const struct reservoir_row *row =
        (const struct reservoir_row *)(reservoir + place_of(g, position));
    const uint64_t sequence = load_acquire(&row->sequence);
    if (sequence == ROW_ABSENT) return ROW_NEVER_HELD;
    if (sequence == 0 || is_later(g, sequence, position)) return ROW_OVERWRITTEN;
    racing_copy(copy, row, reservoir_row_bytes(g));
    atomic_thread_fence(memory_order_acquire);
    if (load_relaxed(&row->sequence) != sequence) return ROW_OVERWRITTEN;
    return sequence == position + 1 && may_be_learned(g, copy) ? ROW_SOUND : ROW_UNSOUND;
}
