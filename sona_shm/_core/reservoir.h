/* The ring of recent outcomes that refits and Loop B learn from: see struct reservoir_row.
 *
 * The learner writes it, its own threads and other processes read it, and nobody waits: a reader
 * copies a row and checks its sequence, before and after. */
#ifndef SONA_RESERVOIR_H
#define SONA_RESERVOIR_H

#include "layout.h"

/* Learned targets are quality, or a reward with the price added back, within these bounds. */
#define LEAST_TARGET -1.0f
#define LARGEST_TARGET 1.0f

enum row_state {
    ROW_SOUND,
    ROW_OVERWRITTEN, /* by a later one, or just being so */
    ROW_NEVER_HELD,  /* a checkpoint was restored into a larger reservoir */
    ROW_UNSOUND      /* cannot have been written by a learner */
};

static inline uint64_t reservoir_row_bytes(const struct geometry *g)
{
    return sizeof(struct reservoir_row) + g->hidden_dim * sizeof(float);
}

/* Writes the row of that position; `values` but for its sequence. */
void reservoir_write(const struct geometry *g, uint8_t *reservoir, uint64_t position,
                     const struct reservoir_row *values, const float *x);

/* Copies the row of that position, with its embedding, to `copy` of reservoir_row_bytes(). */
enum row_state reservoir_read(const struct geometry *g, const uint8_t *reservoir,
                              uint64_t position, struct reservoir_row *copy);

#endif
