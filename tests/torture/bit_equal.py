"""One lane, a fixed order of records, and a learner that is killed again and again."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np

import sona_shm as sona
from sona_shm.learning.snapshot import Snapshot
from sona_shm.shm.layout import LEARNER_COUNTERS, OFFSETS
from sona_shm.shm.waiting import wait_until
from tests.torture.load import HIDDEN, ROUTES
from tests.torture.processes import (
    PATIENCE,
    Child,
    Report,
    await_learner,
    busy_delay,
    learn,
)


def fixed_config(update_rule: str) -> sona.SonaConfig:
    """One lane, and choices that depend on nothing but their number."""
    return sona.SonaConfig(
        hidden_dim=HIDDEN,
        routes=ROUTES,
        # Choices must not depend on which version of the weights a decision happens to see.
        policy="epsilon_greedy",
        exploration=1.0,
        update_rule=update_rule,  # type: ignore[arg-type]  # a parameter
        micro_lora_lr=0.05,
        trajectory_capacity=1000,
        pending_decisions=1 << 16,
        flush_threshold=16,
        max_workers=1,
        seed=7,
    )


class Recorder:
    """The same records in the same order for every engine; waits where the lane is full.

    After each it calls `after`.
    """

    def __init__(
        self, engine: sona.Engine, seed: int, after: Callable[[], object] = lambda: None
    ) -> None:
        self._engine = engine
        self._after = after
        self._rng = np.random.default_rng(seed)

    def _put(self, record: Callable[[], bool]) -> None:
        if not wait_until(record, PATIENCE):
            raise TimeoutError("the lane stays full")
        self._after()

    def one(self) -> None:
        """A trajectory of 1 or 3 steps, or a routed request with one or two feedbacks."""
        rng, engine = self._rng, self._engine
        kind = int(rng.integers(4))
        x = rng.standard_normal(HIDDEN, np.float32)
        if kind < 2:
            t = sona.QueryTrajectory(1, x)
            for index in range(1 + 2 * kind):
                activations = rng.standard_normal(HIDDEN, np.float32)
                t.add_step(sona.TrajectoryStep(activations, [], rng.random(), index))
            t.finalize(rng.random())
            self._put(lambda: engine.record(t))
            return
        decision = engine.route(x)
        # The quality follows from the choice, so that choices that differ cannot go unseen.
        quality = float(rng.random()) / (1 + decision.index)
        for _ in range(kind - 1):
            self._put(lambda: engine.feedback(decision.id, quality))


def record_all(name: str, seed: int, records: int) -> None:
    """Body of the only worker."""
    with sona.Engine.attach(name) as engine:
        recorder = Recorder(engine, seed)
        for _ in range(records):
            recorder.one()


def _final_block(name: str, engine: sona.Engine) -> tuple[bytes, dict[str, int]]:
    """The published block but for what depends on when it was published, and its counters."""
    learner = Child(learn, name)
    try:
        await_learner(engine, {learner.pid})
        if not engine.flush(PATIENCE):
            raise TimeoutError("flush was not answered")
    finally:
        learner.kill()
    block = bytearray(engine._snapshot())
    counters = Snapshot(bytes(block), engine._memory.geometry).counters
    start = OFFSETS["snapshot_header.counters"]
    volatile = [OFFSETS["snapshot_header.version"]]
    if engine.config.update_rule == "exact":  # the reference rule flushes by its own count
        volatile.append(start + 8 * LEARNER_COUNTERS.index("flushes_performed"))
    uses, patterns = engine._memory.sizes["pattern_uses"], engine.config.pattern_clusters
    volatile += [uses + 16 * pattern + 8 for pattern in range(patterns)]  # times
    for offset in volatile:
        struct.pack_into("<Q", block, offset, 0)
    return bytes(block), counters


def _kill_until_done(
    name: str, engine: sona.Engine, worker: Child, moments: np.random.Generator
) -> int:
    """Learners that are killed at random moments, for as long as the worker records.

    Most live about a millisecond; some live long enough to get past a refit, which all must wait
    for.
    """
    kills = 0
    while not worker.has_ended():
        learner = Child(learn, name)
        await_learner(engine, {learner.pid})
        busy_delay(float(moments.exponential(0.1 if kills % 4 == 3 else 0.001)))
        learner.kill()
        kills += 1
    return kills


def _run(
    name: str, seed: int, update_rule: str, records: int, moments: np.random.Generator | None
) -> tuple[bytes, dict[str, int], int]:
    """Block, counters and kills; without `moments` the one learner lives."""
    engine = sona.Engine.create(name, fixed_config(update_rule))
    children = [Child(record_all, name, seed, records)]
    kills = 0
    try:
        if moments is None:
            children.append(Child(learn, name))
        else:
            kills = _kill_until_done(name, engine, children[0], moments)
        if children[0].join() != 0:
            raise RuntimeError("the worker failed")
        for child in children:
            child.kill()
        return (*_final_block(name, engine), kills)
    finally:
        for child in children:
            child.kill()
        engine.close()
        sona.Engine.destroy(name)


def compare_killed_with_unkilled(
    name: str, seed: int, kills: int, update_rule: str = "exact"
) -> Report:
    """Final weights, optimiser, baselines and counters after kills, bit for bit.

    A learner that was just killed leaves the lane to fill, so each successor meets a full lane of
    about 1000 records and is killed in the midst of it.
    """
    report = Report(f"bit-equal, {update_rule} rule")
    records = 1200 * kills
    moments = np.random.default_rng(seed)
    expected, counters, _ = _run(name, seed, update_rule, records, None)
    block, counters_killed, killed = _run(name, seed, update_rule, records, moments)
    report.figures = {"records": records, "kills": killed, "counters": counters_killed}
    report.check(killed >= kills // 2, f"only {killed} kills while records came")
    report.check(counters["feedback_duplicate"] > 0, f"no duplicates: {counters}")
    report.check(counters["signals_accumulated"] > records // 2, f"little learned: {counters}")
    if block != expected:
        differing = np.flatnonzero(np.frombuffer(block, "u1") != np.frombuffer(expected, "u1"))
        report.check(
            False,
            f"{len(differing)} bytes differ, the first at {differing[0]}: "
            f"{counters_killed} after kills, {counters} without",
        )
    return report
