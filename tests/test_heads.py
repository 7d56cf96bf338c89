"""Refitting heads: taken where they predict held-out outcomes better, and only there."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from sona_shm.learning.heads import FEWEST_ROWS, RouteOutcomes, refit_head

DIM = 12


def drawn(
    rng: np.random.Generator, rows: int, noise: float = 0.05, dim: int = DIM
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
    """Inputs, the true head, and noisy qualities, few of which are limited: no head would fit."""
    x = rng.standard_normal((rows, dim)) / np.sqrt(dim)
    head = rng.standard_normal(dim)
    head *= 0.5 / np.linalg.norm(head)
    quality = np.clip(0.5 + x @ head + noise * rng.standard_normal(rows), 0.0, 1.0)
    return x.astype(np.float32), head, quality


def outcomes_of(
    x: NDArray[np.float32],
    quality: NDArray[np.float64],
    predicted: float | NDArray[np.float64],
) -> RouteOutcomes:
    every = np.ones(len(quality))
    return RouteOutcomes(x, quality, predicted * every, every)


def test_a_head_that_predicts_nothing_is_replaced(rng: np.random.Generator) -> None:
    x, head, quality = drawn(rng, 600)
    live = np.zeros(DIM, np.float32)
    found = refit_head(outcomes_of(x, quality, 0.5), live, bias=0.5)
    assert found is not None
    assert found.change is not None
    assert found.improvement > 0.0
    np.testing.assert_allclose(live + found.change, head, atol=0.1)


def test_a_head_that_predicts_well_stays(rng: np.random.Generator) -> None:
    """A head that is right loses a comparison by two standard errors only by chance."""
    changed = 0
    for _ in range(40):
        x, head, quality = drawn(rng, 600)
        outcomes = outcomes_of(x, quality, np.clip(0.5 + x @ head, -1.0, 1.0))
        found = refit_head(outcomes, head.astype(np.float32), bias=0.5)
        assert found is not None
        changed += found.change is not None
    assert changed <= 4


def test_where_there_is_nothing_to_learn_the_head_stays(rng: np.random.Generator) -> None:
    """Noise alone must not talk it into a change."""
    changed = 0
    for _ in range(80):
        x, _, _ = drawn(rng, 200)
        outcomes = outcomes_of(x, rng.random(200), 0.5)
        found = refit_head(outcomes, np.zeros(DIM, np.float32), bias=0.5)
        assert found is not None
        changed += found.change is not None
    assert changed <= 12


def test_what_is_held_out_decides_nothing_but_the_comparison(rng: np.random.Generator) -> None:
    """The world turns in the last fifth: what was fitted to the past loses there."""
    x, head, quality = drawn(rng, 500)
    quality[400:] = np.clip(0.5 - x[400:] @ head, 0.0, 1.0)
    outcomes = outcomes_of(x, quality, 0.5)
    found = refit_head(outcomes, np.zeros(DIM, np.float32), bias=0.5)
    assert found is not None
    assert found.improvement < 0.0
    assert found.change is None


@pytest.mark.parametrize("rows", [0, 1, FEWEST_ROWS - 1])
def test_too_few_outcomes_say_nothing(rng: np.random.Generator, rows: int) -> None:
    x, _, quality = drawn(rng, rows)
    outcomes = outcomes_of(x, quality, 0.0)
    assert refit_head(outcomes, np.zeros(DIM, np.float32), bias=0.5) is None


def test_fewer_rows_than_dimensions_are_no_hindrance(rng: np.random.Generator) -> None:
    x, _, quality = drawn(rng, FEWEST_ROWS, dim=200)
    outcomes = outcomes_of(x, quality, -1.0)
    found = refit_head(outcomes, np.zeros(200, np.float32), bias=0.5)
    assert found is not None
    assert found.change is not None
    assert np.isfinite(found.change).all()


def test_equal_embeddings_are_no_hindrance() -> None:
    x = np.ones((100, DIM), np.float32)
    outcomes = outcomes_of(x, np.full(100, 0.9), 0.1)
    found = refit_head(outcomes, np.zeros(DIM, np.float32), bias=0.5)
    assert found is not None
    assert found.change is not None
    assert float(found.change.sum()) == pytest.approx(0.4, abs=0.01)


def test_rare_choices_count_for_the_requests_they_stand_for(rng: np.random.Generator) -> None:
    """The route is chosen mostly where it is good; its head must know where it is bad."""
    good = rng.random(20_000) < 0.5
    propensity = np.where(good, 0.95, 0.05)
    chosen = rng.random(20_000) < propensity
    x = np.where(good, 1.0, -1.0)[chosen, None].astype(np.float32)
    quality = np.where(good, 1.0, 0.0)[chosen]
    outcomes = RouteOutcomes(x, quality, np.full(len(x), 0.9), propensity[chosen])
    assert outcomes.weight.mean() == pytest.approx(1.0)
    assert outcomes.weight @ x[:, 0] / len(x) == pytest.approx(0.0, abs=0.15)
    found = refit_head(outcomes, np.zeros(1, np.float32), bias=0.5)
    assert found is not None
    assert found.change is not None
    assert float(found.change[0]) == pytest.approx(0.5, abs=0.05)
