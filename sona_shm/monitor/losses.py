"""What can be lost, refused or given up: by the counter's name, what that means, what to do."""

from __future__ import annotations

from typing import Final, NamedTuple


class Loss(NamedTuple):
    """What a counter that is not zero means.

    Attributes
    ----------
    meaning : str
        Of one of them.
    remedy : str
        What to do, with ``{0}`` for the engine's name; empty where `setting` tells.
    setting : str
        The setting of `SonaConfig` that is too small; or empty.
    is_damage : bool
        Whether a single one is a problem.
    of_clients : bool
        Whether careless clients cause it; all others are for whoever runs the engine to look into.
    """

    meaning: str
    remedy: str = ""
    setting: str = ""
    is_damage: bool = False
    of_clients: bool = False


SEE_LOG: Final = "the learner's log says why: journalctl -g sona_shm"
STRAY_WRITES: Final = (
    "find the native code in a worker that writes where it must not: run one worker under "
    "valgrind or an address sanitizer"
)
#: ``dropped`` is a field of `EngineStats`, the others are counters of `InstantLoopMetrics`.
LOSSES: Final = {
    "dropped": Loss("a lane was full: nobody learns, or too slowly", setting="trajectory_capacity"),
    "feedback_duplicate": Loss(
        "second feedback for one decision",
        "give feedback once for each decision",
        of_clients=True,
    ),
    "feedback_expired": Loss(
        "its worker had decided too much before it was learned: it came late, or nobody learned",
        setting="pending_decisions",
        of_clients=True,
    ),
    "feedback_unknown": Loss(
        "the id is of no decision of this engine",
        "keep Decision.id as the whole number it is, and for this engine only",
        of_clients=True,
    ),
    "nonfinite_skipped": Loss(
        "a value was not finite or out of range, or led to such",
        "check qualities and embeddings before they are recorded",
    ),
    "records_corrupt": Loss(
        "the parts of a record did not fit into it", STRAY_WRITES, is_damage=True
    ),
    "records_lost": Loss("in a quarantined lane, never read", STRAY_WRITES, is_damage=True),
    "lanes_quarantined": Loss("positions in a lane that cannot be", STRAY_WRITES, is_damage=True),
    "reward_failed": Loss("the reward function raised, or gave no finite number", SEE_LOG),
    "routes_refused": Loss(
        "a change of routes that could not be made, mostly for want of room",
        setting="max_routes",
        is_damage=True,
    ),
    "refits_failed": Loss("a refit of the patterns was given up", SEE_LOG, is_damage=True),
    "reservoir_corrupt": Loss(
        "a remembered outcome could not be trusted", STRAY_WRITES, is_damage=True
    ),
    "journal_missed": Loss(
        "a decision was overwritten before it was journaled", setting="pending_decisions"
    ),
    "cycles_failed": Loss(
        "a cycle of background learning was lost", "sona learn {0}", is_damage=True
    ),
}
