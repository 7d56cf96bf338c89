"""Runs the demonstration and measures it."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Final

import numpy as np

from sona_shm.config import Route, SonaConfig
from sona_shm.demo.stream import COST_WEIGHT, Stream
from sona_shm.demo.worker import Served, serve
from sona_shm.engine import Engine
from sona_shm.errors import SonaError

_POLL_SECONDS: Final = 0.05
_PATIENCE_SECONDS: Final = 60.0


@dataclasses.dataclass(frozen=True)
class DemoResult:
    """What the demonstration measured; rewards are means over requests.

    ``oracle`` knows the best route of every single request; with one noisy label per request, as
    in real routing data, nobody can reach it.  ``losses`` are those of `EngineStats.losses`
    that are not zero: on a busy host, outcomes expire before the learner has its turn.
    """

    stream: str
    workers: int
    requests: int
    first_quarter: float
    last_quarter: float
    random: float
    best_single: float
    best_single_model: str
    oracle: float
    requests_per_second: float
    route_median_us: float
    route_p99_us: float
    learned: int
    losses: dict[str, int]
    flushes: int

    @property
    def beats_random(self) -> bool:
        """Whether anything was learned at all."""
        return self.last_quarter > self.random

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)


def _start(
    name: str, stream: Stream, order: np.ndarray[Any, np.dtype[np.int64]], workers: int
) -> list[tuple[BaseProcess, Connection]]:
    context = multiprocessing.get_context("spawn")
    started: list[tuple[BaseProcess, Connection]] = []
    for i in range(workers):
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(name, stream, order[i::workers], theirs))
        process.start()
        theirs.close()
        started.append((process, ours))
    return started


def _receive(process: BaseProcess, connection: Connection, seconds: float) -> Any:
    """The next message of a worker, or an error that says how it ended."""
    try:
        if connection.poll(seconds):
            return connection.recv()
        raise SonaError(f"worker {process.pid} did not answer within {seconds:g} s")
    except EOFError:
        process.join(_PATIENCE_SECONDS)
        raise SonaError(f"worker {process.pid} ended with code {process.exitcode}") from None


def _collect(
    engine: Engine,
    workers: list[tuple[BaseProcess, Connection]],
    requests: int,
    progress: Callable[[int], None],
) -> Served:
    """Let all workers start at once, follow them, gather what they did in the order of time."""
    for process, connection in workers:
        _receive(process, connection, _PATIENCE_SECONDS)
    for _, connection in workers:
        connection.send("go")
    waiting = [connection for _, connection in workers]
    while not all(connection.poll(0) for connection in waiting):
        progress(min(requests, engine.stats().decisions))
        time.sleep(_POLL_SECONDS)
    progress(requests)
    parts = [_receive(process, connection, 0.0) for process, connection in workers]
    decided_ns = np.concatenate([part.decided_ns for part in parts])
    by_time = np.argsort(decided_ns, kind="stable")
    return Served(
        decided_ns[by_time],
        np.concatenate([part.reward for part in parts])[by_time],
        np.concatenate([part.latency_ns for part in parts])[by_time],
    )


def run_demo(
    stream: Stream, workers: int, requests: int, progress: Callable[[int], None]
) -> DemoResult:
    """Serve `requests` rows of the stream with one learner process and `workers` workers.

    Parameters
    ----------
    stream : Stream
    workers : int
        Worker processes, 1 or more.
    requests : int
        4 or more.
    progress : callable
        Called with the number of requests decided so far.
    """
    config = SonaConfig(
        hidden_dim=stream.embedding.shape[1],
        routes=tuple(Route(m, float(c)) for m, c in zip(stream.models, stream.cost, strict=True)),
        cost_weight=COST_WEIGHT,
        max_workers=workers,
    )
    order = stream.order(requests)
    name = f"demo-{os.getpid()}"
    engine = Engine.create(name, config, learner="process")
    started: list[tuple[BaseProcess, Connection]] = []
    try:
        started = _start(name, stream, order, workers)
        served = _collect(engine, started, requests, progress)
        if not engine.flush(timeout=_PATIENCE_SECONDS):
            raise SonaError(
                f"the learner did not publish the last outcomes within {_PATIENCE_SECONDS:g} s; "
                "what it says above tells why, or this host is too busy"
            )
        stats = engine.stats()
    finally:
        for process, connection in started:
            connection.close()
            process.kill()
            process.join()
        engine.close()
        Engine.destroy(name)

    reward = stream.reward[order]
    best = int(reward.mean(axis=0).argmax())
    quarter = requests // 4
    seconds = float(served.decided_ns[-1] - served.decided_ns[0]) / 1e9
    return DemoResult(
        stream=stream.title,
        workers=workers,
        requests=requests,
        first_quarter=float(served.reward[:quarter].mean()),
        last_quarter=float(served.reward[-quarter:].mean()),
        random=float(reward.mean()),
        best_single=float(reward[:, best].mean()),
        best_single_model=stream.models[best],
        oracle=float(reward.max(axis=1).mean()),
        requests_per_second=requests / seconds if seconds else 0.0,
        route_median_us=float(np.median(served.latency_ns)) / 1e3,
        route_p99_us=float(np.percentile(served.latency_ns, 99)) / 1e3,
        learned=stats.counters.signals_accumulated,
        losses={name: count for name, count in stats.losses.items() if count},
        flushes=stats.counters.flushes_performed,
    )
