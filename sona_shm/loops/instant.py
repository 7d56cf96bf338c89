"""Loop A, instant learning: record, learn, flush.

An `InstantLoop` is what one process holds of it: its own lane to record into, and, where this
process is the learner, the `DrainLoop` too.
"""

from __future__ import annotations

import secrets
import threading
import weakref
from typing import Final

from sona_shm import _core
from sona_shm.config import SonaConfig
from sona_shm.errors import ConfigError, NoFreeLaneError, NotTheLearner
from sona_shm.learning.lora import MicroLoRA
from sona_shm.learning.policy import policy_strength
from sona_shm.learning.snapshot import Snapshot
from sona_shm.loops.buffer import BufferStats, TrajectoryBuffer, buffer_stats
from sona_shm.loops.config import InstantLoopConfig
from sona_shm.loops.drain import DrainLoop, LearnerOptions, require_learner
from sona_shm.loops.engine_memory import create_engine_memory
from sona_shm.loops.learn_result import LearnResult, request_cycle
from sona_shm.loops.metrics import InstantLoopMetrics
from sona_shm.loops.route_table import RouteTable
from sona_shm.shm import fork
from sona_shm.shm.layout import OFFSETS
from sona_shm.shm.memory import EngineMemory
from sona_shm.shm.removal import destroy_memory
from sona_shm.shm.waiting import wait_until
from sona_shm.trajectory import QueryTrajectory

_NEXT_ID: Final = OFFSETS["control_header.next_trajectory_id"]
_WAKE_LEARNER: Final = 2


def _lane_seed(seed: int | None, index: int, claims: int) -> int:
    """Reproducible from a configured seed, yet another stream for each lane and each owner."""
    if seed is None:
        return secrets.randbits(63)
    return (seed + index * 0x9E3779B97F4A7C15 + claims * 0xD1B54A32D192ED03) % 2**64


def _remove_private(memory: EngineMemory) -> None:
    memory.close()
    destroy_memory(memory.names.engine)


class InstantLoop:
    """Loop A for one process: records trajectories, and learns where this process is the learner.

    Stand-alone, it makes an engine of its own that nobody else can find, learns in the calling
    process, and removes everything at `close` or when it is collected.  An engine's own loop is
    ``engine.instant``.

    Parameters
    ----------
    hidden_dim : int
        Length of an embedding.
    config : InstantLoopConfig, optional

    Examples
    --------
    >>> with InstantLoop(4, InstantLoopConfig(flush_threshold=1)) as loop:
    ...     t = QueryTrajectory(loop.next_id(), [1.0, 0.0, 0.0, 0.0]).finalize(0.9)
    ...     recorded = loop.on_trajectory(t)
    ...     recorded, loop.pending_count(), loop.metrics.flushes_performed
    (True, 1, 1)
    """

    def __init__(self, hidden_dim: int, config: InstantLoopConfig | None = None) -> None:
        sona_config = (config or InstantLoopConfig()).to_sona_config(hidden_dim)
        memory = create_engine_memory(f"loop-{secrets.token_hex(8)}", sona_config)
        self._bind(memory, sona_config)
        self._remove_at_end(memory)
        self.become_learner()

    def _bind(self, memory: EngineMemory, config: SonaConfig) -> None:
        self._memory = memory
        self._config = config
        self._lane: _core.Lane | None = None
        self.routes = RouteTable(self._snapshot)
        self._lane_index = -1
        self._claiming = threading.Lock()
        self._drain: DrainLoop | None = None
        self._reader = _core.Reader(memory.buffer("weights"), memory.geometry)
        memory.at_close(self._reader._release)
        self._remover: weakref.finalize[[EngineMemory], InstantLoop] | None = None
        fork.register(self)

    def _remove_at_end(self, memory: EngineMemory) -> None:
        """A stand-alone loop's engine goes with it, also when nobody calls close()."""
        self._remover = weakref.finalize(self, _remove_private, memory)

    @classmethod
    def _over(cls, memory: EngineMemory, config: SonaConfig) -> InstantLoop:
        """The loop of an engine whose memory is mapped already; used by `Engine`."""
        loop = cls.__new__(cls)
        loop._bind(memory, config)
        return loop

    @classmethod
    def from_sona_config(cls, config: SonaConfig) -> InstantLoop:
        """A stand-alone loop with an engine's settings.

        Examples
        --------
        >>> with InstantLoop.from_sona_config(SonaConfig(hidden_dim=4)) as loop:
        ...     loop.pending_count()
        0
        """
        return cls(config.hidden_dim, InstantLoopConfig.from_sona_config(config))

    def _snapshot(self) -> Snapshot:
        return Snapshot(self._reader._snapshot(), self._memory.geometry)

    # ---- recording ----

    def _claim(self) -> _core.Lane:
        """The lane of this process, at first use and anew after fork."""
        with self._claiming:
            if self._lane is not None:
                return self._lane
            memory, config = self._memory, self._config
            self.routes.refresh()
            try:
                index = memory.claim_lane()
            except NoFreeLaneError as error:
                memory.errors.note("claim a lane", error)
                raise
            generation = int(memory.owner(index)["generation"])
            self._lane_index = index
            self._lane = _core.Lane(
                memory.buffer("control"),
                memory.buffer("ring"),
                memory.buffer("weights"),
                memory.geometry,
                index,
                generation,
                _lane_seed(config.seed, index, generation - memory.first_generation),
                config.policy,
                policy_strength(config),
                self.routes.index,
            )
            memory.at_close(self._lane.release)
            return self._lane

    def next_id(self) -> int:
        """A trajectory id that no other process of this engine gets.

        Examples
        --------
        >>> with InstantLoop(4) as loop:
        ...     loop.next_id() < loop.next_id()
        True
        """
        return self._memory.control.add(_NEXT_ID, 1)

    def on_trajectory(self, trajectory: QueryTrajectory) -> bool:
        """Record a completed trajectory; where this process is the learner, learn it at once.

        Parameters
        ----------
        trajectory : QueryTrajectory

        Returns
        -------
        bool
            False if the lane was full: nothing was recorded, and the drop is counted.

        Raises
        ------
        ShapeError, DtypeError, NonFiniteError, OutOfRangeError, RecordTooLargeError
            Nothing was recorded.
        ConfigError
            If ``model_route`` names no route of this engine.
        NoFreeLaneError
            If more processes record than the engine has lanes.

        Examples
        --------
        >>> with InstantLoop(2) as loop:
        ...     loop.on_trajectory(QueryTrajectory(1, [0.0, 1.0]).finalize(0.8))
        True
        """
        lane = self._lane or self._claim()
        try:
            return self._put(lane.record(trajectory))
        except ConfigError:
            if not self.routes.refresh():
                raise
            return self._put(lane.record(trajectory))

    def _put(self, status: int) -> bool:
        """What follows a record: wake the learner, or be it."""
        if self._drain is not None:
            self._drain.step()
        elif status == _WAKE_LEARNER:
            self._memory.bell.ring()
        return status != 0

    # ---- learning ----

    def become_learner(self, options: LearnerOptions | None = None) -> DrainLoop:
        """Take the lease and learn in this process from now on.

        Parameters
        ----------
        options : LearnerOptions, optional
            Journal and reward function.

        Raises
        ------
        NotTheLearner
            If another process holds it.

        Examples
        --------
        >>> with InstantLoop(2) as loop:
        ...     loop.become_learner()
        Traceback (most recent call last):
            ...
        sona_shm.errors.NotTheLearner: this loop is the learner already
        """
        if self._drain is not None:
            raise NotTheLearner("this loop is the learner already")
        self._drain = DrainLoop(self._memory, self._config, options, keep=True)
        return self._drain

    def flush(self, timeout: float = 1.0) -> bool:
        """Have everything recorded so far learned and published.

        Parameters
        ----------
        timeout : float
            Seconds to wait for a learner in another process.

        Returns
        -------
        bool
            False if no learner answered in time; the request stands.

        Examples
        --------
        >>> with InstantLoop(2) as loop:
        ...     loop.flush()
        True
        """
        if self._drain is not None:
            self._drain.flush()
            return True
        control = self._memory.control
        ticket = control.add(OFFSETS["control_header.flush_requested"], 1) + 1
        served = OFFSETS["control_header.flush_served"]
        self._memory.wake_learner()
        return wait_until(lambda: control.load(served) >= ticket, timeout)

    def force_learn(self, timeout: float = 60.0) -> LearnResult:
        """Have a cycle of Loop B run now; see `Engine.force_learn`.

        Examples
        --------
        >>> with InstantLoop(2) as loop:
        ...     loop.force_learn().status
        'skipped'
        """
        if self._drain is not None:
            return self._drain.learn()
        self._memory.require_open()
        return request_cycle(self._memory, timeout)

    def drain_trajectories(self) -> list[QueryTrajectory]:
        """Take out all learned trajectories that are still kept.

        Raises
        ------
        NotTheLearner
            If another process learns.

        Examples
        --------
        >>> with InstantLoop(2) as loop:
        ...     _ = loop.on_trajectory(QueryTrajectory(9, [0.0, 1.0]).finalize(0.8))
        ...     [t.id for t in loop.drain_trajectories()], loop.pending_count()
        ([9], 0)
        """
        return require_learner(self._memory, self._drain).drain_trajectories()

    def drain_trajectories_n(self, n: int) -> list[QueryTrajectory]:
        """Take out at most n learned trajectories.

        Examples
        --------
        >>> with InstantLoop(2) as loop:
        ...     loop.drain_trajectories_n(5)
        []
        """
        return require_learner(self._memory, self._drain).drain_trajectories(n)

    # ---- looking ----

    @property
    def metrics(self) -> InstantLoopMetrics:
        """Counters: up to this moment where this process learns, else as last published.

        Examples
        --------
        >>> with InstantLoop(2) as loop:
        ...     loop.metrics.flushes_performed
        0
        """
        snapshot = self._snapshot() if self._drain is None else self._drain.working_snapshot()
        return InstantLoopMetrics(**snapshot.counters)

    def micro_lora(self) -> MicroLoRA:
        """The published adapter, as a copy: call again to see later updates.

        Examples
        --------
        >>> with InstantLoop(2) as loop:
        ...     loop.micro_lora().forward([1.0, 2.0])
        array([1., 2.], dtype=float32)
        """
        snapshot = self._snapshot()
        return MicroLoRA.from_weights(snapshot.micro_a, snapshot.micro_b)

    def buffer(self) -> TrajectoryBuffer:
        """The trajectory buffer: all lanes together.

        Examples
        --------
        >>> with InstantLoop(2) as loop:
        ...     len(loop.buffer())
        0
        """
        return TrajectoryBuffer(self._memory, self._drain)

    def pending_count(self) -> int:
        """Trajectories recorded, by any process, and not yet drained or evicted.

        Examples
        --------
        >>> with InstantLoop(2) as loop:
        ...     loop.pending_count()
        0
        """
        return self.buffer_stats().pending

    def buffer_stats(self) -> BufferStats:
        """Pending, dropped and success rate over all lanes.

        Examples
        --------
        >>> with InstantLoop(2) as loop:
        ...     loop.buffer_stats()
        BufferStats(pending=0, dropped=0, success_rate=1.0)
        """
        return buffer_stats(self._memory)

    # ---- end ----

    def _after_fork(self) -> None:
        """In a forked child: be a worker without a lane yet."""
        self._lane = None
        self._drain = None
        self._claiming = threading.Lock()
        if self._remover is not None:
            self._remover.detach()  # the engine is the parent's to remove
            self._remover = None

    def release(self) -> None:
        """Publish what was learned and give back lease and lane; the memory stays mapped.

        Examples
        --------
        >>> with InstantLoop(2) as loop:
        ...     loop.release()
        """
        if self._drain is not None:
            self._drain.flush()
            self._drain.close()
            self._drain = None
        if self._lane is not None:
            self._lane.release()
            self._memory.release_lane(self._lane_index)
            self._lane = None

    def close(self) -> None:
        """Release, and let the memory go; a stand-alone loop removes its engine.

        Examples
        --------
        >>> loop = InstantLoop(2); loop.close()
        """
        self.release()
        if self._remover is not None:
            self._remover()
        else:
            self._memory.close()

    def __enter__(self) -> InstantLoop:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
