"""What the tests of Loop B share: a small engine, and ways to ask and to wait."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

import sona_shm as sona
from sona_shm.learner import Learner
from sona_shm.loops.drain import DrainLoop
from sona_shm.shm.layout import OFFSETS
from sona_shm.shm.waiting import wait_until
from tests.children import PATIENCE

DIM = 24
ROUTES = (sona.Route("a"), sona.Route("b", 0.1), sona.Route("c", 0.3))
CONFIG = sona.SonaConfig(
    hidden_dim=DIM,
    routes=ROUTES,
    micro_lora_lr=1.0,
    pattern_clusters=12,
    reservoir=512,
    trajectory_capacity=4000,
    max_workers=4,
)
#: Trajectories after which a MicroLoRA that learns fast moves embeddings by more than LEAST_SHIFT.
ENOUGH_TO_FOLD = 1500
#: A cycle computes at a low priority, beside whatever is tested at the same time.
CYCLE_PATIENCE = 4 * PATIENCE
REQUESTED = OFFSETS["control_header.learn_requested"]
SERVED = OFFSETS["control_header.learn_served"]


def teach(engine: sona.Engine, rng: np.random.Generator, count: int = 600, where: int = 0) -> None:
    """Outcomes in six clusters somewhere, each with its own best route."""
    centres = np.random.default_rng(where).standard_normal((6, DIM))
    for i in range(count):
        group = int(rng.integers(6))
        x = centres[group] + 0.4 * rng.standard_normal(DIM)
        quality = 0.9 if (group + i) % 3 == 0 else 0.2
        assert engine.observe(x / np.linalg.norm(x), i % 3, quality)


def move(engine: sona.Engine, pair: NDArray[np.float32], count: int = 100) -> float:
    """Trajectories of an embedding, good where they go along a direction, bad where they go back.

    Random outcomes may cancel out: after `teach` alone a MicroLoRA may move embeddings by less
    than LEAST_SHIFT.  Returns how far the embedding is moved along the direction.
    """
    x, along = pair
    for i in range(count):
        good = float(i % 2)
        t = sona.QueryTrajectory(i, x)
        t.add_step(sona.TrajectoryStep((2.0 * good - 1.0) * along, [], good, 0))
        assert engine.record(t.finalize(good))
    return float((engine.apply(x) - x) @ along)


def embeddings(rng: np.random.Generator, rows: int = 50) -> NDArray[np.float32]:
    x = rng.standard_normal((rows, DIM))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x.astype(np.float32)


def drain_of(learner: Learner) -> DrainLoop:
    return learner._drain


def step_until(learner: Learner, condition: Callable[[], bool]) -> None:
    """Be the learner until something has happened."""

    def stepped() -> bool:
        learner.step()
        return condition()

    assert wait_until(stepped, CYCLE_PATIENCE)


def ask(engine: sona.Engine) -> Callable[[], bool]:
    """Ask without waiting; tells whether this request was answered."""
    ticket = engine._memory.control.add(REQUESTED, 1) + 1
    return lambda: engine._memory.control.load(SERVED) >= ticket
