/* The only atomic type of the shared layout: a 64-bit word, lock-free or the build fails.
 *
 * Every function names its memory order; the tables in layout.h say why each word has the
 * order it has.  x86-64 and arm64 both give lock-free 64-bit atomics between processes that
 * map the same page, which is what C11 calls address-free. */
#ifndef SONA_ATOMICS_H
#define SONA_ATOMICS_H

#include <stdatomic.h>
#include <stdint.h>

typedef _Atomic(uint64_t) shared_word;

_Static_assert(sizeof(shared_word) == 8, "a shared word is exactly eight bytes");
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "64-bit atomics must be lock-free between processes");

static inline uint64_t load_relaxed(const shared_word *word)
{
    return atomic_load_explicit(word, memory_order_relaxed);
}

static inline uint64_t load_acquire(const shared_word *word)
{
    return atomic_load_explicit(word, memory_order_acquire);
}

static inline void store_relaxed(shared_word *word, uint64_t value)
{
    atomic_store_explicit(word, value, memory_order_relaxed);
}

static inline void store_release(shared_word *word, uint64_t value)
{
    atomic_store_explicit(word, value, memory_order_release);
}

#endif
