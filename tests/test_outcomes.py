"""Outcomes beyond a plain quality: latency, tokens, defaults, callers' own rewards, logs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import sona_shm as sona
from sona_shm.shm.waiting import wait_until
from tests.refusals import raises_exactly

DIM = 4
X = np.array([0.5, 0.5, 0.5, 0.5])


def create(name: str, learner: Any = "inline", reward: Any = None, **settings: Any) -> sona.Engine:
    routes = [sona.Route("fast", 0.5), sona.Route("slow", 0.5)]
    config = sona.SonaConfig(hidden_dim=DIM, routes=routes, cost_weight=0.2, **settings)
    return sona.Engine.create(name, config, learner, reward=reward)


def test_latency_and_tokens_are_averaged(name: str) -> None:
    with create(name) as engine:
        for latency, tokens in ((100.0, 10), (300.0, 30), (None, None)):
            decision = engine.route(X, allowed=["fast"])
            assert engine.feedback(decision.id, 0.5, latency_ms=latency, tokens=tokens)
        fast, slow = engine.stats().routes
    assert (fast.mean_latency_ms, fast.mean_tokens) == (200.0, 20.0)
    assert (slow.mean_latency_ms, slow.mean_tokens) == (None, None)


@pytest.mark.parametrize("latency", [-1.0, math.nan, math.inf, 1e13])
def test_a_latency_that_cannot_be_is_refused(name: str, latency: float) -> None:
    with create(name) as engine:
        decision = engine.route(X)
        with pytest.raises(sona.SonaError, match="latency_ms"):
            engine.feedback(decision.id, 0.5, latency_ms=latency)
        assert engine.stats().recorded == 0


@pytest.mark.parametrize("tokens", [-1, 2**32, 1.5])
def test_tokens_that_cannot_be_are_refused(name: str, tokens: Any) -> None:
    with create(name) as engine:
        decision = engine.route(X)
        with pytest.raises(sona.SonaError, match="tokens"):
            engine.feedback(decision.id, 0.5, tokens=tokens)
        assert engine.stats().recorded == 0


# ---- callers' own rewards ----


def impatient(outcome: sona.Outcome) -> float:
    """Quality, less half a point a second."""
    return outcome.quality - outcome.price - 0.0005 * (outcome.latency_ms or 0.0)


@pytest.mark.parametrize("learner", ["inline", "thread", "process"])
def test_a_reward_function_decides_what_is_learned(name: str, learner: Any) -> None:
    with create(name, learner, impatient, seed=3) as engine:
        for _ in range(300):
            decision = engine.route(X)
            latency = 100.0 if decision.route == "fast" else 1500.0
            assert engine.feedback(decision.id, 0.9, latency_ms=latency)
        assert engine.flush(10.0)
        fast, slow = engine.predict(X).reward
        rows = engine.stats().routes
    assert fast > slow + 0.3
    assert rows[0].mean_reward == pytest.approx(0.9 - 0.1 - 0.05, abs=1e-5)


def test_a_reward_function_knows_everything_of_the_outcome(name: str) -> None:
    seen: list[sona.Outcome] = []

    def note(outcome: sona.Outcome) -> float:
        seen.append(outcome)
        return outcome.quality

    with create(name, "inline", note) as engine:
        decision = engine.route(X)
        engine.feedback(decision.id, 0.5, latency_ms=12.5, tokens=7)
        engine.observe(X, "slow", 0.25)
    assert seen == [
        sona.Outcome(decision.route, 0.5, 0.1, 12.5, 7),
        sona.Outcome("slow", 0.25, 0.1, None, None),
    ]


@pytest.mark.parametrize("wrong", [math.nan, math.inf, "much"])
def test_a_reward_that_is_none_is_counted(name: str, wrong: Any) -> None:
    with create(name, "inline", lambda _: wrong) as engine:
        decision = engine.route(X)
        engine.feedback(decision.id, 0.5)
        counters = engine.instant.metrics
        assert (counters.reward_failed, counters.outcomes_learned) == (1, 0)


def test_a_reward_that_raises_is_counted_and_logged_once_a_second(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(outcome: sona.Outcome) -> float:
        raise RuntimeError(f"no reward for {outcome.route}")

    with create(name, "inline", fail) as engine:
        for _ in range(5):
            engine.feedback(engine.route(X).id, 0.5)
        counters = engine.instant.metrics
        assert (counters.reward_failed, counters.outcomes_learned) == (5, 0)
    assert 1 <= caplog.text.count("RuntimeError: no reward for") < 5


def test_a_reward_that_another_process_cannot_import_is_refused(name: str) -> None:
    with raises_exactly(sona.ConfigError, ValueError, "import"):
        create(name, "process", lambda outcome: outcome.quality)
    with pytest.raises(sona.EngineNotFound):
        sona.Engine.attach(name)


# ---- outcomes that do not come ----


def test_a_default_is_learned_when_its_time_has_come(name: str) -> None:
    settings: dict[str, Any] = {"default_quality": 0.25, "feedback_timeout_s": 0.0}
    with create(name, None, **settings) as engine:
        answered, unanswered = engine.route(X), engine.route(X)
        engine.feedback(answered.id, 0.75)
        with sona.Learner(name) as learner:
            # What waits in the lane is older than the look at the clock, and comes first.
            learner.step()
            learner.step()
        counters = engine.instant.metrics
        assert counters.defaults_learned >= 1
        assert counters.outcomes_learned == 2
        engine.feedback(unanswered.id, 0.75)
        with sona.Learner(name) as learner:
            learner.step()
        assert engine.instant.metrics.feedback_duplicate >= 1


def test_a_default_waits_for_its_time(name: str) -> None:
    settings: dict[str, Any] = {"default_quality": 0.25, "feedback_timeout_s": 3600.0}
    with create(name, **settings) as engine:
        decision = engine.route(X)
        assert engine.flush()
        assert engine.instant.metrics.defaults_learned == 0
        engine.feedback(decision.id, 0.75)
        assert engine.instant.metrics.outcomes_learned == 1


def test_a_flush_settles_what_is_due(name: str) -> None:
    settings: dict[str, Any] = {"default_quality": 0.25, "feedback_timeout_s": 0.0}
    with create(name, **settings) as engine:
        engine.route(X)
        assert engine.flush()
        assert engine.instant.metrics.defaults_learned == 1


def test_a_learner_process_settles_by_itself(name: str) -> None:
    settings: dict[str, Any] = {"default_quality": 0.0, "feedback_timeout_s": 0.05}
    with create(name, "process", **settings) as engine:
        for _ in range(10):
            engine.route(X)
        stats = engine.stats
        assert wait_until(lambda: stats().counters.defaults_learned == 10, 10.0)


# ---- outcomes of decisions made elsewhere ----


def test_outcomes_out_of_a_log_are_learned_like_feedback(
    name: str, rng: np.random.Generator
) -> None:
    inputs = rng.standard_normal((100, DIM)).astype(np.float32)
    rewards = []
    for own in (True, False):
        with create(name, seed=1) as engine:
            other = np.random.default_rng(5)
            for x in inputs:
                quality = float(other.random())
                if own:
                    decision = engine.route(x, allowed=["fast"])
                    engine.feedback(decision.id, quality)
                else:
                    engine.observe(x, "fast", quality)
            rewards.append(engine.predict(inputs[0]).reward)
        sona.Engine.destroy(name)
    np.testing.assert_array_equal(rewards[0], rewards[1])


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((np.ones(3), "fast", 0.5), sona.ShapeError),
        ((np.full(DIM, np.nan), "fast", 0.5), sona.NonFiniteError),
        ((X, "nobody", 0.5), sona.ConfigError),
        ((X, 7, 0.5), sona.ConfigError),
        ((X, "fast", 1.5), sona.OutOfRangeError),
        ((X, "fast", math.nan), sona.NonFiniteError),
    ],
    ids=str,
)
def test_outcomes_that_cannot_be_are_refused(name: str, arguments: Any, error: Any) -> None:
    with create(name) as engine:
        with pytest.raises(error):
            engine.observe(*arguments)
        assert engine.stats().recorded == 0


# ---- patterns ----


def test_patterns_know_what_was_seen_near_them(name: str, rng: np.random.Generator) -> None:
    centres = np.eye(DIM, dtype=np.float32)[:2]
    with create(name, pattern_clusters=2) as engine:
        for i in range(200):
            x = centres[i % 2] + 0.05 * rng.standard_normal(DIM).astype(np.float32)
            engine.observe(x, "fast", float(i % 2))
        first, second = engine.find_patterns(centres[1], k=5)
        assert engine.find_patterns(centres[0], k=1)[0].id == second.id
    assert first.similarity(centres[1]) > 0.95
    assert first.avg_quality > 0.95
    assert second.avg_quality < 0.05
    assert first.route_weight[0] > 1.0
    assert first.route_weight[1] == 0.0
    assert math.isnan(first.route_quality[1])
    assert first.access_count > 0
    assert min(first.last_accessed, first.created_at) > 1e9


def test_patterns_of_wrong_questions_are_refused(name: str) -> None:
    with create(name) as engine:
        assert engine.find_patterns(X) == []
        with pytest.raises(sona.ShapeError):
            engine.find_patterns(np.ones(3))
        with pytest.raises(sona.NonFiniteError):
            engine.find_patterns(np.full(DIM, np.inf))
        with pytest.raises(sona.OutOfRangeError):
            engine.find_patterns(X, k=0)
