/* Decision ids: lane (10 bits) | generation (13 bits) | sequence (40 bits), below 2^63, so that
 * they fit a signed column of any database.  The generation starts at random with the engine and
 * grows with every claim of the lane, so an id of another engine is not taken for one of ours. */
#ifndef SONA_IDENTIFIER_H
#define SONA_IDENTIFIER_H

#include <stdint.h>

#define IDENTIFIER_SEQUENCE_BITS 40
#define IDENTIFIER_GENERATION_BITS 13
#define IDENTIFIER_SEQUENCE_MASK ((UINT64_C(1) << IDENTIFIER_SEQUENCE_BITS) - 1)
#define IDENTIFIER_GENERATION_MASK ((UINT64_C(1) << IDENTIFIER_GENERATION_BITS) - 1)

/* Of every lane of an engine. */
static inline uint64_t identifier_first_generation(uint64_t creation_id)
{
    return creation_id % IDENTIFIER_GENERATION_MASK + 1;
}

static inline uint64_t identifier_base(uint64_t lane, uint64_t generation)
{
    /* Never 0, so that no id is 0: an empty slot has that. */
    const uint64_t tag = generation % IDENTIFIER_GENERATION_MASK + 1;
    return (lane << IDENTIFIER_GENERATION_BITS | tag) << IDENTIFIER_SEQUENCE_BITS;
}

/* Whether an owner from the first generation to the current one may have made this id. */
static inline int identifier_is_of(uint64_t id, uint64_t first, uint64_t current)
{
    const uint64_t tag = id >> IDENTIFIER_SEQUENCE_BITS & IDENTIFIER_GENERATION_MASK;
    const uint64_t ahead = (tag + IDENTIFIER_GENERATION_MASK - 1 -
                            first % IDENTIFIER_GENERATION_MASK) % IDENTIFIER_GENERATION_MASK;
    return tag != 0 && ahead <= current - first;
}

static inline uint64_t identifier_lane(uint64_t id)
{
    return id >> (IDENTIFIER_GENERATION_BITS + IDENTIFIER_SEQUENCE_BITS);
}

static inline uint64_t identifier_sequence(uint64_t id) { return id & IDENTIFIER_SEQUENCE_MASK; }

#endif
