"""Off-policy estimates: on known worlds, and through journal and replay."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sona_shm as sona
from sona_shm.learning.off_policy import (
    doubly_robust,
    effective_sample_size,
    importance_weights,
    inverse_propensity,
    self_normalised,
)

ROUTES = 4


def logged_world(rng: np.random.Generator, rows: int) -> dict[str, Any]:
    """Contexts with known rewards, a logging policy and a target, and a poor reward model."""
    truth = 0.2 + 0.6 * rng.random((rows, ROUTES))
    logging = rng.dirichlet(np.ones(ROUTES), rows) * 0.8 + 0.2 / ROUTES
    target = rng.dirichlet(np.ones(ROUTES), rows)
    action = (rng.random(rows)[:, None] > logging.cumsum(axis=1)).sum(axis=1).clip(0, ROUTES - 1)
    every = np.arange(rows)
    model = truth + 0.2 * rng.standard_normal(truth.shape)
    return {
        "reward": (rng.random(rows) < truth[every, action]).astype(float),
        "weights": importance_weights(logging[every, action], target[every, action]),
        "predicted": model[every, action],
        "expected": (target * model).sum(axis=1),
        "truth": float((target * truth).sum(axis=1).mean()),
    }


def test_intervals_hold_the_truth_as_often_as_they_say(rng: np.random.Generator) -> None:
    repetitions, held = 1000, dict.fromkeys(("ips", "snips", "dr"), 0)
    width = dict.fromkeys(held, 0.0)
    for _ in range(repetitions):
        w = logged_world(rng, 1000)
        estimates = {
            "ips": inverse_propensity(w["weights"], w["reward"]),
            "snips": self_normalised(w["weights"], w["reward"]),
            "dr": doubly_robust(w["weights"], w["reward"], w["predicted"], w["expected"]),
        }
        for name, estimate in estimates.items():
            low, high = estimate.interval
            held[name] += low <= w["truth"] <= high
            width[name] += high - low
    # 95 % of 1000 is 950; below 900 is seven standard deviations away.
    assert all(count >= 900 for count in held.values()), held
    assert width["dr"] < width["ips"]


@pytest.mark.parametrize(
    ("columns", "error"),
    [
        (([0.0, 0.5], [0.5, 0.5]), sona.OutOfRangeError),
        (([1.5, 0.5], [0.5, 0.5]), sona.OutOfRangeError),
        (([0.5, 0.5], [-0.1, 0.5]), sona.OutOfRangeError),
        (([0.5, math.nan], [0.5, 0.5]), sona.NonFiniteError),
        (([0.5, 0.5], [0.5, 0.5, 0.5]), sona.ShapeError),
        (([0.5], [0.5]), sona.ShapeError),
    ],
    ids=str,
)
def test_columns_that_cannot_be_evaluated_are_refused(columns: Any, error: Any) -> None:
    with pytest.raises(error):
        importance_weights(*columns)


def test_a_target_that_never_does_what_was_logged_has_no_self_normalised_estimate() -> None:
    with pytest.raises(sona.OutOfRangeError, match="0"):
        self_normalised([0.0, 0.0], [1.0, 0.0])
    assert effective_sample_size([0.0, 0.0]) == 0.0


# ---- journal and replay ----

DIM = 8


def quality_of(teacher: Any, x: Any) -> Any:
    return np.clip(0.5 + 0.5 * teacher @ x, 0.05, 0.95)


def routes() -> tuple[sona.Route, ...]:
    return tuple(sona.Route(f"route {i}", i / ROUTES) for i in range(ROUTES))


def log_with(
    name: str, directory: Path, teacher: Any, inputs: Any, rng: np.random.Generator
) -> None:
    """A journal by policy A: squarecb that learns as it goes."""
    config = sona.SonaConfig(
        hidden_dim=DIM,
        routes=routes(),
        cost_weight=0.1,
        policy="squarecb",
        exploration=2.0,
        reservoir=64,
        pattern_clusters=8,
        max_workers=1,
        trajectory_capacity=50,
        seed=int(rng.integers(2**63)),
    )
    with sona.Engine.create(name, config, learner="inline", journal=directory) as engine:
        for x in inputs:
            decision = engine.route(x)
            answer = rng.random() < quality_of(teacher, x)[decision.index]
            engine.feedback(decision.id, float(answer))
    sona.Engine.destroy(name)


def truth_of(journal: sona.Journal, config: sona.SonaConfig, name: str, teacher: Any) -> float:
    """What B is worth on these requests, with B going through the journal and learning from it."""
    total = 0.0
    prices = np.array([config.price(route) for route in config.routes])
    with sona.Engine.create(name, config, learner="inline") as engine:
        for i, x in enumerate(journal.embedding):
            probability = engine.predict(x).probability
            total += float(probability @ (quality_of(teacher, x) - prices))
            engine.observe(x, int(journal.route[i]), float(journal.quality[i]))
    sona.Engine.destroy(name)
    return total / len(journal)


def test_the_doubly_robust_estimate_of_a_replay_holds_the_truth(
    name: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    repetitions, requests, held = 250, 150, 0
    error = variance = 0.0
    for repetition in range(repetitions):
        teacher = rng.standard_normal((ROUTES, DIM)) / math.sqrt(2)
        inputs = rng.standard_normal((requests, DIM)).astype(np.float32)
        inputs /= np.linalg.norm(inputs, axis=1, keepdims=True)
        directory = tmp_path / str(repetition)
        log_with(name, directory, teacher, inputs, rng)
        journal = sona.read_journal(directory)
        assert len(journal) == requests
        config = sona.replay_config(journal, policy="thompson", exploration=1.0)
        estimate = sona.replay(journal, config).doubly_robust
        (low, high), truth = estimate.interval, truth_of(journal, config, name, teacher)
        held += low <= truth <= high
        error += estimate.value - truth
        variance += estimate.standard_error**2
    # About 97 of 100 hold it; below 90 of 100 is seven standard deviations away.
    assert held >= 0.9 * repetitions, held
    # All together are sixteen times as exact as one.
    assert abs(error) < 6.0 * math.sqrt(variance)


def test_a_replay_of_the_logging_policy_agrees_with_the_log(
    name: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    teacher = rng.standard_normal((ROUTES, DIM)) / math.sqrt(2)
    inputs = rng.standard_normal((600, DIM)).astype(np.float32)
    inputs /= np.linalg.norm(inputs, axis=1, keepdims=True)
    log_with(name, tmp_path, teacher, inputs, rng)
    journal = sona.read_journal(tmp_path)
    result = sona.replay(journal, sona.replay_config(journal))
    assert result.rows == 600
    assert result.skipped == 0
    # The same outcomes in the same order make the same probabilities: every weight is 1.
    assert result.effective_rows == pytest.approx(600, rel=1e-6)
    assert result.inverse_propensity.value == pytest.approx(result.logged.value, rel=1e-5)


def test_routes_are_matched_by_name(name: str, tmp_path: Path, rng: np.random.Generator) -> None:
    teacher = rng.standard_normal((ROUTES, DIM)) / math.sqrt(2)
    inputs = rng.standard_normal((100, DIM)).astype(np.float32)
    log_with(name, tmp_path, teacher, inputs, rng)
    journal = sona.read_journal(tmp_path)
    fewer = [{"name": f"route {i}", "cost": 0.1} for i in (2, 0, 1)]
    result = sona.replay(journal, sona.replay_config(journal, routes=fewer))
    assert result.skipped == int((journal.route == 3).sum())
    assert result.rows + result.skipped == 100


def test_a_configuration_of_another_length_is_refused(
    name: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    log_with(name, tmp_path, np.zeros((ROUTES, DIM)), np.eye(DIM, dtype=np.float32), rng)
    journal = sona.read_journal(tmp_path)
    with pytest.raises(sona.JournalError, match="dimensions"):
        sona.replay(journal, sona.replay_config(journal, hidden_dim=DIM + 1))
