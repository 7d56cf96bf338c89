"""Whether Loop B stalls Loop A: publish latency with and without background learning.

Three processes: this one records outcomes at random moments, about a thousand a second, and looks
until each is published as learned; a learner; and, in every other round, one that asks for cycles
of Loop B as fast as they are answered.  Each cycle learns from a reservoir of 50,000 routed
outcomes.  Rounds with and without Loop B alternate, so that whatever else the machine does meets
both.  "install" is what Loop B takes of the learner's own time between two flushes.  With
`--spinning N`, so many processes that never sleep take the host's cores meanwhile.

    python benchmarks/background.py [--json] [--dims 64,384] [--rounds 4] [--records 1500]
                                    [--spinning 0]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from timing import report

import sona_shm as sona
from sona_shm.shm.waiting import wait_until

RESERVOIR = 50_000
ROUTES = 8
CLUSTERS = 20
PATIENCE_SECONDS = 120.0


def ask_for_cycles(name: str, connection: Connection) -> None:
    """Asking process: from a True to the next message, one cycle after the other."""
    with sona.Engine.attach(name) as engine:
        connection.send(None)
        while connection.recv():
            done = []
            while not connection.poll():
                result = engine.force_learn(PATIENCE_SECONDS)
                if result.status == "done":
                    done.append(result.to_mapping())
                if result.status in ("done", "skipped"):
                    time.sleep(0.15)  # until enough was recorded for another one
                else:
                    raise RuntimeError(f"a cycle is {result.status}: {result.reason}")
            connection.recv()
            connection.send(done)


class Requests:
    """Embeddings in clusters, and what each route is worth there."""

    def __init__(self, dim: int) -> None:
        rng = np.random.default_rng(dim)
        centres = rng.standard_normal((CLUSTERS, dim))
        group = rng.integers(CLUSTERS, size=4096)
        x = centres[group] + 0.7 * rng.standard_normal((len(group), dim))
        self.embeddings = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
        worth = rng.random((CLUSTERS, ROUTES))
        self.quality = np.clip(worth[group] + 0.2 * rng.standard_normal((4096, ROUTES)), 0, 1)
        self._count = 0

    def record(self, engine: sona.Engine) -> bool:
        """The next outcome."""
        i, route = self._count % 4096, self._count % ROUTES
        self._count += 1
        return engine.observe(self.embeddings[i], route, float(self.quality[i, route]))


def prefill(engine: sona.Engine, requests: Requests) -> None:
    """As many outcomes as the reservoir holds."""
    for _ in range(RESERVOIR):
        if not requests.record(engine):
            engine.flush(PATIENCE_SECONDS)
    if not engine.flush(PATIENCE_SECONDS):
        raise RuntimeError("the learner does not keep up")


def latencies(engine: sona.Engine, requests: Requests, records: int, seed: int) -> list[float]:
    """Microseconds from the call that records to the record's publication as learned."""
    rng = random.Random(seed)
    lane, microseconds = engine.instant._lane_index, []
    for _ in range(records):
        time.sleep(rng.uniform(0.0005, 0.0015))
        started = time.perf_counter_ns()
        requests.record(engine)
        words = engine._memory.lane_words(lane, "head", "tail")
        while words["tail"] != words["head"]:
            os.sched_yield()  # or a learner that wakes on this core would wait for a time slice
            words = engine._memory.lane_words(lane, "head", "tail")
        microseconds.append((time.perf_counter_ns() - started) / 1e3)
    return microseconds


@contextmanager
def asking(name: str) -> Iterator[Connection]:
    """The asking process."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=ask_for_cycles, args=(name, theirs), daemon=True)
    process.start()
    try:
        _receive(ours)
        yield ours
        ours.send(False)
        process.join(PATIENCE_SECONDS)
    finally:
        process.kill()


def spin() -> None:
    """Spinning process: never sleeps, and ends with whoever started it."""
    parent = os.getppid()
    while os.getppid() == parent:
        pass


@contextmanager
def spinning(count: int) -> Iterator[None]:
    """So many processes that never sleep."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=spin, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()


def _receive(connection: Connection) -> Any:
    if not connection.poll(PATIENCE_SECONDS):
        raise TimeoutError("the asking process did not answer")
    return connection.recv()


def has_installed_more(engine: sona.Engine, cycles: int) -> bool:
    """Whether more cycles of Loop B than these were installed."""
    return engine.instant.metrics.cycles_installed > cycles


def measure(dim: int, rounds: int, records: int) -> list[dict[str, Any]]:
    """Two rows: without and with Loop B."""
    name = f"background-{os.getpid()}"
    config = sona.SonaConfig(
        hidden_dim=dim,
        routes=[sona.Route(f"r{k}", cost=0.1 * k) for k in range(ROUTES)],
        reservoir=RESERVOIR,
        max_workers=2,
    )
    requests = Requests(dim)
    without: list[float] = []
    beside: list[float] = []
    cycles: list[dict[str, Any]] = []
    with sona.Engine.create(name, config, learner="process") as engine:
        try:
            prefill(engine, requests)
            with asking(name) as connection:
                for turn in range(rounds):
                    without += latencies(engine, requests, records, turn)
                    connection.send(True)
                    begun = engine.instant.metrics.cycles_installed
                    wait_until(partial(has_installed_more, engine, begun), 1.0)
                    beside += latencies(engine, requests, records, turn)
                    connection.send(True)
                    cycles += _receive(connection)
        finally:
            sona.Engine.destroy(name)
    return _rows(dim, without, beside, cycles)


def _rows(
    dim: int, without: list[float], beside: list[float], cycles: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    rows = []
    for what, microseconds in (("without", without), ("with Loop B", beside)):
        p50, p99 = (float(np.percentile(microseconds, q)) for q in (50, 99))
        row: dict[str, Any] = {"dim": dim, "what": what, "p50 us": p50, "p99 us": p99}
        rows.append(row | {"max us": max(microseconds)})
    ratio = rows[1]["p99 us"] / rows[0]["p99 us"]
    rows[1] |= {
        "ratio": ratio,
        "budget": "p99 <= 2x",
        "met": "yes" if ratio <= 2.0 else "NO",
        "cycles": len(cycles),
        "cycle s": _median([sum(cycle["seconds"].values()) for cycle in cycles]),
        "install us": 1e6 * _median([cycle["seconds"]["installing"] for cycle in cycles]),
    }
    return rows


def _median(values: list[float]) -> float:
    return float(np.median(values)) if values else float("nan")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--dims", default="64,384", help="default: 64,384")
    parser.add_argument("--rounds", type=int, default=4, help="of each kind (default: 4)")
    parser.add_argument("--records", type=int, default=1500, help="in a round (default: 1500)")
    parser.add_argument("--spinning", type=int, default=0, help="busy processes (default: 0)")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with spinning(options.spinning):
        for dim in map(int, options.dims.split(",")):
            rows += measure(dim, options.rounds, options.records)
    columns = ["dim", "what", "p50 us", "p99 us", "max us", "ratio", "budget", "met"]
    columns += ["cycles", "cycle s", "install us"]
    title = f"publish latency beside Loop B on {RESERVOIR:,} outcomes"
    if options.spinning:
        title += f", {options.spinning} spinning processes"
    report(title, columns, rows, as_json=options.json)


if __name__ == "__main__":
    main()
