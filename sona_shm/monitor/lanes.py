"""What the owners of a lane have counted, exact at any kill."""

from __future__ import annotations

from typing import Final

from sona_shm.shm.memory import EngineMemory

COUNTS: Final = ("trajectories", "feedbacks", "dropped", "decisions")


def lane_counts(
    memory: EngineMemory, index: int, *, alive: bool
) -> tuple[dict[str, int], dict[str, int]]:
    """What all owners of a lane have counted, and of it what came before the last one."""
    bases = [f"base_{count}" for count in COUNTS]
    words = memory.lane_words(index, "head", "intent", *COUNTS, *bases)
    if not alive:
        _take_back(words)
    return {c: words[c] for c in COUNTS}, {c: words[f"base_{c}"] for c in COUNTS}


def counted_since(total: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    """The difference, which nonsense in shared memory cannot make negative."""
    return {count: max(0, total[count] - before[count]) for count in COUNTS}


def _take_back(words: dict[str, int]) -> None:
    """Uncount a record that its owner had counted, but died before publishing.

    The same rule as `take_back` in ``_core/lane.c``, which the next owner applies for good.
    """
    intent = words["intent"]
    counted = {1: "trajectories", 2: "feedbacks"}.get(intent & 3)
    if counted is None or intent - intent % 64 == words["head"]:
        return
    if intent >> 2 & 15 == words[counted] & 15:
        words[counted] -= 1
