"""What each operation of the request path and of the learner costs, beside a peer in the same run.

The peer is the numpy expression that computes the same (``apply``, ``route``), or a copy of the
same bytes between plain arrays (``record``, ``feedback``, ``drain + accumulate``, ``publish``),
through ``numpy.copyto`` and a slice, since that is how Python would move them.  Times are medians
over rounds, in nanoseconds, and contain the call from Python.

    python benchmarks/hotpath.py [--json] [--dims 64,256,384,768,1536] [--quick]
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from timing import ROUNDS, nanoseconds, report

import sona_shm as sona
from sona_shm.loops.drain import DrainLoop
from sona_shm.loops.working import WorkingBlocks
from sona_shm.shm.life_cycle import attach_memory

DIMS = [64, 256, 384, 768, 1536]
ROUTES = 8
# Records in one round: few enough to fit into the lane, so that none is refused.
BATCH = 300
BUDGETS = {  # DESIGN budgets at dim 384: the column and the most it may be
    "apply": ("ratio", 0.1),
    "record": ("ns", 1000.0),
    "construct + record": ("ns", 2000.0),
    "drain + accumulate": ("ns", 1e9 / 1.5e6),
    f"route, K = {ROUTES}": ("ns", 3000.0),
    "feedback": ("ns", 1000.0),
    "drain outcomes": ("ns", 1e9 / 200_000),
}
# Outcomes taught before anything is timed: enough for the refit that makes 100 patterns.
TAUGHT = 1200


class Copies:
    """Copies of one record's bytes through a buffer as large as a lane, as a peer."""

    def __init__(self, record_bytes: int, buffer_bytes: int) -> None:
        self._source = np.ones(record_bytes, np.uint8)
        self._target = np.zeros(max(buffer_bytes, record_bytes), np.uint8)
        self._at = 0

    def put(self) -> None:
        """Copy to the next place."""
        end = self._at + len(self._source)
        if end > len(self._target):
            self._at, end = 0, len(self._source)
        np.copyto(self._target[self._at : end], self._source)
        self._at = end


def measure(dim: int, count: int) -> Iterator[dict[str, Any]]:
    """All operations at one dimension."""
    config = sona.SonaConfig(
        hidden_dim=dim,
        routes=[sona.Route(f"r{k}", cost=0.1 * k) for k in range(ROUTES)],
        flush_interval_ms=None,
        seed=1,
    )
    name = f"hotpath-{os.getpid()}"
    with sona.Engine.create(name, config) as engine:
        memory = attach_memory(name)
        drain = DrainLoop(memory, config)
        try:
            teach(engine, drain, dim)
            yield from _request_path(engine, drain, dim, count)
            yield from _learner(engine, drain, dim)
            yield _both_tiers(engine, drain, dim, count)
        finally:
            drain.close()
            memory.close()
            sona.Engine.destroy(name)


def teach(engine: sona.Engine, drain: DrainLoop, dim: int) -> None:
    """Outcomes of every route, so that all experts have something to say."""
    rng = np.random.default_rng(2)
    for i in range(TAUGHT):
        x = rng.standard_normal(dim).astype(np.float32)
        engine.observe(x / np.linalg.norm(x), i % ROUTES, float(rng.random()))
        if i % BATCH == 0:
            drain.flush()
    drain.flush()
    patterns = engine.stats().patterns
    if patterns != engine.config.pattern_clusters:
        raise RuntimeError(f"{patterns} patterns, expected {engine.config.pattern_clusters}")


def _row(operation: str, dim: int, ours: float, peer: float, peer_name: str) -> dict[str, Any]:
    row: dict[str, Any] = {
        "operation": operation,
        "dim": dim,
        "ns": ours,
        "peer": peer_name,
        "peer ns": peer,
    }
    row["ratio"] = ours / peer
    if dim == 384 and operation in BUDGETS:
        column, most = BUDGETS[operation]
        row["budget"] = f"{column} <= {most:.4g}"
        row["met"] = "yes" if row[column] <= most else "NO"
    return row


def _request_path(
    engine: sona.Engine, drain: DrainLoop, dim: int, count: int
) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(0)
    x, activations = (rng.standard_normal(dim).astype(np.float32) for _ in range(2))
    x /= np.linalg.norm(x)
    out = np.empty_like(x)
    a, b = (rng.standard_normal((2, dim)).astype(np.float32) for _ in range(2))
    heads = rng.standard_normal((ROUTES, dim)).astype(np.float32)
    scale = np.float32(2**-0.5)

    names = locals()
    ours = nanoseconds("engine.apply(x, out=out)", names, count)
    peer = nanoseconds("x + scale * ((x @ a.T) @ b)", names, count // 10)
    yield _row("apply", dim, ours, peer, "numpy expression")

    ours = nanoseconds("engine.route(x)", names, count // 10)
    choose = "int((heads @ (x + scale * ((x @ a.T) @ b))).argmax())"
    peer = nanoseconds(choose, names, count // 10)
    yield _row(f"route, K = {ROUTES}", dim, ours, peer, "numpy, no exploration")

    def trajectory() -> sona.QueryTrajectory:
        t = sona.QueryTrajectory(1, x)
        t.add_step(sona.TrajectoryStep(activations, [], 0.8, 0))
        return t.finalize(0.8, 1000)

    names |= {"ready": trajectory(), "trajectory": trajectory}
    record_bytes = 64 + 16 + 2 * 4 * dim
    copies = Copies(record_bytes, engine.config.geometry().lane_bytes)
    peer = nanoseconds("put()", {"put": copies.put}, BATCH)
    ours = nanoseconds("engine.record(ready)", names, BATCH, between=drain.flush)
    yield _row("record", dim, ours, peer, f"copy of {record_bytes} bytes")
    ours = nanoseconds("engine.record(trajectory())", names, BATCH, between=drain.flush)
    yield _row("construct + record", dim, ours, peer, f"copy of {record_bytes} bytes")

    names["decisions"] = iter([engine.route(x).id for _ in range(ROUNDS * BATCH)])
    peer = nanoseconds("put()", {"put": Copies(64, 1 << 16).put}, BATCH)
    ours = nanoseconds("engine.feedback(next(decisions), 0.5)", names, BATCH, between=drain.flush)
    yield _row("feedback", dim, ours, peer, "copy of 64 bytes")


def _learner(engine: sona.Engine, drain: DrainLoop, dim: int) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(1)
    trajectories = []
    for i in range(64):
        x, activations = (rng.standard_normal(dim).astype(np.float32) for _ in range(2))
        t = sona.QueryTrajectory(i, x / np.linalg.norm(x))
        t.add_step(sona.TrajectoryStep(activations, [], 0.8, 0))
        trajectories.append(t.finalize(0.1 * (i % 10)))

    def fill() -> None:
        for i in range(BATCH):
            engine.record(trajectories[i % len(trajectories)])

    def refill() -> None:
        drain.flush()  # gives the ring space back
        fill()

    record_bytes = 64 + 16 + 2 * 4 * dim
    refill()
    copies = Copies(record_bytes, engine.config.geometry().lane_bytes)
    ours = nanoseconds("drain.drain_once()", {"drain": drain}, 1, between=refill) / BATCH
    peer = nanoseconds("put()", {"put": copies.put}, BATCH)
    yield _row("drain + accumulate", dim, ours, peer, f"copy of {record_bytes} bytes")

    inputs = rng.standard_normal((64, dim)).astype(np.float32)
    inputs /= np.linalg.norm(inputs, axis=1, keepdims=True)

    def refill_outcomes() -> None:
        drain.flush()
        for i in range(BATCH):
            engine.feedback(engine.route(inputs[i % 64]).id, 0.01 * (i % 100))

    refill_outcomes()
    copies = Copies(4 * dim, 4 * dim * BATCH)
    ours = nanoseconds("drain.drain_once()", {"drain": drain}, 1, between=refill_outcomes) / BATCH
    peer = nanoseconds("put()", {"put": copies.put}, BATCH)
    yield _row("drain outcomes", dim, ours, peer, f"copy of {4 * dim} bytes")

    drain.flush()
    block_bytes = engine.config.geometry().sizes()["snapshot_bytes"]
    copies = Copies(block_bytes, 4 * block_bytes)
    ours = nanoseconds("drain.flush()", {"drain": drain}, 1000)
    peer = nanoseconds("put()", {"put": copies.put}, 1000)
    yield _row("publish", dim, ours, peer, f"copy of {block_bytes} bytes")


def _both_tiers(engine: sona.Engine, drain: DrainLoop, dim: int, count: int) -> dict[str, Any]:
    """After consolidations: a BaseLoRA of full rank below the MicroLoRA."""
    rng = np.random.default_rng(3)
    rank = engine.config.base_lora_rank
    c, d = (0.01 * rng.standard_normal((rank, dim)).astype(np.float32) for _ in range(2))
    WorkingBlocks(drain._core, engine.config.geometry()).set_base(c, d)
    drain.flush()
    a, b = (rng.standard_normal((2, dim)).astype(np.float32) for _ in range(2))
    x = rng.standard_normal(dim).astype(np.float32)
    x /= np.linalg.norm(x)
    out = np.empty_like(x)
    s, t = np.float32(2**-0.5), np.float32(rank**-0.5)
    ours = nanoseconds("engine.apply(x, out=out)", locals(), count)
    numpy = "x + s * ((x @ a.T) @ b) + t * ((x @ c.T) @ d)"
    peer = nanoseconds(numpy, locals(), count // 10)
    return _row("apply, both tiers", dim, ours, peer, "numpy expression")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="dim 384 only, fewer calls")
    parser.add_argument("--dims", help="for example 64,384")
    options = parser.parse_args()
    dims = [int(d) for d in options.dims.split(",")] if options.dims else DIMS
    if options.quick:
        dims = [384]
    rows = [row for dim in dims for row in measure(dim, 2_000 if options.quick else 20_000)]
    columns = ["operation", "dim", "ns", "peer", "peer ns", "ratio", "budget", "met"]
    report("hot path", columns, rows, as_json=options.json)
    memory = sona.SonaConfig().nbytes()
    if not options.json:
        print(f"memory of an idle default engine: {memory / 2**20:.1f} MiB (budget 64 MiB)")


if __name__ == "__main__":
    main()
