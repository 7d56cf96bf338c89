"""Tasks that come and go: found, remembered, recognised, merged; heads held to what others need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import sona_shm as sona
from tests.conftest import remove_everything
from tests.reference_model import ReferenceModel
from tests.test_model import Follower

ROUTES = 3
Floats = NDArray[np.float32]


@contextmanager
def engine_for(name: str, dim: int, **settings: Any) -> Iterator[sona.Engine]:
    config = sona.SonaConfig(
        hidden_dim=dim,
        routes=[sona.Route(f"route {i}") for i in range(ROUTES)],
        micro_lora_lr=0.0,
        pattern_clusters=8,
        **{"reservoir": 64} | settings,
    )
    with sona.Engine.create(name, config, learner="inline") as engine:
        yield engine
    sona.Engine.destroy(name)


class World:
    """Tasks whose embeddings lie around centres of their own, each with its own best route.

    Centres this far out leave no stream in doubt; at 0.4, one in 10,000 is taken amiss.
    """

    def __init__(
        self, rng: np.random.Generator, dim: int, tasks: int, distance: float = 0.6
    ) -> None:
        self.rng, self.dim, self.distance = rng, dim, distance
        self.centres = np.linalg.qr(rng.standard_normal((dim, tasks)))[0].T
        self.quality = rng.permuted(np.tile([0.1, 0.5, 0.9], (tasks, 1)), axis=1)

    def ask(self, task: int) -> tuple[Floats, NDArray[np.float64]]:
        """One request and what each route would make of it."""
        noise = self.rng.standard_normal(self.dim) / np.sqrt(self.dim)
        x = self.distance * self.centres[task] + noise
        quality = self.quality[task] + self.rng.uniform(-0.1, 0.1, ROUTES)
        return (x / np.linalg.norm(x)).astype(np.float32), quality


def serve(engine: sona.Engine, world: World, task: int, requests: int) -> None:
    for _ in range(requests):
        x, quality = world.ask(task)
        k = int(world.rng.integers(ROUTES))
        assert engine.observe(x, k, quality[k])


@pytest.mark.parametrize(("dim", "strength"), [(16, 0.0), (24, 1.0), (64, 30.0)])
def test_predictions_are_those_of_the_formulas(
    name: str, rng: np.random.Generator, dim: int, strength: float
) -> None:
    world = World(rng, dim, 3)
    with engine_for(name, dim, ewc_lambda=strength) as engine:
        follower = Follower(engine, dim, 64)
        follower.model = ReferenceModel(dim, [0.0] * ROUTES, 1.0, tasks=8, ewc=strength)
        for task in (0, 1, 2, 0, 1):
            for _ in range(260):
                x, quality = world.ask(task)
                prediction = engine.predict(x)
                exact = x.astype(np.float64)
                for k in range(ROUTES):
                    e = follower.model.estimate(exact, k)
                    assert prediction.reward[k] == pytest.approx(e.value, abs=5e-3)
                k = int(rng.integers(ROUTES))
                engine.observe(x, k, quality[k])
                follower.learn(exact, k, float(quality[k]))
                stats, tasks = engine.stats(), follower.model.tasks
                assert (stats.task, stats.tasks) == (tasks.current, len(tasks.memories))
        assert stats.counters.tasks_begun >= 2
        assert stats.counters.tasks_returned >= 2


def test_a_task_that_returns_is_recognised_and_its_routes_go_on_as_they_were(
    name: str, rng: np.random.Generator
) -> None:
    world = World(rng, 48, 2)
    world.quality[1] = np.roll(world.quality[0], 1)  # conflicting best routes
    best = world.quality.argmax(axis=1)
    with engine_for(name, 48) as engine:
        serve(engine, world, 0, 500)
        before = engine.predict(world.distance * world.centres[0]).reward
        serve(engine, world, 1, 1500)
        assert (engine.stats().task, engine.stats().tasks) == (1, 2)
        away = engine.predict(world.distance * world.centres[0]).reward
        serve(engine, world, 0, 60)
        stats = engine.stats()
        after = engine.predict(world.distance * world.centres[0]).reward
    assert (stats.task, stats.tasks, stats.counters.tasks_returned) == (0, 2, 1)
    assert after.argmax() == best[0]
    assert np.abs(after - before).sum() < np.abs(away - before).sum()


def test_tasks_that_lie_nearer_are_recognised_too(name: str, rng: np.random.Generator) -> None:
    right = 0
    for _ in range(10):
        world = World(rng, 48, 2, distance=0.4)
        with engine_for(name, 48) as engine:
            for task, requests in ((0, 500), (1, 1500), (0, 60)):
                serve(engine, world, task, requests)
            stats = engine.stats()
        right += (stats.task, stats.tasks, stats.counters.tasks_returned) == (0, 2, 1)
    assert right >= 9


def test_what_is_not_remembered_is_not_recognised(name: str, rng: np.random.Generator) -> None:
    world = World(rng, 48, 2)
    with engine_for(name, 48, max_tasks=0) as engine:
        for task in (0, 1, 0):
            serve(engine, world, task, 200)
        stats = engine.stats()
    assert (stats.tasks, stats.counters.tasks_begun, stats.counters.task_alarms) == (0, 0, 0)


def test_more_tasks_than_places_are_merged_and_still_recognised(
    name: str, rng: np.random.Generator
) -> None:
    world = World(rng, 64, 5)
    with engine_for(name, 64, max_tasks=3) as engine:
        for task in (0, 1, 2, 3, 4, 3, 4):
            serve(engine, world, task, 200)
        stats = engine.stats()
    assert stats.tasks == 3
    assert stats.counters.tasks_merged >= 2
    assert stats.counters.tasks_returned >= 2


def test_requests_of_one_mixture_are_one_task(name: str, rng: np.random.Generator) -> None:
    world = World(rng, 64, 4, distance=0.4)  # near enough to be one cloud
    with engine_for(name, 64) as engine:
        for task in rng.integers(4, size=3000):
            serve(engine, world, int(task), 1)
        stats = engine.stats()
    assert stats.counters.tasks_begun == stats.counters.tasks_returned == 0


def test_a_route_that_came_later_keeps_what_it_has(name: str, rng: np.random.Generator) -> None:
    world = World(rng, 48, 2)
    with engine_for(name, 48) as engine:
        serve(engine, world, 0, 300)
        assert engine.add_route(sona.Route("new"))
        serve(engine, world, 1, 300)
        for _ in range(50):
            engine.observe(world.ask(1)[0], "new", 1.0)
        serve(engine, world, 0, 60)
        stats = engine.stats()
        assert stats.counters.tasks_returned == 1
        assert stats.routes[3].outcomes == 50
        assert np.isfinite(engine.predict(world.ask(0)[0]).reward).all()


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_streams_without_spread_are_learned(name: str, dim: int) -> None:
    with engine_for(name, dim) as engine:
        for i in range(400):
            x = np.zeros(dim, np.float32)
            x[(i // 100) % dim] = 1.0
            engine.observe(x, i % ROUTES, 1.0 if i % ROUTES else 0.0)
        assert engine.stats().counters.outcomes_learned == 400
        assert np.isfinite(engine.predict(x).reward).all()


def test_a_new_learner_goes_on_in_the_same_task(name: str, rng: np.random.Generator) -> None:
    """Bit for bit: what is known of tasks is part of the snapshot."""
    world = World(rng, 48, 2)
    requests = [
        (*world.ask(task), int(rng.integers(ROUTES))) for task in (0, 1, 0, 1) for _ in range(150)
    ]
    blocks = []
    for interrupted in (False, True):
        with engine_for(name, 48) as engine:
            for i, (x, quality, k) in enumerate(requests):
                if interrupted and i % 50 == 25:
                    engine.instant._drain.close()  # type: ignore[union-attr]  # inline: it has one
                    engine.instant._drain = None
                    engine.instant.become_learner()
                assert engine.observe(x, k, quality[k])
            fast, slow = engine._patterns()
            begun = engine.stats().counters.tasks_returned
            blocks.append(
                (engine.predict(world.centres[0]).reward.tobytes(), begun, len(fast), len(slow))
            )
    assert blocks[0] == blocks[1]
    assert blocks[0][1] > 0


@pytest.mark.parametrize("most", [2, 3, 8])
def test_tasks_survive_a_change_of_their_room_or_are_forgotten_whole(
    name: str, rng: np.random.Generator, tmp_path: Path, most: int
) -> None:
    world = World(rng, 64, 3)
    other = f"{name}-2"
    with engine_for(name, 64) as engine:
        for task in (0, 1, 2):
            serve(engine, world, task, 200)
        file = engine.save(tmp_path / "saved.safetensors")
    try:
        with sona.Engine.restore(other, file, "inline", changes={"max_tasks": most}) as engine:
            stats = engine.stats()
            assert (stats.task, stats.tasks) == ((0, 0) if most == 2 else (2, 3))
            serve(engine, world, 0, 100)
            returned = engine.stats().counters.tasks_returned - stats.counters.tasks_returned
            assert returned == (0 if most == 2 else 1)
    finally:
        remove_everything(other)
