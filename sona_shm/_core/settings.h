/* Constants of the learning algorithm.  Chosen by benchmarks/routing.py on one half of the rows of
 * its streams; the optimum is flat in each. */
#ifndef SONA_SETTINGS_H
#define SONA_SETTINGS_H

/* Predicted qualities stay in [LEAST_QUALITY, 1]. */
#define LEAST_QUALITY -1.0

/* Squared length below which centred embeddings are not scaled up further. */
#define LEAST_SPREAD 1e-6

/* A route's mean counts as if it had been seen this often with the quality of all routes. */
#define ROUTE_PRIOR 2.0
/* Share that all routes' means lose with each outcome. */
#define ROUTE_DECAY 2e-4

/* Running means over outcomes forget after so many. */
#define OUTCOME_HORIZON 10000.0

/* Linear expert: AdaGrad, and a bias that moves by at least this share of its error. */
#define HEAD_EPSILON 3e-4f
#define LEAST_BIAS_STEP 0.01

/* Ridge: prior variance of a coefficient, the constant feature, share forgotten per outcome. */
#define RIDGE_PRIOR 0.125f
#define RIDGE_CONSTANT 0.3f
#define RIDGE_DECAY 0.002

/* Bank: a pattern's mean of a route counts as if the route's mean had been seen this often. */
#define BANK_PRIOR 6.0
#define BANK_DECAY 0.01

/* Mixture: discounted least squares, drawn towards equal small weights. */
#define MIXTURE_DECAY 1e-3
#define MIXTURE_RIDGE 0.6
#define MIXTURE_PRIOR 0.2
#define LARGEST_MIXTURE_WEIGHT 1.5

/* Correction of the mixture by its recent error. */
#define ERROR_DECAY 0.02
#define ERROR_PRIOR 30.0

/* Spread of outcomes around the prediction. */
#define VARIANCE_DECAY 0.01
#define VARIANCE_PRIOR 0.1
#define VARIANCE_PRIOR_WEIGHT 6.0
#define LEAST_VARIANCE 0.003

/* A route that arrives while others serve is tried until about so many outcomes say enough. */
#define ARRIVAL_BONUS 2.0
#define ARRIVAL_VARIANCE 0.2

/* Observations that a prior stated for a new route, or taken from a similar one, counts for. */
#define LIKE_WEIGHT 5.0f

/* Tasks: centroids, spreads and products average over this many outcomes, then forget. */
#define TASK_HORIZON 2000.0
/* Share of the newest embedding in the recent mean, and how far off that mean is an alarm. */
#define TASK_SHARE 0.0625
#define TASK_ALARM 5.0
#define TASK_WARM_UP 64
#define TASK_LEAST_STAY 32
/* After an alarm a task is new if so many embeddings are, together, that far off. */
#define TASK_LEAST_GATHERED 8
#define TASK_MOST_GATHERED 48
#define TASK_NEW 6.0
/* Log-likelihood ratio that makes a return; the variance it needs averages over a horizon, from
 * the usual one, and is never taken for less than a share of that. */
#define TASK_EVIDENCE 15.0
#define TASK_VARIANCE_HORIZON 200.0
#define TASK_LEAST_VARIANCE 0.1
/* A task is remembered as it was one to two times so many outcomes before it was left, or three:
 * nothing is kept while an alarm is undecided. */
#define TASK_LAG 64

/* Heads of a task that returns: information of another task counts so much. */
#define TRANSFER 0.01

/* Anchors: errors that adapt the strength of the pull. */
#define ANCHOR_ERROR_DECAY 0.01
#define ANCHOR_ERROR_PRIOR 1.0

#endif
