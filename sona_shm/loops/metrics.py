"""What Loop A has counted."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class InstantLoopMetrics:
    """Counters of Loop A at one moment; part of the snapshot, so exact across learner deaths.

    ``trajectories_processed + feedback_processed`` records were consumed.  Of them
    ``signals_accumulated`` taught something, and every other one stands in one of
    ``feedback_duplicate``, ``feedback_expired``, ``feedback_unknown``, ``nonfinite_skipped``,
    ``records_corrupt``, ``reward_failed``, ``routes_changed`` and ``routes_refused``.
    ``records_lost`` counts what a quarantined lane still held.

    Attributes
    ----------
    trajectories_processed : int
    signals_accumulated : int
    flushes_performed : int
        Publications with at least one signal (reference rule: applications).
    updates_applied : int
        Signals in those flushes.
    feedback_processed : int
    outcomes_learned : int
        Outcomes that moved a route's head.
    feedback_duplicate : int
        Second feedback for one decision.
    feedback_expired : int
        The decision was overwritten by later ones of its worker.
    feedback_unknown : int
        No decision ever had this id.
    nonfinite_skipped : int
        A value was not finite or out of range, or what would be computed from it was.
    records_corrupt : int
        The parts of a record did not fit into it.
    lanes_quarantined : int
        How often a lane was refused because its positions or lengths could not be.
    records_lost : int
        Records in a refused lane that were never read.
    defaults_learned : int
        Decisions without feedback in time, of which the default quality was learned.
    reward_failed : int
        Outcomes for which the reward function raised, or gave no finite number.
    routes_changed, routes_refused : int
        Changes of routes applied, and those that could not be.
    refits_installed, refits_failed : int
        Refits of the patterns.
    reservoir_corrupt : int
        Rows of the reservoir that a refit could not trust.
    journal_missed : int
        Decisions that were overwritten before they could be journaled.
    task_alarms : int
        How often recent embeddings were far from what is usual for the task.
    tasks_begun, tasks_returned, tasks_merged : int
        New tasks found, known ones recognised, and pairs made one for want of room.
    cycles_installed, cycles_skipped, cycles_failed : int
        Cycles of Loop B: installed, left out for want of trajectories, and lost.
    heads_refitted : int
        Heads of routes that Loop B has replaced.

    Examples
    --------
    >>> import sona_shm as sona
    >>> with sona.InstantLoop(2) as loop:
    ...     loop.metrics.trajectories_processed
    0
    """

    trajectories_processed: int
    signals_accumulated: int
    flushes_performed: int
    updates_applied: int
    feedback_processed: int
    outcomes_learned: int
    feedback_duplicate: int
    feedback_expired: int
    feedback_unknown: int
    nonfinite_skipped: int
    records_corrupt: int
    lanes_quarantined: int
    records_lost: int
    defaults_learned: int
    reward_failed: int
    routes_changed: int
    routes_refused: int
    refits_installed: int
    refits_failed: int
    reservoir_corrupt: int
    journal_missed: int
    task_alarms: int
    tasks_begun: int
    tasks_returned: int
    tasks_merged: int
    cycles_installed: int
    cycles_skipped: int
    cycles_failed: int
    heads_refitted: int
