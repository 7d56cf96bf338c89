/* Tasks that a stream of requests goes through, and comes back to: where one ends, which one it
 * is, and what has to be remembered of it.
 *
 * A boundary shows in the embeddings before it shows in the rewards.  Of a task that is known,
 * each embedding raises or lowers the log-likelihood ratio of having returned to it (Page's
 * cumulative sum along the line between the two centroids).  That a task is new shows in the
 * recent mean's distance from the centroid, and has to show again in the embeddings after that
 * alarm.  A task that is left is remembered as it was some outcomes ago, before the next one
 * disturbed it; when it returns, it goes on from there. */
#ifndef SONA_TASKS_H
#define SONA_TASKS_H

#include "model.h"

/* Looks at the embedding of an outcome that is about to be learned.  Returns 1 if another task has
 * begun: then the slow block has changed, too. */
int tasks_observe(const struct model *model, const float *x);

/* Whether what a block says of its tasks can be: these numbers are used as indices. */
int tasks_are_sound(const struct model *model);

#endif
