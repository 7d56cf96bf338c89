"""What workers have chosen lately, out of the decision slots; reads only."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from sona_shm.shm.layout import OFFSETS
from sona_shm.shm.memory import EngineMemory

#: Decisions that are looked at, evenly over lanes with any; each costs about two microseconds.
_LOOKED_AT: Final = 1024
_DECISION: Final = OFFSETS["decision_slot.decision"]
_ROUTE: Final = _DECISION + OFFSETS["decision.route"]
_CHOICE: Final = struct.Struct("<If")  # route and propensity share a word


class RecentChoices(NamedTuple):
    """How often a route was chosen lately, and how probable that was on average."""

    share: float
    propensity: float | None


def recent_choices(memory: EngineMemory, lanes: list[int]) -> dict[int, RecentChoices]:
    """Choices by route, of the last thousand decisions or so that these lanes remember."""
    counts: dict[int, int] = {}
    probabilities: dict[int, float] = {}
    ends = {lane: memory.lane_words(lane, "decisions")["decisions"] for lane in lanes}
    used = {lane: end for lane, end in ends.items() if end}
    for lane, end in used.items():
        for route, propensity in _choices(memory, lane, end, max(8, _LOOKED_AT // len(used))):
            counts[route] = counts.get(route, 0) + 1
            probabilities[route] = probabilities.get(route, 0.0) + propensity
    total = sum(counts.values())
    return {
        route: RecentChoices(count / total, probabilities[route] / count)
        for route, count in counts.items()
    }


def _choices(memory: EngineMemory, lane: int, end: int, most: int) -> Iterator[tuple[int, float]]:
    sizes, load = memory.sizes, memory.lanes.load
    slots = sizes["lanes_offset"] + lane * sizes["lane_stride"] + sizes["lane_slots_offset"]
    pending = memory.geometry.pending_decisions
    for number in range(max(0, end - min(most, pending)), end):
        slot = slots + number % pending * sizes["slot_bytes"]
        before = load(slot)
        route, propensity = _CHOICE.unpack(load(slot + _ROUTE).to_bytes(8, "little"))
        # Loads are acquires: had the choice been a later decision's, this id would be another.
        if before and load(slot) == before and 0.0 <= propensity <= 1.0:
            yield route, propensity
