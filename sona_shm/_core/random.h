/* xoshiro256** 1.0 (Blackman & Vigna 2018), seeded by splitmix64: one stream per worker. */
#ifndef SONA_RANDOM_H
#define SONA_RANDOM_H

#include <stdint.h>

struct random_stream {
    uint64_t s[4];
};

static inline void random_seed(struct random_stream *stream, uint64_t seed)
{
    for (int i = 0; i < 4; i++) {
        uint64_t z = (seed += UINT64_C(0x9e3779b97f4a7c15));
        z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
        z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
        stream->s[i] = z ^ (z >> 31);
    }
}

static inline uint64_t random_rotate(uint64_t x, int k) { return (x << k) | (x >> (64 - k)); }

/* Uniform in [0, 1). */
static inline double random_uniform(struct random_stream *stream)
{
    uint64_t *s = stream->s;
    const uint64_t result = random_rotate(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = random_rotate(s[3], 45);
    return (double)(result >> 11) * 0x1.0p-53;
}

#endif
