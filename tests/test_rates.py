"""What changed per second between two looks, and what is said when the engine was replaced."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

import sona_shm as sona
from sona_shm.monitor.rates import Rates

X = np.ones(4, np.float32) / 2.0
CONFIG = sona.SonaConfig(
    hidden_dim=4, routes=(sona.Route("a", 0.0), sona.Route("b", 1.0)), cost_weight=0.2
)


def test_rates_are_differences_by_the_second(name: str, rng: np.random.Generator) -> None:
    with sona.Engine.create(name, CONFIG, learner="inline") as engine:
        for _ in range(50):
            engine.feedback(engine.route(X).id, rng.random())
        before, earned = engine.stats(), []
        for _ in range(20):
            decision = engine.route(X)
            quality = float(np.float32(rng.random()))
            engine.feedback(decision.id, quality)
            engine.feedback(decision.id, quality)
            earned.append(quality - 0.2 * CONFIG.routes[decision.index].cost)
        engine.route(X)
        engine.flush()
        after = engine.stats()
    rates = Rates.between(before, after, seconds=2.0)
    assert (rates.seconds, rates.decisions, rates.recorded) == (2.0, 10.5, 20.0)
    assert (rates.outcomes_learned, rates.dropped) == (10.0, 0.0)
    assert rates.publications == (after.version - before.version) / 2.0 > 0
    assert rates.mean_reward == pytest.approx(np.mean(earned), abs=1e-6)
    assert set(rates.losses) == set(after.losses)
    assert {name for name, rate in rates.losses.items() if rate} == {"feedback_duplicate"}
    assert rates.losses["feedback_duplicate"] == 10.0
    assert json.loads(json.dumps(rates.to_mapping(), allow_nan=False)) == rates.to_mapping()


def test_an_interval_without_outcomes_has_no_mean_reward(name: str) -> None:
    with sona.Engine.create(name, CONFIG, learner="inline") as engine:
        engine.feedback(engine.route(X).id, 0.5)
        rates = Rates.between(engine.stats(), engine.stats(), seconds=1.0)
    assert (rates.outcomes_learned, rates.mean_reward) == (0.0, None)


def test_drops_are_a_rate_and_a_loss(name: str) -> None:
    config = sona.SonaConfig(hidden_dim=4, trajectory_capacity=1, max_workers=1)
    with sona.Engine.create(name, config) as engine:
        before = engine.stats()
        taken = [engine.record(sona.QueryTrajectory(i, X).finalize(0.5)) for i in range(200)]
        rates = Rates.between(before, engine.stats(), seconds=1.0)
    assert rates.dropped == rates.losses["dropped"] == 200 - sum(taken) > 0


def test_after_a_replacement_every_rate_is_none(name: str) -> None:
    """Also of counters that happen to be higher in the new engine."""
    with sona.Engine.create(name, CONFIG, learner="inline") as engine:
        engine.feedback(engine.route(X).id, 0.5)
        before = engine.stats()
    with sona.Engine.create(name, CONFIG, replace=True) as engine:
        for _ in range(5):
            engine.route(X)
        rates = Rates.between(before, engine.stats(), seconds=1.0)
    told = dataclasses.asdict(rates)
    assert told.pop("seconds") == 1.0
    assert set(told.pop("losses").values()) == {None}
    assert set(told.values()) == {None}
