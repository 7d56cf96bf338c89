"""Readers against a writer in a tight loop: every read must be of one version.

The writer writes its version number as a stamp into every weight that a reader sees, and is
killed and replaced now and then; whatever a reader gets must carry one stamp throughout.
"""

from __future__ import annotations

import numpy as np

import sona_shm as sona
from sona_shm.learning.snapshot import Snapshot
from sona_shm.loops.drain import DrainLoop
from sona_shm.shm.waiting import wait_until
from tests.torture.processes import (
    PATIENCE,
    Child,
    Report,
    Table,
    await_learner,
    busy_delay,
)

HIDDEN = 512
#: Stamps stay exact in float32; versions beyond it wrap.
STAMPS = 1 << 23
COLUMNS = ("reads", "mixed", "backward", "versions", "stop")


def _config() -> sona.SonaConfig:
    routes = [sona.Route("a"), sona.Route("b")]
    return sona.SonaConfig(hidden_dim=HIDDEN, routes=routes, trajectory_capacity=10, max_workers=1)


def publish_stamps(name: str) -> None:
    """Body of the writer: publish as fast as it can until it is killed."""
    engine = sona.Engine.attach(name)
    memory = engine._memory
    core = DrainLoop(memory, engine.config)._core
    working = Snapshot(memoryview(core), memory.geometry)
    # With x all ones, each element of apply(x) is 1 + 1/sqrt(2) * stamp, exactly the same one.
    working.micro_a[:] = 0.0
    working.micro_a[0, 0] = 1.0
    version = engine._version()
    while True:
        version += 1
        stamp = float(version % STAMPS)
        working.micro_b[:] = stamp
        for route in range(working.route_count):
            working.head(route)[:] = stamp
        if core.publish() != version:
            raise RuntimeError(f"published something else than {version}")


def _is_backward(stamp: float, last: float) -> bool:
    return stamp < last and last - stamp < STAMPS / 2


def read_stamps(name: str, table: Table, row: int, whole_blocks: bool) -> None:
    """Body of a reader: adapt, or copy the whole block, and look whether all is one stamp."""
    cells = table.writer(row)
    stop = table.writer(0)["stop"]
    engine = sona.Engine.attach(name)
    x, out = np.ones(HIDDEN, np.float32), np.empty(HIDDEN, np.float32)
    last, seen = 0.0, -1.0
    while not stop[0]:
        if whole_blocks:
            snapshot = Snapshot(engine._snapshot(), engine._memory.geometry)
            stamp = float(snapshot.version % STAMPS)
            weights = (snapshot.micro_b, snapshot.head(0), snapshot.head(1))
            whole = all(bool((part == stamp).all()) for part in weights)
        else:
            engine.apply(x, out=out)
            whole = bool((out == out[0]).all())
            stamp = (float(out[0]) - 1.0) * 2.0**0.5
        cells["mixed"][0] += not whole
        cells["backward"][0] += _is_backward(stamp, last)
        cells["versions"][0] += stamp != seen
        last = seen = stamp
        cells["reads"][0] += 1
    engine.close()


def read_against_tight_writer(
    name: str, seed: int, reads: int, writer_kills: int, readers: int = 2
) -> Report:
    """At least that many reads, of both kinds together."""
    rng = np.random.default_rng(seed)
    report = Report("mixed versions")
    engine = sona.Engine.create(name, _config())
    table = Table(1 + readers, COLUMNS)
    writer = Child(publish_stamps, name)
    await_learner(engine, {writer.pid})
    # The first version is all zeros and carries no stamp that apply could show.
    wait_until(lambda: engine._version() > 0, PATIENCE)
    children = [Child(read_stamps, name, table, 1 + i, i % 2 == 1) for i in range(readers)]
    try:
        for part in range(writer_kills + 1):
            goal = reads * (part + 1) // (writer_kills + 1)
            if not wait_until(lambda goal=goal: table.column("reads").sum() >= goal, 10 * PATIENCE):  # type: ignore[misc]  # bound at once
                raise TimeoutError(f"the readers do not get on: {table.rows}")
            if part < writer_kills:
                busy_delay(float(rng.exponential(0.0002)))
                writer.kill()
                writer = Child(publish_stamps, name)
                await_learner(engine, {writer.pid})
        table.writer(0)["stop"][0] = 1
        for child in children:
            report.check(child.join() == 0, "a reader failed; its output says why")
        report.check(not writer.has_ended(), "the writer failed; its output says why")
        for column in ("reads", "mixed", "backward", "versions"):
            report.figures[column] = int(table.column(column).sum())
        report.figures |= {"published": engine._version(), "writer_kills": writer_kills}
        report.check(report.figures["mixed"] == 0, f"mixed reads: {report.figures}")
        report.check(report.figures["backward"] == 0, f"versions went back: {report.figures}")
        report.check(report.figures["versions"] > reads // 1000, f"few versions: {report.figures}")
    finally:
        for child in (writer, *children):
            child.kill()
        engine.close()
        sona.Engine.destroy(name)
    return report
