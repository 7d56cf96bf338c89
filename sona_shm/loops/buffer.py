"""The trajectory buffer of the seed: here, all lanes of an engine together."""

from __future__ import annotations

from typing import NamedTuple

from sona_shm.loops.drain import DrainLoop, require_learner
from sona_shm.shm.memory import EngineMemory
from sona_shm.trajectory import QueryTrajectory


class BufferStats(NamedTuple):
    """State of the trajectory buffer.

    Attributes
    ----------
    pending : int
        Trajectories recorded and not yet drained or evicted.
    dropped : int
        Records that found their lane full.
    success_rate : float
        Recorded / (recorded + dropped); 1.0 before the first.

    Examples
    --------
    >>> BufferStats(0, 0, 1.0).success_rate
    1.0
    """

    pending: int
    dropped: int
    success_rate: float


def buffer_stats(memory: EngineMemory) -> BufferStats:
    """State of the buffer, from the headers of all lanes."""
    recorded = released = records = dropped = 0
    for index in range(memory.geometry.max_workers):
        words = memory.lane_words(
            index, "trajectories", "feedbacks", "dropped", "released_trajectories"
        )
        recorded += words["trajectories"]
        released += words["released_trajectories"]
        records += words["trajectories"] + words["feedbacks"]
        dropped += words["dropped"]
    rate = records / (records + dropped) if records + dropped else 1.0
    return BufferStats(max(0, recorded - released), dropped, rate)


class TrajectoryBuffer:
    """Recorded trajectories that nobody has drained yet, over all lanes of an engine.

    Made by `InstantLoop.buffer`.  Recording happens through the loop; at most half of each lane
    is kept after learning, and the oldest are evicted first, which loses no learning.

    Examples
    --------
    >>> import sona_shm as sona
    >>> with sona.InstantLoop(2) as loop:
    ...     _ = loop.on_trajectory(sona.QueryTrajectory(1, [0.0, 1.0]).finalize(0.8))
    ...     buffer = loop.buffer()
    ...     len(buffer), [t.id for t in buffer.drain()], len(buffer)
    (1, [1], 0)
    """

    def __init__(self, memory: EngineMemory, drain: DrainLoop | None) -> None:
        self._memory = memory
        self._drain = drain

    def __len__(self) -> int:
        return buffer_stats(self._memory).pending

    @property
    def dropped_count(self) -> int:
        """Records that found their lane full.

        Examples
        --------
        >>> import sona_shm as sona
        >>> with sona.InstantLoop(2) as loop:
        ...     loop.buffer().dropped_count
        0
        """
        return buffer_stats(self._memory).dropped

    @property
    def success_rate(self) -> float:
        """Recorded / (recorded + dropped).

        Examples
        --------
        >>> import sona_shm as sona
        >>> with sona.InstantLoop(2) as loop:
        ...     loop.buffer().success_rate
        1.0
        """
        return buffer_stats(self._memory).success_rate

    def drain(self) -> list[QueryTrajectory]:
        """Take out all; raises NotTheLearner where another process learns.

        Examples
        --------
        >>> import sona_shm as sona
        >>> with sona.InstantLoop(2) as loop:
        ...     loop.buffer().drain()
        []
        """
        return require_learner(self._memory, self._drain).drain_trajectories()

    def drain_n(self, n: int) -> list[QueryTrajectory]:
        """Take out at most n.

        Examples
        --------
        >>> import sona_shm as sona
        >>> with sona.InstantLoop(2) as loop:
        ...     loop.buffer().drain_n(3)
        []
        """
        return require_learner(self._memory, self._drain).drain_trajectories(n)
