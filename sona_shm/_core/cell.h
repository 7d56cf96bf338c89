/* A cell: versioned buffers that one writer publishes and any number of readers read.
 *
 * Version v lives in buffer v % CELL_BUFFERS.  The writer fills the buffer of the next version,
 * so a reader of the current one is disturbed only if the writer publishes CELL_BUFFERS - 1 more
 * versions while it reads; `cell_undisturbed` tells, and the reader starts again.  Nobody waits
 * for anybody, and a writer that dies while filling leaves the published version untouched.
 *
 * The bytes themselves are read while they may be overwritten: that is the intended race of a
 * sequence lock, and every reader discards what it computed unless the check passes.  Readers
 * therefore must not use anything from a buffer as an index or a length before the check. */
#ifndef SONA_CELL_H
#define SONA_CELL_H

#include "layout.h"

struct cell {
    struct cell_header *header;
    uint8_t *buffers;
    uint64_t stride;
};

static inline struct cell fast_cell(uint8_t *weights, const struct geometry *g)
{
    struct cell cell = {(struct cell_header *)(weights + g->cell_offset),
                        weights + g->buffers_offset, g->buffer_stride};
    return cell;
}

static inline struct cell slow_cell(uint8_t *weights, const struct geometry *g)
{
    struct cell cell = {(struct cell_header *)(weights + g->slow_cell_offset),
                        weights + g->slow_buffers_offset, g->slow_buffer_stride};
    return cell;
}

static inline uint8_t *cell_buffer(const struct cell *cell, uint64_t version)
{
    return cell->buffers + version % CELL_BUFFERS * cell->stride;
}

static inline const uint8_t *cell_read(const struct cell *cell, uint64_t *version)
{
    *version = load_acquire(&cell->header->version);
    return cell_buffer(cell, *version);
}

static inline int cell_undisturbed(const struct cell *cell, uint64_t version)
{
    atomic_thread_fence(memory_order_acquire);
    return load_relaxed(&cell->header->begun) - version < CELL_BUFFERS;
}

static inline uint8_t *cell_begin(const struct cell *cell, uint64_t version)
{
    store_relaxed(&cell->header->begun, version);
    atomic_thread_fence(memory_order_release);
    return cell_buffer(cell, version);
}

static inline void cell_publish(const struct cell *cell, uint64_t version)
{
    store_release(&cell->header->version, version);
}

#endif
