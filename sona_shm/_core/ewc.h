/* Elastic weight consolidation: what former tasks need of a head pulls it back (Kirkpatrick et al.
 * 2017; one running anchor for all former tasks as in Schwarz et al. 2018).
 *
 * The Fisher information of a weight is its sum of squared gradients while a task was learned,
 * which AdaGrad keeps anyway: the difference between two moments is what was learned between. */
#ifndef SONA_EWC_H
#define SONA_EWC_H

#include "model.h"

/* Makes what was learned since the last call part of what the heads are held to. */
void anchors_consolidate(const struct model *model);

/* After a head has learned an outcome: pulls it to what former tasks need.  `strength` 1 counts
 * their outcomes like those of this task.  The strength adapts: it falls where what is held to
 * predicts worse than the head does. */
void anchor_pull(const struct model *model, const struct learning_rates *rates,
                 const struct outcome *outcome, const struct features *features,
                 const struct estimate *estimate);

#endif
