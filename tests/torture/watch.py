"""Watches that the learner's published progress never rests while there is work."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

import sona_shm as sona
from sona_shm.learning.snapshot import Snapshot
from sona_shm.shm.memory import EngineMemory
from sona_shm.shm.waiting import wait_until
from tests.torture.processes import Table

COLUMNS = ("longest_wait_ns", "looks", "stop")


def published_positions(memory: EngineMemory, block: bytes) -> NDArray[np.uint64]:
    """How far each lane is learned in this snapshot."""
    positions = Snapshot(block, memory.geometry).lane_positions()
    return np.array(positions, np.uint64)


def is_work_pending(engine: sona.Engine) -> bool:
    """Whether some lane holds what no published version has learned."""
    memory = engine._memory
    positions = published_positions(memory, engine._snapshot())
    return any(
        memory.lane_words(i, "head")["head"] > position for i, position in enumerate(positions)
    )


def watch_for_stalls(name: str, table: Table) -> None:
    """Body of the watching process.

    The clock is read after pending work was seen for the first time, and before a version that
    has not changed is read: what this process itself sleeps is never counted as the learner's.
    """
    cells = table.writer(0)
    engine = sona.Engine.attach(name)
    version, since = -1, 0
    while not cells["stop"][0]:
        now = time.monotonic_ns()
        current = engine._version()
        if current == version and since:
            cells["longest_wait_ns"][0] = max(int(cells["longest_wait_ns"][0]), now - since)
        elif current != version:
            version = current
            since = time.monotonic_ns() if is_work_pending(engine) else 0
        if not since and is_work_pending(engine):
            since = time.monotonic_ns()
        cells["looks"][0] += 1
        wait_until(lambda seen=version: engine._version() != seen, 0.002)  # type: ignore[misc]  # bound at once
    engine.close()
