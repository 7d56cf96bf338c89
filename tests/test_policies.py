"""How routes are chosen: probabilities, draws, propensities, seeds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import sona_shm as sona
from sona_shm.learning.snapshot import Snapshot

POLICIES = ["squarecb", "epsilon_greedy"]
DIM = 8


def routes(count: int) -> tuple[sona.Route, ...]:
    return tuple(sona.Route(f"route {i}", cost=i / count) for i in range(count))


def config_of(policy: Any, count: int, **settings: Any) -> sona.SonaConfig:
    return sona.SonaConfig(
        hidden_dim=DIM, routes=routes(count), policy=policy, cost_weight=0.1, **settings
    )


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("count", [1, 2, 3, 8, 100, 1024])
@pytest.mark.parametrize("spread", [0.0, 1e-30, 1e-3, 1.0, 1e6, 1e37])
def test_probabilities_are_positive_with_sum_one(
    rng: np.random.Generator, policy: str, count: int, spread: float
) -> None:
    config = config_of(policy, 1)
    for learned in (0, 1, 1000, 10**12):
        scores = (spread * rng.standard_normal(count)).astype(np.float32)
        probabilities = sona.route_probabilities(config, scores, learned)
        assert probabilities.shape == (count,)
        assert np.all(probabilities > 0.0)
        assert math.isclose(probabilities.sum(), 1.0, abs_tol=1e-9)
        assert probabilities[np.argmax(scores)] >= probabilities.max() - 1e-9


def epsilon_greedy(scores: NDArray[np.float32], epsilon: float) -> NDArray[np.float64]:
    wanted = np.full(len(scores), epsilon / len(scores))
    wanted[np.argmax(scores)] += 1.0 - epsilon
    return wanted


def squarecb(scores: NDArray[np.float32], gamma: float, learned: int) -> NDArray[np.float64]:
    gap = scores.astype(np.float64).max() - scores.astype(np.float64)
    wanted: NDArray[np.float64] = 1.0 / (len(scores) + gamma * math.sqrt(learned + 1) * gap)
    best = np.argmax(scores)
    wanted[best] = 0.0
    wanted[best] = 1.0 - wanted.sum()
    return wanted


@pytest.mark.parametrize("epsilon", [0.0, 0.02, 0.5, 1.0])
@pytest.mark.parametrize("count", [1, 2, 9])
def test_epsilon_greedy_is_its_formula(
    rng: np.random.Generator, count: int, epsilon: float
) -> None:
    config = config_of("epsilon_greedy", 1, epsilon=epsilon)
    for learned in (0, 10**6):
        scores = rng.standard_normal(count).astype(np.float32)
        given = sona.route_probabilities(config, scores, learned)
        np.testing.assert_allclose(given, epsilon_greedy(scores, epsilon), rtol=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 18.0, 1e6])
@pytest.mark.parametrize("count", [1, 2, 9])
def test_squarecb_is_its_formula(rng: np.random.Generator, count: int, gamma: float) -> None:
    config = config_of("squarecb", 1, squarecb_gamma=gamma)
    for learned in (0, 1, 37, 10**6):
        scores = rng.standard_normal(count).astype(np.float32)
        given = sona.route_probabilities(config, scores, learned)
        np.testing.assert_allclose(given, squarecb(scores, gamma, learned), rtol=1e-9)


@pytest.mark.parametrize("scores", [[], [[0.1, 0.2]], 0.5], ids=repr)
def test_scores_of_another_shape_are_refused(scores: Any) -> None:
    with pytest.raises(sona.ShapeError, match="scores"):
        sona.route_probabilities(sona.SonaConfig(), scores, 0)


def learn_outcomes(name: str, config: sona.SonaConfig, rng: np.random.Generator) -> None:
    """An engine whose routes have come to differ, and that nobody teaches any more."""
    with sona.Engine.create(name, config, learner="inline") as engine:
        for _ in range(40):
            x = rng.standard_normal(DIM) / math.sqrt(DIM)
            decision = engine.route(x)
            engine.feedback(decision.id, float(np.clip(0.5 + x[decision.index % DIM], 0.0, 1.0)))


def published_probabilities(engine: sona.Engine, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """By the numpy expression over the published weights."""
    snapshot = Snapshot(engine._snapshot(), engine.config.geometry())
    a, b, h = snapshot.micro_a, snapshot.micro_b, x.astype(np.float64)
    h = h / max(1.0, float(np.linalg.norm(h)))  # longer embeddings are scaled to unit length
    h = h + (h @ a.T) @ b / math.sqrt(len(a))
    scores = snapshot.heads @ h + snapshot.head_bias - snapshot.price
    learned = snapshot.counters["outcomes_learned"]
    return sona.route_probabilities(engine.config, scores, learned)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("count", [1, 2, 5, 64])
def test_the_propensity_is_that_of_the_published_weights(
    name: str, rng: np.random.Generator, policy: str, count: int
) -> None:
    learn_outcomes(name, config_of(policy, count), rng)
    with sona.Engine.attach(name) as engine:
        for _ in range(200):
            x = rng.standard_normal(DIM).astype(np.float32)
            decision = engine.route(x)
            assert decision.route == f"route {decision.index}"
            assert 0.0 < decision.propensity <= 1.0
            wanted = published_probabilities(engine, x)[decision.index]
            assert math.isclose(decision.propensity, wanted, rel_tol=1e-4)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_million_choices_follow_their_propensities(
    name: str, rng: np.random.Generator, policy: str
) -> None:
    settings = {"squarecb_gamma": 10.0, "epsilon": 0.3, "seed": int(rng.integers(2**63))}
    learn_outcomes(name, config_of(policy, 5, **settings), rng)
    draws = 10**6
    with sona.Engine.attach(name) as engine:
        x = rng.standard_normal(DIM).astype(np.float32)
        wanted = published_probabilities(engine, x)
        counts = np.zeros(5, np.int64)
        propensities: dict[int, set[float]] = {index: set() for index in range(5)}
        for _ in range(draws):
            _, _, index, propensity = engine.route(x)
            counts[index] += 1
            propensities[index].add(propensity)
    for index, seen in propensities.items():
        (propensity,) = seen
        assert math.isclose(propensity, wanted[index], rel_tol=1e-4)
        sigma = math.sqrt(draws * propensity * (1.0 - propensity))
        assert abs(counts[index] - draws * propensity) <= 5.0 * sigma, (counts, propensities)


def choices(engine: sona.Engine, number: int = 200) -> list[int]:
    return [engine.route(np.ones(DIM)).index for _ in range(number)]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_seed_makes_choices_reproducible(
    name: str, rng: np.random.Generator, policy: str
) -> None:
    seeds = [int(seed) for seed in rng.integers(2**63, size=2)]
    found = []
    for seed in (seeds[0], seeds[0], seeds[1]):
        config = config_of(policy, 4, seed=seed, epsilon=0.9, squarecb_gamma=0.0)
        with sona.Engine.create(name, config, replace=True) as engine:
            found.append(choices(engine))
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_without_a_seed_choices_differ(name: str) -> None:
    found = []
    for _ in range(2):
        with sona.Engine.create(name, config_of("squarecb", 4), replace=True) as engine:
            found.append(choices(engine))
    assert found[0] != found[1]


def test_two_lanes_of_one_seed_make_different_choices(name: str, rng: np.random.Generator) -> None:
    config = config_of("squarecb", 4, seed=int(rng.integers(2**63)))
    with sona.Engine.create(name, config) as first, sona.Engine.attach(name) as second:
        assert choices(first) != choices(second)


def test_decision_ids_are_distinct_and_fit_into_signed_64_bits(name: str) -> None:
    with (
        sona.Engine.create(name, config_of("squarecb", 4)) as first,
        sona.Engine.attach(name) as second,
    ):
        ids = {engine.route(np.ones(DIM)).id for engine in (first, second) for _ in range(500)}
    assert len(ids) == 1000
    assert 0 < min(ids) <= max(ids) < 2**63
