"""sona_shm: a lock-free lane in shared memory for each producer, read by the learner itself."""

# The benchmarks must also type-check where the package is not installed.
# mypy: disable-error-code="import-not-found"

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import getpid
from typing import TYPE_CHECKING

import numpy as np

from .base import HIDDEN_DIM, IDLE_WAIT_SECONDS, Channel, Transport

if TYPE_CHECKING:
    from sona_shm import Engine, QueryTrajectory

LANES = 8
"""How many workers the engine has room for, unless more producers are asked for."""

CAPACITY_RECORDS = 10_000
"""The default `trajectory_capacity`, shared out over all lanes."""


class SonaLanes(Transport):
    """Our own transport, measured at what it is for.

    The consumer is the real learner: for each record it also computes the learning signal,
    accumulates it and publishes weights, which is more than any peer's consumer does. A full
    lane refuses the newest record instead of blocking.
    """

    name = "sona_shm"
    package = "sona_shm"
    is_ours = True

    @contextmanager
    def open(self, producers: int) -> Iterator[Channel]:
        """Create an engine without a learner, and destroy it at the end."""
        import sona_shm as sona

        name = f"transport_{getpid()}"
        config = sona.SonaConfig(
            hidden_dim=HIDDEN_DIM,
            max_workers=max(producers, LANES),
            trajectory_capacity=CAPACITY_RECORDS,
        )
        engine = sona.Engine.create(name, config)
        try:
            yield SonaChannel(name)
        finally:
            engine.close()
            sona.Engine.destroy(name)


@dataclass(frozen=True)
class SonaChannel:
    """The engine's name: any process may attach by it."""

    name: str

    def producer(self, index: int) -> "SonaProducer":
        """Become a worker, which claims a lane of its own at its first record."""
        import sona_shm as sona

        return SonaProducer(sona.Engine.attach(self.name))

    def consumer(self) -> "SonaConsumer":
        """Become the learner, which attaches by itself."""
        return SonaConsumer(self.name)


class SonaProducer:
    """Records finished trajectories of one step each."""

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine

    def prepare(self, record: np.void) -> "QueryTrajectory":
        """Build the trajectory that the record stands for."""
        import sona_shm as sona

        trajectory = sona.QueryTrajectory(int(record["sequence"]), record["embedding"])
        trajectory.add_step(sona.TrajectoryStep(record["activations"], [], 0.8, 0))
        trajectory.finalize(0.8, 1_000)
        return trajectory

    def put(self, payload: "QueryTrajectory") -> bool:
        """Record the trajectory; False when the lane is full."""
        accepted: bool = self._engine.record(payload)
        return accepted

    def close(self) -> None:
        """Detach; what was recorded stays in the lane for the learner."""
        self._engine.close()


class SonaConsumer:
    """Learns: drains every lane, accumulates, publishes."""

    def __init__(self, name: str) -> None:
        from sona_shm.learner import Learner

        self._learner = Learner(name)

    def receive(self) -> int:
        """Learn what is there; only when nothing is, sleep until a producer wakes the learner."""
        learned: int = self._learner.step()
        if learned == 0:
            self._learner.wait(IDLE_WAIT_SECONDS)
            learned = self._learner.step()
        return learned

    def close(self) -> None:
        """Give back the learner's lease."""
        self._learner.close()
