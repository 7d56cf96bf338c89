/* Thompson sampling with a Gaussian for each route: the probability that its draw is the largest
 *
 *     P(k) = ∫ φ_k(x) Π_{j≠k} Φ_j(x) dx
 *
 * by Gauss-Legendre quadrature between the points where one of the Gaussians changes.  The choice
 * is drawn from these probabilities, so each propensity is exact up to the quadrature (Thompson
 * 1933; tested against simulated draws). */
#include "policy.h"

#include <stdlib.h>

/* Panels end at these distances from every mean, in its own standard deviations. */
static const double edges[] = {-5.0, -2.5, -1.0, 0.0, 1.0, 2.5, 5.0};
#define EDGES (sizeof edges / sizeof *edges)
/* Beyond so many contenders the panels of all would be too many; the least likely get the floor
 * only. */
#define CONTENDERS 16

static const double node[] = {-0.9324695142031521, -0.6612093864662645, -0.2386191860831969,
                              0.2386191860831969,  0.6612093864662645,  0.9324695142031521};
static const double node_weight[] = {0.1713244923791704, 0.3607615730481386, 0.4679139345726910,
                                     0.4679139345726910, 0.3607615730481386, 0.1713244923791704};
#define NODES (sizeof node / sizeof *node)

struct contender {
    uint32_t route;
    double mean, deviation;
};

static int by_upper_end(const void *a, const void *b)
{
    const struct contender *p = a, *q = b;
    const double gap = (q->mean + 5.0 * q->deviation) - (p->mean + 5.0 * p->deviation);
    if (gap == 0.0) return (q->mean > p->mean) - (q->mean < p->mean);
    return (gap > 0.0) - (gap < 0.0);
}

static int ascending(const void *a, const void *b)
{
    const double gap = *(const double *)a - *(const double *)b;
    return (gap > 0.0) - (gap < 0.0);
}

/* The routes whose draw may be the largest: those that reach up to where the best one surely is;
 * the CONTENDERS most promising ones. */
static uint32_t contenders_of(const struct policy_input *input, struct contender *contender)
{
    uint32_t count = 0;
    for (uint32_t k = 0; k < input->routes; k++) {
        /* Never so narrow that the ends of a panel would be one number. */
        const double narrowest = fmax(1e-9, 1e-9 * fabs(input->score[k]));
        const struct contender one = {k, input->score[k],
                                      fmax(input->strength * input->deviation[k], narrowest)};
        if (count == CONTENDERS) {
            qsort(contender, count, sizeof *contender, by_upper_end);
            if (by_upper_end(&one, &contender[count - 1]) < 0) contender[count - 1] = one;
        } else {
            contender[count++] = one;
        }
    }
    return count;
}

/* Adds to each route its share of the integral over one panel. */
static void integrate_panel(const struct contender *c, uint32_t count, double low, double high,
                            double *probability)
{
    const double half = 0.5 * (high - low), middle = 0.5 * (high + low);
    for (size_t i = 0; i < NODES; i++) {
        const double x = middle + half * node[i];
        double below[CONTENDERS], product = 1.0;
        uint32_t zeros = 0, zero = 0;
        for (uint32_t j = 0; j < count; j++) {
            below[j] = 0.5 * erfc((c[j].mean - x) / (c[j].deviation * M_SQRT2));
            if (below[j] > 1e-300) product *= below[j];
            else zeros += 1, zero = j;
        }
        for (uint32_t j = 0; j < count; j++) {
            if (zeros > 1 || (zeros == 1 && zero != j)) continue;
            const double others = zeros ? product : product / below[j];
            const double z = (x - c[j].mean) / c[j].deviation;
            const double density = exp(-0.5 * z * z) / (c[j].deviation * 2.5066282746310002);
            probability[c[j].route] += half * node_weight[i] * density * others;
        }
    }
}

void policy_thompson(const struct policy_input *input, double *probability)
{
    struct contender contender[CONTENDERS];
    double point[CONTENDERS * EDGES];
    const uint32_t count = contenders_of(input, contender);
    uint32_t points = 0;
    double surely = -INFINITY; /* some draw is above this, but for one in a million */
    for (uint32_t j = 0; j < count; j++) {
        surely = fmax(surely, contender[j].mean - 5.0 * contender[j].deviation);
        for (size_t i = 0; i < EDGES; i++)
            point[points++] = contender[j].mean + edges[i] * contender[j].deviation;
    }
    qsort(point, points, sizeof *point, ascending);
    for (uint32_t k = 0; k < input->routes; k++) probability[k] = 0.0;
    for (uint32_t i = 0; i + 1 < points; i++)
        if (point[i + 1] > surely && point[i + 1] > point[i])
            integrate_panel(contender, count, fmax(point[i], surely), point[i + 1], probability);
    normalise_with_floor(input, probability);
}
