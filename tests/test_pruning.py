"""Patterns that are too small or overlap go; the others stay as they were."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from sona_shm.learning.pruning import FEWEST_ROWS, prune_and_merge
from sona_shm.learning.reasoning_bank import PatternFit, fit_patterns


def groups(
    rng: np.random.Generator, sizes: list[int], spread: float, dim: int = 20
) -> NDArray[np.float32]:
    centres = rng.standard_normal((len(sizes), dim))
    rows = np.repeat(centres, sizes, axis=0)
    rows = rows + spread * rng.standard_normal(rows.shape)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32)


def check_sound(fit: PatternFit, rows: NDArray[np.float32]) -> None:
    assert fit.sizes.sum() == len(rows)
    assert (np.diff(fit.sizes) <= 0).all()
    assert (fit.sizes > 0).all()
    np.testing.assert_allclose(fit.centroids, fit.projection.project(fit.full_centroids), atol=1e-5)
    mean = (fit.full_centroids * fit.sizes[:, None]).sum(axis=0) / len(rows)
    np.testing.assert_allclose(mean, rows.mean(axis=0), atol=1e-4)


def test_groups_that_lie_apart_stay(rng: np.random.Generator) -> None:
    rows = groups(rng, [60] * 6, 0.05)
    tidy = prune_and_merge(fit_patterns(rows, 6, seed=1), rows)
    check_sound(tidy.fit, rows)
    assert len(tidy.fit.sizes) + tidy.pruned + tidy.merged <= 6


def test_a_group_that_was_cut_in_two_is_one_again(rng: np.random.Generator) -> None:
    """Between two clusters of one Gaussian there is nothing."""
    rows = groups(rng, [200, 200], 0.05)
    half = rows[:200:2], rows[1:200:2]
    fit = fit_patterns(rows, 2, seed=0)
    full = np.stack([half[0].mean(axis=0), half[1].mean(axis=0), rows[200:].mean(axis=0)])
    cut = PatternFit(fit.projection, fit.projection.project(full), full, np.array([100, 100, 200]))
    tidy = prune_and_merge(cut, rows)
    check_sound(tidy.fit, rows)
    assert (tidy.merged, tidy.fit.sizes.tolist()) == (1, [200, 200])


def test_patterns_with_hardly_any_rows_go(rng: np.random.Generator) -> None:
    rows = groups(rng, [100, 100, FEWEST_ROWS - 1], 0.02)
    bounds = (0, 100, 200, len(rows))
    full = np.stack([rows[a:b].mean(axis=0) for a, b in itertools.pairwise(bounds)])
    projection = fit_patterns(rows, 3, seed=0).projection
    fit = PatternFit(projection, projection.project(full), full, np.diff(bounds))
    tidy = prune_and_merge(fit, rows)
    check_sound(tidy.fit, rows)
    assert tidy.pruned == 1


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_few_rows_keep_a_pattern(rng: np.random.Generator, rows: int) -> None:
    x = groups(rng, [rows], 0.5)
    check_sound(prune_and_merge(fit_patterns(x, 4, seed=0), x).fit, x)


def test_equal_rows_are_one_pattern() -> None:
    rows = np.ones((50, 4), np.float32) / 2.0
    tidy = prune_and_merge(fit_patterns(rows, 5, seed=0), rows)
    assert tidy.fit.sizes.tolist() == [50]
