/* See kernels.h for what each function computes; docs/architecture.md derives the update. */
#include "kernels.h"

#include <math.h>

#include "blocks.h"
#include "settings.h"
#include "vector.h"

#define MAX_RANK 64

/* Column c[r] = A[r]·x, two rows at a time. */
INLINE void project_down(const float *a, size_t rank, size_t n, const float *x, float *c)
{
    size_t r = 0;
    for (; r + 2 <= rank; r += 2) dot2(a + r * n, a + (r + 1) * n, x, n, &c[r], &c[r + 1]);
    for (; r < rank; r++) c[r] = dot(a + r * n, x, n);
}

/* The same, and x·x: what the learner needs of an input, in one pass at the usual rank. */
INLINE float project_down_squared(const float *a, size_t rank, size_t n, const float *x, float *c)
{
    float squared;
    if (rank == 2) {
        dot3(a, a + n, x, n, &c[0], &c[1], &squared);
        return squared;
    }
    project_down(a, rank, n, x, c);
    return dot(x, x, n);
}

/* NaN and infinity survive every product and sum, so that what is projected down tells for free
 * whether all of x is finite. */
INLINE int projection_is_finite(const float *c, size_t rank)
{
    float sum = 0.0f;
    for (size_t r = 0; r < rank; r++) sum += c[r];
    return isfinite(sum);
}

INLINE int forward(const float *a, const float *b, size_t rank, size_t n, const float *x,
                   float *out, float *c)
{
    const float scale = 1.0f / sqrtf((float)rank);
    project_down(a, rank, n, x, c);
    if (!projection_is_finite(c, rank)) return 0;
    if (rank == 2) {
        const float c0 = scale * c[0], c1 = scale * c[1];
        vector u, v, w;
        size_t i = 0;
        for (; i + WIDTH <= n; i += WIDTH) {
            vector_load(&u, x + i), vector_load(&v, b + i), vector_load(&w, b + n + i);
            u += c0 * v + c1 * w;
            vector_store(out + i, &u);
        }
        for (; i < n; i++) out[i] = x[i] + (c0 * b[i] + c1 * b[n + i]);
        return 1;
    }
    if (out != x) memmove(out, x, n * sizeof *x);
    for (size_t r = 0; r < rank; r++) axpy(out, scale * c[r], b + r * n, n);
    return 1;
}

WIDE int adapter_forward(const float *a, const float *b, size_t rank, size_t n, const float *x,
                         float *out)
{
    float c[MAX_RANK];
    return forward(a, b, rank, n, x, out, c);
}

WIDE int adapter_add(const float *a, const float *b, size_t rank, size_t n, const float *x,
                     float *out)
{
    const float scale = 1.0f / sqrtf((float)rank);
    float c[MAX_RANK];
    project_down(a, rank, n, x, c);
    if (!projection_is_finite(c, rank)) return 0;
    size_t r = 0;
    for (; r + 2 <= rank; r += 2)
        axpy_pair(out, scale * c[r], b + r * n, scale * c[r + 1], b + (r + 1) * n, n);
    for (; r < rank; r++) axpy(out, scale * c[r], b + r * n, n);
    return 1;
}

WIDE void dot_rows(const float *rows, size_t count, size_t stride, size_t n, const float *x,
                   float *out)
{
    size_t i = 0;
    for (; i + 4 <= count; i += 4) dot4(rows + i * stride, stride, x, n, out + i);
    for (; i < count; i++) out[i] = dot(rows + i * stride, x, n);
}

WIDE void project(const float *rows, const float *offset, size_t count, size_t n, const float *x,
                  float *out)
{
    size_t i = 0;
    for (; i + 4 <= count; i += 4) dot4(rows + i * n, n, x, n, out + i);
    for (; i < count; i++) out[i] = dot(rows + i * n, x, n);
    for (i = 0; i < count; i++) out[i] -= offset[i];
}

/* Nearest by largest z·point - |point|²/2; sixteen points at a time. */
WIDE size_t nearest(const float *points, size_t stride, size_t count, size_t dimensions,
                    const float *z)
{
    size_t best = 0;
    float largest = -INFINITY;
    for (size_t j = 0; j < count; j += 2 * WIDTH) {
        vector s0, s1, u, v;
        vector_load(&s0, points + dimensions * stride + j);
        vector_load(&s1, points + dimensions * stride + j + WIDTH);
        for (size_t d = 0; d < dimensions; d++) {
            vector_load(&u, points + d * stride + j);
            vector_load(&v, points + d * stride + j + WIDTH);
            s0 += z[d] * u;
            s1 += z[d] * v;
        }
        for (size_t i = 0; i < WIDTH; i++)
            if (s0[i] > largest) largest = s0[i], best = j + i;
        for (size_t i = 0; i < WIDTH; i++)
            if (s1[i] > largest) largest = s1[i], best = j + WIDTH + i;
    }
    return best < count ? best : 0;
}

/* An exponent of all ones is infinity or NaN; integer tests vectorise and never trap. */
static const uint32_t exponent = UINT32_C(0x7f800000);

WIDE int all_finite(const float *x, size_t n)
{
    uint32_t bad = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        bad |= (uint32_t)((bits & exponent) == exponent);
    }
    return !bad;
}

WIDE int copy_finite(float *to, const float *from, size_t n)
{
    uint32_t bad = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, from + i, sizeof bits);
        bad |= (uint32_t)((bits & exponent) == exponent);
        memcpy(to + i, &bits, sizeof bits);
    }
    return !bad;
}

WIDE int limit_length(float *x, size_t n)
{
    const float squared = dot(x, x, n);
    if (!isfinite(squared)) return 0;
    if (squared <= 1.0f) return 1;
    const float scale = 1.0f / sqrtf(squared);
    for (size_t i = 0; i < n; i++) x[i] *= scale;
    return 1;
}

WIDE float squared_norm(const float *x, size_t n) { return dot(x, x, n); }

WIDE void add_scaled(float *y, float c, const float *x, size_t n) { axpy(y, c, x, n); }

/* Exact chain rule through both factors for a gradient error·direction at the output:
 * dB[r] = s·(A x)[r]·g and dA[r] = s·(B g)[r]·x.  The step is normalised by |x|² beyond 1, so
 * that embeddings of any length are learned stably. */
INLINE void adapter_step(float *a, float *b, size_t rank, size_t n, const float *x,
                         const float *direction, const float *ax, const float *bd, float rate,
                         float error, float x_squared, float direction_scale)
{
    const float scale = 1.0f / sqrtf((float)rank);
    const float step = rate * error * scale / fmaxf(1.0f, x_squared);
    const float up = step * direction_scale;
    size_t r = 0;
    for (; r + 2 <= rank; r += 2) {
        axpy2(b + r * n, up * ax[r], b + (r + 1) * n, up * ax[r + 1], direction, n);
        axpy2(a + r * n, up * bd[r], a + (r + 1) * n, up * bd[r + 1], x, n);
    }
    for (; r < rank; r++) {
        axpy(b + r * n, up * ax[r], direction, n);
        axpy(a + r * n, up * bd[r], x, n);
    }
}

/* AdaGrad (Duchi et al. 2011), per coordinate, with the gradient error·h. */
INLINE void adagrad_step(float *w, float *squared, const float *h, size_t n, float error,
                         float rate)
{
    for (size_t i = 0; i < n; i++) {
        const float g = error * h[i];
        squared[i] += g * g;
        w[i] += rate * g / sqrtf(squared[i] + HEAD_EPSILON);
    }
}

WIDE void learn_linear(const struct linear_expert *e, const float *x, const float *h, float error)
{
    float ax[MAX_RANK], bw[MAX_RANK];
    if (e->adapter_rate > 0.0f) {
        project_down(e->a, e->rank, e->n, x, ax);
        project_down(e->b, e->rank, e->n, e->head, bw);
        adapter_step(e->a, e->b, e->rank, e->n, x, e->head, ax, bw, e->adapter_rate,
                     error * e->scale, dot(x, x, e->n), 1.0f);
    }
    adagrad_step(e->head, e->squared, h, e->n, error * e->scale, e->head_rate);
}

WIDE void add_gain(float *information, const float *squared, const float *begun, size_t n)
{
    for (size_t i = 0; i < n; i++) information[i] += fmaxf(squared[i] - begun[i], 0.0f);
}

WIDE void merge_weights(float *w, const float *information, const float *other,
                        const float *other_information, float trust, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const float added = trust * other_information[i], all = information[i] + added;
        if (all > 0.0f) w[i] += added / all * (other[i] - w[i]);
    }
}

WIDE void pull_to_anchor(float *w, const float *squared, const float *anchor,
                         const float *information, size_t n, float strength)
{
    for (size_t i = 0; i < n; i++) {
        const float pull = strength * information[i] / sqrtf(squared[i] + HEAD_EPSILON);
        w[i] += pull / (1.0f + pull) * (anchor[i] - w[i]);
    }
}

WIDE void centred_products(const float *a, const float *b, const float *origin, size_t n, float *aa,
                           float *ab)
{
    vector s = {0}, t = {0}, u, v, o;
    size_t i = 0;
    for (; i + WIDTH <= n; i += WIDTH) {
        vector_load(&u, a + i), vector_load(&v, b + i), vector_load(&o, origin + i);
        u -= o, v -= o;
        s += u * u, t += u * v;
    }
    *aa = vector_sum(&s), *ab = vector_sum(&t);
    for (; i < n; i++) {
        *aa += (a[i] - origin[i]) * (a[i] - origin[i]);
        *ab += (a[i] - origin[i]) * (b[i] - origin[i]);
    }
}

WIDE void move_towards(float *y, const float *x, float share, size_t n)
{
    for (size_t i = 0; i < n; i++) y[i] += share * (x[i] - y[i]);
}

WIDE void learn_ridge(float *mean, float *covariance, const float *z, float target, float keep,
                      float prior)
{
    const float grown = 1.0f / keep;
    float u[FEATURES], shrink[FEATURES];
    for (size_t i = 0; i < FEATURES; i++)
        u[i] = grown * dot(covariance + i * FEATURES, z, FEATURES);
    const float noise = 1.0f + dot(u, z, FEATURES);
    const float step = (target - dot(mean, z, FEATURES)) / noise;
    for (size_t i = 0; i < FEATURES; i++) mean[i] += step * u[i];

    const float unit = 1.0f / sqrtf(noise);
    for (size_t i = 0; i < FEATURES; i++) u[i] *= unit;
    int excessive = 0;
    for (size_t i = 0; i < FEATURES; i++) {
        float *row = covariance + i * FEATURES;
        for (size_t j = 0; j < FEATURES; j++) row[j] = grown * row[j] - u[i] * u[j];
        excessive |= row[i] > prior;
        shrink[i] = row[i] > prior ? sqrtf(prior / row[i]) : 1.0f;
    }
    /* Directions that no request has lately are forgotten to the prior and no further: scaling
     * rows and columns alike keeps the matrix positive definite. */
    if (!excessive) return;
    for (size_t i = 0; i < FEATURES; i++)
        for (size_t j = 0; j < FEATURES; j++)
            covariance[i * FEATURES + j] *= shrink[i] * shrink[j];
}

/* How far an adapter moves x along a direction. */
INLINE float shift_along(const float *ax, const float *bd, size_t rank)
{
    float moved = 0.0f;
    for (size_t r = 0; r < rank; r++) moved += ax[r] * bd[r];
    return moved / sqrtf((float)rank);
}

WIDE int learn_direction(const struct adapter *m, const float *x, const float *direction,
                         float target)
{
    float ax[MAX_RANK], bd[MAX_RANK];
    const float x_squared = project_down_squared(m->a, m->rank, m->n, x, ax);
    const float norm_squared = project_down_squared(m->b, m->rank, m->n, direction, bd);
    if (!isfinite(x_squared) || !isfinite(norm_squared)) return 0;
    if (norm_squared <= 0.0f) return 1;
    const float unit = 1.0f / sqrtf(norm_squared);
    float moved = shift_along(ax, bd, m->rank);
    if (m->base_a) {
        float base_ax[MAX_RANK], base_bd[MAX_RANK];
        project_down(m->base_a, m->base_rank, m->n, x, base_ax);
        project_down(m->base_b, m->base_rank, m->n, direction, base_bd);
        moved += shift_along(base_ax, base_bd, m->base_rank);
    }
    const float error = target - moved * unit;
    if (!isfinite(error)) return 0;
    adapter_step(m->a, m->b, m->rank, m->n, x, direction, ax, bd, m->rate, error, x_squared, unit);
    return 1;
}
