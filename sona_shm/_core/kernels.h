/* The mathematics of the hot path on plain arrays; knows nothing of shared memory. */
#ifndef SONA_KERNELS_H
#define SONA_KERNELS_H

#include <stddef.h>
#include <stdint.h>

/* h = x + s·(x Aᵀ) B, with A and B of shape (rank, n) and s = 1/√rank.  out may be x.
 * Returns 0, with nothing written, if a value of x is not finite or too large for its products. */
int adapter_forward(const float *a, const float *b, size_t rank, size_t n, const float *x,
                     float *out);

/* out += s·(x Aᵀ) B.  Returns 0, with nothing written, where adapter_forward would. */
int adapter_add(const float *a, const float *b, size_t rank, size_t n, const float *x, float *out);

/* out[i] = rows[i]·x for `count` rows that begin `stride` floats apart. */
void dot_rows(const float *rows, size_t count, size_t stride, size_t n, const float *x, float *out);

/* out = rows x - offset, rows of shape (count, n) */
void project(const float *rows, const float *offset, size_t count, size_t n, const float *x,
             float *out);

/* Which of `count` points is nearest to z.  `points` holds one dimension after the other, each
 * `stride` floats (a multiple of 16) apart; row `dimensions` holds -|point|²/2, and unused columns
 * of it a large negative number. */
size_t nearest(const float *points, size_t stride, size_t count, size_t dimensions, const float *z);

/* Copies n floats; returns 0 if one of them is not finite. */
int copy_finite(float *to, const float *from, size_t n);

int all_finite(const float *x, size_t n);

/* Scales x to unit length where it is longer, so that no embedding teaches or scores more loudly
 * than others.  Returns 0, with nothing changed, if its squared length is not finite. */
int limit_length(float *x, size_t n);

/* One step of the linear expert on centred features h, by `error`, and of the adapter under it.
 * All values are finite; x is of at most about unit length. */
struct linear_expert {
    float *a, *b;          /* adapter, (rank, n) */
    float *head, *squared; /* of the chosen route, (n,) */
    size_t rank, n;
    float adapter_rate, head_rate;
    float scale; /* the head sees scale·h */
};
void learn_linear(const struct linear_expert *expert, const float *x, const float *h, float error);

/* One step of recursive least squares on FEATURES features with unit noise; `keep` of the
 * information stays, and no variance grows beyond `prior`.  covariance: (FEATURES, FEATURES). */
void learn_ridge(float *mean, float *covariance, const float *z, float target, float keep,
                 float prior);

/* One step of the adapter: moves the component of h - x along `direction`·`scale` (a unit vector)
 * towards `target`.  Returns 0, with nothing changed, if a value is not finite. */
struct adapter {
    float *a, *b;
    size_t rank, n;
    float rate;
    const float *base_a, *base_b; /* an adapter beside it, whose share of h - x counts; or NULL */
    size_t base_rank;
};
int learn_direction(const struct adapter *adapter, const float *x, const float *direction,
                    float target);

/* sum of squares; not finite if an element is not */
float squared_norm(const float *x, size_t n);
void add_scaled(float *y, float c, const float *x, size_t n);


/* aa = (a - origin)·(a - origin), ab = (a - origin)·(b - origin) */
void centred_products(const float *a, const float *b, const float *origin, size_t n, float *aa,
                      float *ab);

/* y += share·(x - y) */
void move_towards(float *y, const float *x, float share, size_t n);

/* Adds what a sum of squares has grown by. */
void add_gain(float *information, const float *squared, const float *begun, size_t n);

/* Mean of two heads by information, that of the other one counted `trust` times; where neither has
 * any, w stays. */
void merge_weights(float *w, const float *information, const float *other,
                   const float *other_information, float trust, size_t n);

/* An implicit, hence stable, step of AdaGrad on ½·Σ information·(w - anchor)²; `strength` is the
 * learning rate times the factor on that penalty. */
void pull_to_anchor(float *w, const float *squared, const float *anchor, const float *information,
                    size_t n, float strength);

#endif
