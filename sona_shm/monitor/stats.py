"""One consistent look at an engine, for people and programs."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sona_shm.learning.consolidation import largest_shift
from sona_shm.learning.snapshot import Patterns, RouteRow, Snapshot
from sona_shm.loops.metrics import InstantLoopMetrics
from sona_shm.monitor.decisions import RecentChoices, recent_choices
from sona_shm.monitor.lanes import COUNTS, counted_since, lane_counts
from sona_shm.monitor.losses import LOSSES
from sona_shm.shm.diagnostics import NotedError
from sona_shm.shm.layout import OFFSETS
from sona_shm.shm.memory import EngineMemory


@dataclasses.dataclass(frozen=True, slots=True)
class LaneStats:
    """One lane and its owner; counts are this owner's.

    Attributes
    ----------
    index : int
    alive : bool
        Whether a living process holds the lane, by the kernel's lock.
    pid : int
        Of the last owner, for people only: pids are reused and differ between namespaces.
    label : str
    recorded, dropped, decisions : int
    backlog_bytes : int
        Bytes recorded and not yet learned in a published version.
    quarantined : bool

    Examples
    --------
    >>> LaneStats(0, True, 1, "worker", 5, 0, 5, 0, False).recorded
    5
    """

    index: int
    alive: bool
    pid: int
    label: str
    recorded: int
    dropped: int
    decisions: int
    backlog_bytes: int
    quarantined: bool


@dataclasses.dataclass(frozen=True, slots=True)
class RouteStats:
    """What was learned about one route.

    Attributes
    ----------
    name : str
    active : bool
        False for a route that was retired.
    cost : float
    outcomes : int
        Outcomes learned.
    mean_reward : float
        Their mean reward, cost subtracted; 0.0 before the first.
    mean_latency_ms, mean_tokens : float or None
        Of the feedback that told them.
    share : float
        Part of the recent decisions of living workers (of all, if none lives) that chose it.
    propensity : float or None
        Mean probability with which they did; None if none did.

    Examples
    --------
    >>> RouteStats("small", True, 0.01, 3, 0.5, None, None, 0.0, None).outcomes
    3
    """

    name: str
    active: bool
    cost: float
    outcomes: int
    mean_reward: float
    mean_latency_ms: float | None
    mean_tokens: float | None
    share: float
    propensity: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class EngineStats:
    """State of an engine at one moment.

    Attributes
    ----------
    name : str
    bytes : int
        Shared memory taken.
    version : int
        Published weights.
    learner_alive : bool
        Whether a living process holds the lease.
    learner_pid : int
        Of the last one, for people only.
    learner_seconds : float or None
        Since the last one took the lease; None if there never was one.
    learner_terms : int
        How often a learner took the lease.
    standby_alive : bool
        Whether a living process waits for the lease.
    seconds_since_publish : float or None
        None before the first publication.
    recorded : int
        Records of all workers, the dead included.
    dropped : int
        Records refused because a lane was full.
    decisions : int
    retired : LaneStats
        What former owners of the lanes did: nothing is lost from the sums when workers go.
    lanes : list of LaneStats
        Lanes that a living process holds, or that hold something.
    counters : InstantLoopMetrics
        As of the last publication.
    routes : list of RouteStats
    expert_weights : dict of str to float
        How much the mixture listens to each expert.
    patterns : int
        In use by the bank.
    tasks : int
        Known ones that the stream of requests goes through; 0 before the first outcome.
    task : int
        Index of the one that is learned now.
    adapter_shift : dict of str to (float or None)
        The largest length by which each adapter, ``micro`` and ``base``, moves an embedding of
        length 1; None where it is not finite.
    errors : list of NotedError
        Distinct errors of all processes, the dead included, the latest first.
    errors_unlisted : int
        Errors for whose kind there was no room.

    Examples
    --------
    >>> import sona_shm as sona
    >>> with sona.Engine.create("doc-monitor", sona.SonaConfig(hidden_dim=2)) as engine:
    ...     stats = engine.stats()
    >>> stats.learner_alive, stats.lanes
    (False, [])
    >>> sona.Engine.destroy("doc-monitor")
    """

    name: str
    bytes: int
    version: int
    learner_alive: bool
    learner_pid: int
    learner_seconds: float | None
    learner_terms: int
    standby_alive: bool
    seconds_since_publish: float | None
    recorded: int
    dropped: int
    decisions: int
    retired: LaneStats
    lanes: list[LaneStats]
    counters: InstantLoopMetrics
    routes: list[RouteStats]
    expert_weights: dict[str, float]
    patterns: int
    tasks: int
    task: int
    adapter_shift: dict[str, float | None]
    errors: list[NotedError]
    errors_unlisted: int

    @property
    def losses(self) -> dict[str, int]:
        """What was lost, refused or given up, by name.

        Examples
        --------
        >>> import sona_shm as sona
        >>> with sona.Engine.create("doc-losses", sona.SonaConfig(hidden_dim=2)) as engine:
        ...     engine.stats().losses["dropped"]
        0
        >>> sona.Engine.destroy("doc-losses")
        """
        counts = {"dropped": self.dropped} | dataclasses.asdict(self.counters)
        return {name: counts[name] for name in LOSSES}

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON.

        Examples
        --------
        >>> import sona_shm as sona
        >>> with sona.Engine.create("doc-plain", sona.SonaConfig(hidden_dim=2)) as engine:
        ...     engine.stats().to_mapping()["recorded"]
        0
        >>> sona.Engine.destroy("doc-plain")
        """
        return dataclasses.asdict(self) | {"losses": self.losses}


def _lane(
    memory: EngineMemory, index: int, alive: bool, learned: int
) -> tuple[LaneStats, dict[str, int]]:
    """A lane's row, and what its former owners did; `learned` is its published position."""
    total, before = lane_counts(memory, index, alive=alive)
    # A dead owner's counts belong to the retired row as soon as the kernel says it is dead.
    former = before if alive else total
    own = counted_since(total, former)
    words = memory.lane_words(index, "head", "epoch", "quarantined")
    owner = memory.owner(index)
    row = LaneStats(
        index=index,
        alive=alive,
        pid=int(owner["pid"]),
        label=str(owner["label"]),
        recorded=own["trajectories"] + own["feedbacks"],
        dropped=own["dropped"],
        decisions=own["decisions"],
        backlog_bytes=max(0, words["head"] - learned),
        quarantined=words["quarantined"] == words["epoch"] + 1,
    )
    return row, former


def _route(row: RouteRow, choices: RecentChoices) -> RouteStats:
    return RouteStats(
        name=row.name,
        active=row.active,
        cost=row.cost,
        outcomes=row.outcomes,
        mean_reward=row.reward_mean,
        mean_latency_ms=row.latency_ms,
        mean_tokens=row.tokens,
        share=choices.share,
        propensity=choices.propensity,
    )


def _shift(a: NDArray[np.float32], b: NDArray[np.float32]) -> float | None:
    return largest_shift((a, b)) if np.isfinite(a).all() and np.isfinite(b).all() else None


def _seconds_since(memory: EngineMemory, word: str) -> float | None:
    nanoseconds = memory.control.load(OFFSETS[f"control_header.{word}"])
    return (time.time_ns() - nanoseconds) / 1e9 if nanoseconds else None


def collect(memory: EngineMemory, block: bytes, slow: bytes) -> EngineStats:
    """Read everything once; writes nothing."""
    lease, alive = memory.lock_states()
    snapshot, patterns = Snapshot(block, memory.geometry), Patterns(slow, memory.geometry)
    learned = snapshot.lane_positions()
    rows = [_lane(memory, i, alive[i], learned[i]) for i in range(memory.geometry.max_workers)]
    lanes = [row for row, _ in rows]
    retired = {count: sum(former[count] for _, former in rows) for count in COUNTS}
    living = [index for index, lives in enumerate(alive) if lives]
    choices = recent_choices(memory, living or list(range(len(alive))))
    never = RecentChoices(0.0, None)
    retired_recorded = retired["trajectories"] + retired["feedbacks"]
    return EngineStats(
        name=memory.names.engine,
        bytes=sum(memory.sizes[f"{kind}_bytes"] for kind in ("control", "ring", "weights")),
        version=snapshot.version,
        learner_alive=lease,
        learner_pid=memory.control.load(OFFSETS["control_header.learner_pid"]),
        learner_seconds=_seconds_since(memory, "learner_since_ns"),
        learner_terms=memory.control.load(OFFSETS["control_header.learner_terms"]),
        standby_alive=memory.has_standby,
        seconds_since_publish=_seconds_since(memory, "published_ns"),
        recorded=retired_recorded + sum(lane.recorded for lane in lanes),
        dropped=retired["dropped"] + sum(lane.dropped for lane in lanes),
        decisions=retired["decisions"] + sum(lane.decisions for lane in lanes),
        retired=LaneStats(
            index=-1,
            alive=False,
            pid=0,
            label="retired",
            recorded=retired_recorded,
            dropped=retired["dropped"],
            decisions=retired["decisions"],
            backlog_bytes=0,
            quarantined=False,
        ),
        lanes=[lane for lane in lanes if lane.alive or lane.backlog_bytes or lane.quarantined],
        counters=InstantLoopMetrics(**snapshot.counters),
        routes=[_route(row, choices.get(i, never)) for i, row in enumerate(snapshot.routes())],
        expert_weights=snapshot.expert_weights,
        patterns=patterns.count,
        tasks=snapshot.task.known,
        task=snapshot.task.current,
        adapter_shift={
            "micro": _shift(snapshot.micro_a, snapshot.micro_b),
            "base": _shift(patterns.base_a, patterns.base_b),
        },
        errors=memory.errors.entries(),
        errors_unlisted=memory.errors.unlisted,
    )
