/* Thompson sampling with a Gaussian for each route: the probability that its draw is the largest
 *
 *     P(k) = ∫ φ_k(x) Π_{j≠k} Φ_j(x) dx
 *
 * by Gauss-Legendre quadrature in panels as narrow as the narrowest Gaussian that they meet.  The
 * choice is drawn from these probabilities, so each propensity is exact up to the quadrature
 * (Thompson 1933; tested against simulated draws).  The time grows with the routes that may be
 * best, and with how different their deviations are. */
#include "layout.h"
#include "policy.h"

/* A draw is taken to lie within so many standard deviations of its mean. */
#define REACH 5.0
/* The width of a panel in standard deviations of the narrowest Gaussian there. */
#define PANEL 2.0
static const double node[] = {-0.9324695142031521, -0.6612093864662645, -0.2386191860831969,
                              0.2386191860831969,  0.6612093864662645,  0.9324695142031521};
static const double node_weight[] = {0.1713244923791704, 0.3607615730481386, 0.4679139345726910,
                                     0.4679139345726910, 0.3607615730481386, 0.1713244923791704};
#define NODES (sizeof node / sizeof *node)

struct contender {
    uint32_t route;
    double mean, deviation, low, high;
};

static struct contender contender_of(const struct policy_input *input, uint32_t k)
{
    /* Never so narrow that the ends of a panel would be one number. */
    const double narrowest = fmax(1e-9, 1e-9 * fabs(input->score[k]));
    const double mean = input->score[k];
    const double deviation = fmax(input->strength * input->deviation[k], narrowest);
    return (struct contender){k, mean, deviation, mean - REACH * deviation,
                              mean + REACH * deviation};
}

/* Some draw is above this, but for one in a million. */
static double surely_reached(const struct policy_input *input)
{
    double surely = -INFINITY;
    for (uint32_t k = 0; k < input->routes; k++) surely = fmax(surely, contender_of(input, k).low);
    return surely;
}

/* The routes whose draw may be the largest. */
static uint32_t contenders_of(const struct policy_input *input, double surely,
                              struct contender *contender)
{
    uint32_t count = 0;
    for (uint32_t k = 0; k < input->routes && count < LARGEST_ROUTES; k++) {
        contender[count] = contender_of(input, k);
        count += contender[count].high > surely;
    }
    return count;
}

/* Where the panel that begins at x has to end; INFINITY past the last Gaussian. */
static double panel_end(const struct contender *c, uint32_t count, double x)
{
    double end = INFINITY;
    for (uint32_t j = 0; j < count; j++) {
        if (x < c[j].low) end = fmin(end, c[j].low);
        else if (x < c[j].high) end = fmin(end, fmin(x + PANEL * c[j].deviation, c[j].high));
    }
    return end;
}

/* Adds to each route its share of the integral over one panel. */
static void integrate_panel(const struct contender *c, uint32_t count, double low, double high,
                            double *probability)
{
    const double half = 0.5 * (high - low), middle = 0.5 * (high + low);
    for (size_t i = 0; i < NODES; i++) {
        const double x = middle + half * node[i];
        double below[LARGEST_ROUTES], product = 1.0;
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
    struct contender contender[LARGEST_ROUTES];
    const double surely = surely_reached(input);
    const uint32_t count = contenders_of(input, surely, contender);
    for (uint32_t k = 0; k < input->routes; k++) probability[k] = 0.0;
    double end;
    for (double x = surely; (end = panel_end(contender, count, x)) < INFINITY; x = end)
        integrate_panel(contender, count, x, end, probability);
    normalise_with_floor(input, probability);
}
