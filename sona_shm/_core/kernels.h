/* The mathematics of the hot path on plain arrays; knows nothing of shared memory. */
#ifndef SONA_KERNELS_H
#define SONA_KERNELS_H

#include <stddef.h>
#include <stdint.h>

/* h = x + s·(x Aᵀ) B, with A and B of shape (rank, n) and s = 1/√rank.  out may be x.
 * Returns 0, with nothing written, if a value of x is not finite or too large for its products. */
int adapter_forward(const float *a, const float *b, size_t rank, size_t n, const float *x,
                     float *out);

/* score[k] = heads[k]·h + bias[k] - price[k] */
void score_routes(const float *heads, const float *bias, const float *price, size_t routes,
                  size_t n, const float *h, float *score);

/* Copies n floats; returns 0 if one of them is not finite. */
int copy_finite(float *to, const float *from, size_t n);

int all_finite(const float *x, size_t n);

/* Scales x to unit length where it is longer, so that no embedding teaches or scores more loudly
 * than others.  Returns 0, with nothing changed, if its squared length is not finite. */
int limit_length(float *x, size_t n);

/* One step of the linear expert and of the adapter under it towards an observed target. */
struct linear_expert {
    float *a, *b;          /* adapter, (rank, n) */
    float *head, *squared; /* of the chosen route, (n,) */
    float *bias, *bias_squared;
    size_t rank, n;
    float adapter_rate, head_rate, bias_rate;
    int adapter_learns;
};
/* Returns 0, with nothing changed, if a value is not finite.  h: scratch of n floats. */
int learn_outcome(const struct linear_expert *expert, const float *x, float target, float *h);

/* One step of the adapter: moves the component of h - x along `direction`·`scale` (a unit vector)
 * towards `target`.  Returns 0, with nothing changed, if a value is not finite. */
struct adapter {
    float *a, *b;
    size_t rank, n;
    float rate;
};
int learn_direction(const struct adapter *adapter, const float *x, const float *direction,
                    float target);

/* sum of squares; not finite if an element is not */
float squared_norm(const float *x, size_t n);
void add_scaled(float *y, float c, const float *x, size_t n);

#endif
