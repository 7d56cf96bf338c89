/* Eight floats at a time, by the compiler's vector extension: it becomes AVX, two SSE or two
 * NEON operations, whatever the target has, and keeps the order of additions fixed, so that one
 * build gives bit-equal results in every process. */
#ifndef SONA_VECTOR_H
#define SONA_VECTOR_H

#include <stddef.h>
#include <string.h>

/* Clones for wider vectors are chosen by the loader at run time, by what the processor can do
 * (a clone for "arch=haswell" would be taken on that very processor only); sanitizers cannot
 * instrument the code that chooses. */
#if !defined(__x86_64__) || !defined(__gnu_linux__) || defined(SONA_SANITIZE)
#define WIDE
#elif !defined(__clang__) && __GNUC__ >= 12
#define WIDE __attribute__((target_clones("arch=x86-64-v3", "default")))
#elif defined(__has_attribute) && __has_attribute(target_clones)
#define WIDE __attribute__((target_clones("avx2", "default")))
#else
#define WIDE
#endif

#define INLINE static inline __attribute__((always_inline))
#define WIDTH 8

typedef float vector __attribute__((vector_size(WIDTH * sizeof(float))));

INLINE void vector_load(vector *to, const float *from) { memcpy(to, from, sizeof *to); }
INLINE void vector_store(float *to, const vector *from) { memcpy(to, from, sizeof *from); }

INLINE float vector_sum(const vector *v)
{
    const vector x = *v;
    return ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]));
}

/* sum a[i]·b[i]; four chains hide the latency of the additions. */
INLINE float dot(const float *a, const float *b, size_t n)
{
    vector s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0}, x, y;
    size_t i = 0;
    for (; i + 4 * WIDTH <= n; i += 4 * WIDTH) {
        vector_load(&x, a + i), vector_load(&y, b + i), s0 += x * y;
        vector_load(&x, a + i + WIDTH), vector_load(&y, b + i + WIDTH), s1 += x * y;
        vector_load(&x, a + i + 2 * WIDTH), vector_load(&y, b + i + 2 * WIDTH), s2 += x * y;
        vector_load(&x, a + i + 3 * WIDTH), vector_load(&y, b + i + 3 * WIDTH), s3 += x * y;
    }
    for (; i + WIDTH <= n; i += WIDTH) vector_load(&x, a + i), vector_load(&y, b + i), s0 += x * y;
    s0 = (s0 + s1) + (s2 + s3);
    float sum = vector_sum(&s0);
    for (; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* Two dot products with one pass over x. */
INLINE void dot2(const float *a, const float *b, const float *x, size_t n, float *ax, float *bx)
{
    vector s0 = {0}, s1 = {0}, t0 = {0}, t1 = {0}, u, v;
    size_t i = 0;
    for (; i + 2 * WIDTH <= n; i += 2 * WIDTH) {
        vector_load(&u, x + i);
        vector_load(&v, a + i), s0 += v * u;
        vector_load(&v, b + i), t0 += v * u;
        vector_load(&u, x + i + WIDTH);
        vector_load(&v, a + i + WIDTH), s1 += v * u;
        vector_load(&v, b + i + WIDTH), t1 += v * u;
    }
    s0 += s1;
    t0 += t1;
    float s = vector_sum(&s0), t = vector_sum(&t0);
    for (; i < n; i++) s += a[i] * x[i], t += b[i] * x[i];
    *ax = s;
    *bx = t;
}

/* Four dot products of rows that begin `stride` floats apart, with one pass over x. */
INLINE void dot4(const float *a, size_t stride, const float *x, size_t n, float *out)
{
    const float *b = a + stride, *c = b + stride, *d = c + stride;
    vector s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0}, u, v;
    size_t i = 0;
    for (; i + WIDTH <= n; i += WIDTH) {
        vector_load(&u, x + i);
        vector_load(&v, a + i), s0 += v * u;
        vector_load(&v, b + i), s1 += v * u;
        vector_load(&v, c + i), s2 += v * u;
        vector_load(&v, d + i), s3 += v * u;
    }
    out[0] = vector_sum(&s0), out[1] = vector_sum(&s1);
    out[2] = vector_sum(&s2), out[3] = vector_sum(&s3);
    for (; i < n; i++) {
        out[0] += a[i] * x[i], out[1] += b[i] * x[i];
        out[2] += c[i] * x[i], out[3] += d[i] * x[i];
    }
}

/* As dot2, and x·x as well. */
INLINE void dot3(const float *a, const float *b, const float *x, size_t n, float *ax, float *bx,
                 float *xx)
{
    vector s0 = {0}, s1 = {0}, t0 = {0}, t1 = {0}, q0 = {0}, q1 = {0}, u, v;
    size_t i = 0;
    for (; i + 2 * WIDTH <= n; i += 2 * WIDTH) {
        vector_load(&u, x + i), q0 += u * u;
        vector_load(&v, a + i), s0 += v * u;
        vector_load(&v, b + i), t0 += v * u;
        vector_load(&u, x + i + WIDTH), q1 += u * u;
        vector_load(&v, a + i + WIDTH), s1 += v * u;
        vector_load(&v, b + i + WIDTH), t1 += v * u;
    }
    s0 += s1;
    t0 += t1;
    q0 += q1;
    float s = vector_sum(&s0), t = vector_sum(&t0), q = vector_sum(&q0);
    for (; i < n; i++) s += a[i] * x[i], t += b[i] * x[i], q += x[i] * x[i];
    *ax = s;
    *bx = t;
    *xx = q;
}

/* y += c·x and z += d·x with one pass over x. */
INLINE void axpy2(float *y, float c, float *z, float d, const float *x, size_t n)
{
    vector u, v, w;
    size_t i = 0;
    for (; i + WIDTH <= n; i += WIDTH) {
        vector_load(&u, x + i), vector_load(&v, y + i), vector_load(&w, z + i);
        v += c * u;
        w += d * u;
        vector_store(y + i, &v);
        vector_store(z + i, &w);
    }
    for (; i < n; i++) y[i] += c * x[i], z[i] += d * x[i];
}

/* y += c·x + d·z with one pass over y. */
INLINE void axpy_pair(float *y, float c, const float *x, float d, const float *z, size_t n)
{
    vector u, v, w;
    size_t i = 0;
    for (; i + WIDTH <= n; i += WIDTH) {
        vector_load(&u, x + i), vector_load(&v, y + i), vector_load(&w, z + i);
        v += c * u + d * w;
        vector_store(y + i, &v);
    }
    for (; i < n; i++) y[i] += c * x[i] + d * z[i];
}

/* y += c·x */
INLINE void axpy(float *y, float c, const float *x, size_t n)
{
    vector u, v;
    size_t i = 0;
    for (; i + WIDTH <= n; i += WIDTH) {
        vector_load(&u, x + i), vector_load(&v, y + i);
        v += c * u;
        vector_store(y + i, &v);
    }
    for (; i < n; i++) y[i] += c * x[i];
}

#endif
