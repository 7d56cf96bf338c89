/* Copies of bytes that another process may be changing.
 *
 * A sequence lock reads first and checks afterwards, so these copies race by design and their
 * result is thrown away when the check fails.  ThreadSanitizer is told so here and nowhere else. */
#ifndef SONA_RACE_H
#define SONA_RACE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__SANITIZE_THREAD__)
__attribute__((no_sanitize("thread"), noinline)) static void racing_copy(void *to, const void *from,
                                                                         size_t bytes)
{
    /* word by word: the library's memcpy would be intercepted and checked */
    volatile uint32_t *target = to;
    const volatile uint32_t *source = from;
    for (size_t i = 0; i < bytes / sizeof *target; i++) target[i] = source[i];
}
#else
static inline void racing_copy(void *to, const void *from, size_t bytes)
{
    memcpy(to, from, bytes);
}
#endif

#endif
