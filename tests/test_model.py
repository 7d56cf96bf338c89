"""The compiled model against an independent one in double precision, refits included."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import sona_shm as sona
from sona_shm.learning.snapshot import Patterns
from tests.reference_model import ReferenceModel

COSTS = (0.0, 0.3, 1.0)
WEIGHT = 0.2


def create(name: str, dim: int, **settings: Any) -> sona.Engine:
    routes = [sona.Route(f"route {i}", cost) for i, cost in enumerate(COSTS)]
    config = sona.SonaConfig(
        hidden_dim=dim,
        routes=routes,
        cost_weight=WEIGHT,
        micro_lora_lr=0.0,
        pattern_clusters=8,
        **{"reservoir": 64} | settings,
    )
    return sona.Engine.create(name, config, learner="inline")


def stream(rng: np.random.Generator, dim: int, rows: int) -> Any:
    """Embeddings in a few clusters, and what each route would have been worth."""
    centres = rng.standard_normal((4, dim))
    group = rng.integers(4, size=rows)
    x = centres[group] + 0.5 * rng.standard_normal((rows, dim))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    quality = (rng.random((rows, 3)) < 0.2 + 0.6 * rng.random((4, 3))[group]).astype(float)
    return x.astype(np.float32), quality


def begins_at(number: int) -> int:
    return 32 << number


class Follower:
    """Keeps a reference model in step with an engine, through its refits."""

    def __init__(self, engine: sona.Engine, dim: int, reservoir: int) -> None:
        self.engine, self.reservoir = engine, reservoir
        prices = [WEIGHT * cost for cost in COSTS]
        self.model = ReferenceModel(dim, prices, engine.config.forgetting)
        self.rows: list[tuple[Any, int, float, float]] = []
        self.refits = 0

    def learn(self, x: Any, k: int, quality: float) -> None:
        self.rows.append((x, k, quality, self.model.common))
        self.model.learn(x, k, quality)
        begins = begins_at(self.refits)
        if len(self.rows) == begins + min(begins // 16, self.reservoir // 4):
            self._refit(begins)

    def _refit(self, begins: int) -> None:
        _, slow = self.engine._patterns()
        patterns = Patterns(slow, self.engine.config.geometry())
        self.model.install(
            patterns.projection.astype(float),
            patterns.offset.astype(float),
            patterns.centroids.astype(float),
        )
        earlier = self.rows[begins - 1][3]
        for i in range(max(0, begins - self.reservoir), len(self.rows)):
            x, k, quality, baseline = self.rows[i]
            self.model.relearn(x, k, quality, earlier if i < begins else baseline)
        self.refits += 1


@pytest.mark.parametrize("forgetting", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("dim", [5, 40, 384])
def test_predictions_are_those_of_the_formulas(
    name: str, rng: np.random.Generator, dim: int, forgetting: float
) -> None:
    inputs, quality = stream(rng, dim, 300)
    with create(name, dim, forgetting=forgetting) as engine:
        follower = Follower(engine, dim, 64)
        for x, answers in zip(inputs, quality, strict=True):
            prediction = engine.predict(x)
            exact = x.astype(np.float64)
            for k in range(3):
                e = follower.model.estimate(exact, k)
                assert prediction.reward[k] == pytest.approx(e.value - WEIGHT * COSTS[k], abs=2e-3)
                assert prediction.deviation[k] == pytest.approx(e.deviation, rel=1e-2)
            k = int(rng.integers(3))
            assert engine.observe(x, k, answers[k])
            follower.learn(exact, k, float(answers[k]))
        stats = engine.stats()
        assert stats.counters.refits_installed == follower.refits == 4
        np.testing.assert_allclose(
            list(stats.expert_weights.values()), follower.model.weight, atol=0.02
        )


def test_an_expert_that_is_not_mixed_does_not_count(name: str, rng: np.random.Generator) -> None:
    inputs, quality = stream(rng, 16, 100)
    with create(name, 16, experts=["bank"]) as engine:
        for x, answers in zip(inputs, quality, strict=True):
            k = int(rng.integers(3))
            engine.observe(x, k, answers[k])
        stats = engine.stats()
    assert stats.patterns > 0
    assert stats.expert_weights["linear"] == stats.expert_weights["ridge"] == 0.0
