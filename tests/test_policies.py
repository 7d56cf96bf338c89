"""How routes are chosen: probabilities, draws, propensities, seeds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import sona_shm as sona
from sona_shm import _core

POLICIES = _core.POLICIES
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
    config = config_of("epsilon_greedy", 1, exploration=epsilon)
    for learned in (0, 10**6):
        scores = rng.standard_normal(count).astype(np.float32)
        given = sona.route_probabilities(config, scores, learned)
        np.testing.assert_allclose(given, epsilon_greedy(scores, epsilon), rtol=1e-12)


@pytest.mark.parametrize("gamma", [1e-6, 1.0, 18.0, 1e6])
@pytest.mark.parametrize("count", [1, 2, 9])
def test_squarecb_is_its_formula(rng: np.random.Generator, count: int, gamma: float) -> None:
    config = config_of("squarecb", 1, exploration=gamma)
    for learned in (0, 1, 37, 10**6):
        scores = rng.standard_normal(count).astype(np.float32)
        given = sona.route_probabilities(config, scores, learned)
        np.testing.assert_allclose(given, squarecb(scores, gamma, learned), rtol=1e-9)


def with_floor(weights: NDArray[np.float64], learned: int) -> NDArray[np.float64]:
    share = max(0.005, min(0.1, 0.5 / math.sqrt(learned + 1)))
    mixed: NDArray[np.float64] = (1.0 - share) * weights / weights.sum() + share / len(weights)
    return mixed


def drawn(rng: np.random.Generator, count: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scores and deviations as they come, of which some are near and some far apart."""
    spread = 10.0 ** rng.uniform(-3, 0)
    scores = (spread * rng.standard_normal(count)).astype(np.float32)
    return scores, (10.0 ** rng.uniform(-3, 0, count)).astype(np.float32)


@pytest.mark.parametrize("temperature", [0.01, 0.2, 5.0])
@pytest.mark.parametrize("count", [1, 2, 9])
def test_softmax_is_its_formula(rng: np.random.Generator, count: int, temperature: float) -> None:
    config = config_of("softmax", 1, exploration=temperature)
    for learned in (0, 37, 10**6):
        scores, _ = drawn(rng, count)
        odds = np.exp((scores.astype(np.float64) - scores.max()) / temperature)
        given = sona.route_probabilities(config, scores, learned)
        np.testing.assert_allclose(given, with_floor(odds, learned), rtol=1e-9)


@pytest.mark.parametrize("scale", [0.1, 0.35, 2.0])
@pytest.mark.parametrize("count", [1, 2, 9])
def test_maillard_is_its_formula(rng: np.random.Generator, count: int, scale: float) -> None:
    config = config_of("maillard", 1, exploration=scale)
    for learned in (0, 37, 10**6):
        scores, deviations = drawn(rng, count)
        gap = scores.astype(np.float64).max() - scores.astype(np.float64)
        variance = deviations.astype(np.float64) ** 2
        weights = np.exp(-(gap**2) / (2 * scale**2 * (variance + variance[np.argmax(scores)])))
        given = sona.route_probabilities(config, scores, learned, deviations)
        np.testing.assert_allclose(given, with_floor(weights, learned), rtol=1e-9)


@pytest.mark.parametrize("scale", [0.3, 1.0])
@pytest.mark.parametrize("count", [1, 2, 3, 8, 14, 64])
def test_thompson_is_how_often_its_draws_are_the_largest(
    rng: np.random.Generator, count: int, scale: float
) -> None:
    draws, parts, learned = 1_500_000, 15, 10**6
    config = config_of("thompson", 1, exploration=scale)
    scores, deviations = drawn(rng, count)
    given = sona.route_probabilities(config, scores, learned, deviations)
    largest = np.zeros(count)
    for _ in range(parts):
        sample = rng.standard_normal((draws // parts, count))
        sample = scores + scale * deviations * sample
        largest += np.bincount(sample.argmax(axis=1), minlength=count)
    share = with_floor(largest, learned)
    sigma = np.sqrt(given * (1.0 - given) / draws)
    # Six: one of the 184 probabilities here is five away in one run of 10,000.
    assert np.all(np.abs(given - share) <= 6.0 * sigma + 2e-5), (given, share)


@pytest.mark.parametrize("deviation", [1e-6, 0.0])
def test_thompson_of_what_is_sure_is_the_best(deviation: float) -> None:
    config = config_of("thompson", 1)
    given = sona.route_probabilities(config, [0.1, 0.9, 0.3], 10**6, [deviation] * 3)
    assert given[1] == pytest.approx(1.0 - 0.005 * 2 / 3)


@pytest.mark.parametrize("policy", ["maillard", "thompson"])
def test_what_is_less_known_is_tried_more(policy: str) -> None:
    config = config_of(policy, 1)
    given = sona.route_probabilities(config, [0.5, 0.4, 0.4], 10**4, [0.05, 0.05, 0.5])
    assert given[2] > 2.0 * given[1]


@pytest.mark.parametrize("scores", [[], [[0.1, 0.2]], 0.5], ids=repr)
def test_scores_of_another_shape_are_refused(scores: Any) -> None:
    with pytest.raises(sona.ShapeError, match="scores"):
        sona.route_probabilities(sona.SonaConfig(), scores, 0)


def test_more_scores_than_routes_can_be_are_refused() -> None:
    with pytest.raises(sona.ShapeError, match="1025 scores"):
        sona.route_probabilities(sona.SonaConfig(), [0.5] * 1025, 0)


@pytest.mark.parametrize("deviations", [[0.1], [0.1, -0.1], [0.1, math.nan]], ids=repr)
def test_deviations_that_cannot_be_are_refused(deviations: Any) -> None:
    with pytest.raises(sona.SonaError, match="deviations"):
        sona.route_probabilities(sona.SonaConfig(), [0.1, 0.2], 0, deviations)


def learn_outcomes(name: str, config: sona.SonaConfig, rng: np.random.Generator) -> None:
    """An engine whose routes have come to differ, and that nobody teaches any more."""
    with sona.Engine.create(name, config, learner="inline") as engine:
        for _ in range(40):
            x = rng.standard_normal(DIM) / math.sqrt(DIM)
            decision = engine.route(x)
            engine.feedback(decision.id, float(np.clip(0.5 + x[decision.index % DIM], 0.0, 1.0)))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("count", [1, 2, 5, 64])
def test_the_propensity_is_that_of_the_prediction(
    name: str, rng: np.random.Generator, policy: str, count: int
) -> None:
    learn_outcomes(name, config_of(policy, count), rng)
    with sona.Engine.attach(name) as engine:
        for _ in range(200):
            x = rng.standard_normal(DIM).astype(np.float32)
            decision, prediction = engine.route(x), engine.predict(x)
            assert decision.route == f"route {decision.index}"
            assert 0.0 < decision.propensity <= 1.0
            assert decision.propensity == prediction.probability[decision.index]
            if np.sum(prediction.reward == prediction.reward.max()) > 1:
                continue  # the core has more digits than these, and knows which is the best
            wanted = sona.route_probabilities(
                engine.config, prediction.reward, 40, prediction.deviation
            )
            np.testing.assert_allclose(prediction.probability, wanted, rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("policy", POLICIES)
def test_choices_follow_their_propensities(
    name: str, rng: np.random.Generator, policy: str
) -> None:
    strength = {"squarecb": 5.0, "epsilon_greedy": 0.3, "softmax": 0.2}.get(policy, 2.0)
    settings = {"exploration": strength, "seed": int(rng.integers(2**63))}
    learn_outcomes(name, config_of(policy, 5, **settings), rng)
    draws = 1_500_000 if policy == "maillard" else 150_000
    with sona.Engine.attach(name) as engine:
        x = rng.standard_normal(DIM).astype(np.float32)
        wanted = engine.predict(x).probability
        counts = np.zeros(5, np.int64)
        for _ in range(draws):
            _, _, index, propensity = engine.route(x)
            counts[index] += 1
            assert propensity == wanted[index]
    sigma = np.sqrt(draws * wanted * (1.0 - wanted))
    assert np.all(np.abs(counts - draws * wanted) <= 6.0 * sigma), (counts, wanted)


def choices(engine: sona.Engine, number: int = 2000) -> list[int]:
    """So many that two seeds differ also where 98 of 100 choices are the best route."""
    return [engine.route(np.ones(DIM)).index for _ in range(number)]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_seed_makes_choices_reproducible(
    name: str, rng: np.random.Generator, policy: str
) -> None:
    seeds = [int(seed) for seed in rng.integers(2**63, size=2)]
    found = []
    for seed in (seeds[0], seeds[0], seeds[1]):
        config = config_of(policy, 4, seed=seed)
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
