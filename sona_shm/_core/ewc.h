/* Elastic weight consolidation of the heads (Kirkpatrick et al. 2017).
 *
 * The Fisher information of a weight is its sum of squared gradients while a task was learned,
 * which AdaGrad keeps anyway: the difference between two moments is what was learned between.
 * Each task's heads are remembered with it.  A task that returns goes on from the mean of its own
 * heads and the present ones, by information: what was learned elsewhere stays where the task had
 * nothing to say.  While another task is learned, what all others need pulls the heads back. */
#ifndef SONA_EWC_H
#define SONA_EWC_H

#include "model.h"

/* What the task's heads are, and the information they have gained since the task was entered. */
void heads_remember(const struct model *model, uint64_t task);

/* The heads of a task that returns; the current task's must have been remembered. */
void heads_resume(const struct model *model, uint64_t task);

/* Makes the heads of two remembered tasks those of the first. */
void heads_merge(const struct model *model, uint64_t into, uint64_t from);

/* Nothing is remembered of a task that begins. */
void heads_forget(const struct model *model, uint64_t task);

/* After a task was entered: what the heads are held to from now on. */
void anchors_consolidate(const struct model *model);

/* Before a head learns an outcome: pulls it to what other tasks need.  Strength 1 counts their
 * outcomes like as many of this task.  It adapts: it falls where what is held to predicts worse
 * than the head does. */
void anchor_pull(const struct model *model, const struct learning_rates *rates,
                 const struct outcome *outcome, const struct features *features,
                 const struct estimate *estimate);

#endif
