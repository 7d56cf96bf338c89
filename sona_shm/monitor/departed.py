"""What a worker that is gone has done, for whoever sees it go."""

from __future__ import annotations

from typing import NamedTuple

from sona_shm.monitor.lanes import counted_since, lane_counts
from sona_shm.shm.memory import EngineMemory


class Departed(NamedTuple):
    """A lane of which a process was the last owner, and what the process did there.

    Attributes
    ----------
    lane : int
    held : bool
        Whether a living process still holds the lane.
    recorded, dropped, decisions : int

    Examples
    --------
    >>> Departed(0, False, 12, 0, 15).recorded
    12
    """

    lane: int
    held: bool
    recorded: int
    dropped: int
    decisions: int


def last_lane_of(memory: EngineMemory, pid: int) -> Departed | None:
    """The lane that a process of this pid namespace was the last to own.

    None if it never had one, or if the lane has another owner by now.
    """
    owners = [memory.owner(index) for index in range(memory.geometry.max_workers)]
    owned = [index for index, owner in enumerate(owners) if owner["pid"] == pid]
    if not owned:
        return None
    index = max(owned, key=lambda index: owners[index]["since_ns"])
    _, held = memory.lock_states()
    own = counted_since(*lane_counts(memory, index, alive=held[index]))
    return Departed(
        lane=index,
        held=held[index],
        recorded=own["trajectories"] + own["feedbacks"],
        dropped=own["dropped"],
        decisions=own["decisions"],
    )
