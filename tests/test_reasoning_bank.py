"""Projection, clusters and the bank of patterns, on plain arrays."""

from __future__ import annotations

import numpy as np
import pytest

import sona_shm as sona
from sona_shm.learning.clustering import k_means
from sona_shm.learning.projection import fit_projection
from sona_shm.learning.reasoning_bank import LearnedPattern, ReasoningBank, fit_patterns


@pytest.mark.parametrize("shape", [(1, 4), (2, 50), (40, 7), (300, 20), (60, 300), (2000, 16)])
def test_a_projection_keeps_what_principal_components_keep(
    rng: np.random.Generator, shape: tuple[int, int]
) -> None:
    rows = (rng.standard_normal(shape) * np.linspace(1.0, 3.0, shape[1])).astype(np.float32)
    projection = fit_projection(rows, 31)
    assert projection.matrix.shape == (31, shape[1])
    if shape[0] > 1500:
        return  # fitted to a sample
    centred = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    values = np.linalg.svd(centred, compute_uv=False)[:31]
    scale = np.sqrt(max(np.square(centred).sum(axis=1).mean(), 1e-6))
    kept = np.sort(np.linalg.norm(projection.project(rows), axis=0))[::-1][: len(values)]
    np.testing.assert_allclose(kept, values / scale, rtol=1e-3, atol=1e-3)


def test_the_same_rows_give_the_same_bits(rng: np.random.Generator) -> None:
    rows = rng.standard_normal((500, 60)).astype(np.float32)
    first, second = (fit_patterns(rows.copy(), 20, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.projection.matrix, second.projection.matrix)
    np.testing.assert_array_equal(first.centroids, second.centroids)


def test_clusters_that_lie_apart_are_found(rng: np.random.Generator) -> None:
    """k-means++ draws two centroids in one of them in 9 of 100 fits, and the fit stays there."""
    centres = 20.0 * np.eye(6, 10)
    right = 0
    for _ in range(40):
        group = rng.integers(6, size=600)
        points = (centres[group] + rng.standard_normal((600, 10))).astype(np.float32)
        found = k_means(points, 6, seed=int(rng.integers(2**32)))
        pure = all(len(set(group[found.assignment == i])) == 1 for i in range(len(found.sizes)))
        right += pure and np.array_equal(found.sizes, np.sort(np.bincount(group))[::-1])
    assert right >= 24


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_few_or_equal_rows_make_few_clusters(rows: int) -> None:
    fit = fit_patterns(np.ones((rows, 8), np.float32), 100, seed=0)
    assert fit.sizes.tolist() == [rows]
    np.testing.assert_array_equal(fit.full_centroids, np.ones((1, 8), np.float32))


def pattern(number: int, centroid: list[float], **fields: object) -> LearnedPattern:
    made = LearnedPattern(number, np.array(centroid, np.float32), 1)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def test_only_what_is_poor_rare_and_old_is_pruned() -> None:
    projection = fit_projection(np.eye(2, dtype=np.float32), 31)
    bad: dict[str, float] = {"avg_quality": 0.1, "access_count": 1, "last_accessed": 0.0}
    saved: list[dict[str, float]] = [
        {"avg_quality": 0.9},
        {"access_count": 9},
        {"last_accessed": 95.0},
    ]
    patterns = [pattern(i, [1.0, i], **bad | change) for i, change in enumerate([{}, *saved])]
    bank = ReasoningBank(projection, patterns)
    assert bank.prune(0.3, 5, 10.0, now=100.0) == 1
    assert [p.id for p in bank.patterns] == [1, 2, 3]


def test_merging_keeps_every_outcome() -> None:
    a = pattern(0, [1.0, 0.0], cluster_size=30, total_weight=2.0, avg_quality=0.5)
    b = pattern(1, [1.0, 0.1], cluster_size=10, total_weight=6.0, avg_quality=0.9)
    a.route_quality, a.route_weight = np.array([0.5, np.nan]), np.array([2.0, 0.0])
    b.route_quality, b.route_weight = np.array([0.9, 0.9]), np.array([2.0, 4.0])
    bank = ReasoningBank(fit_projection(np.eye(2, dtype=np.float32), 31), [a, b])
    assert bank.consolidate(0.9) == 1
    (merged,) = bank.patterns
    assert (merged.cluster_size, merged.total_weight) == (40, 8.0)
    assert merged.avg_quality == pytest.approx(0.8)
    np.testing.assert_allclose(merged.route_quality, [0.7, 0.9])
    np.testing.assert_allclose(merged.centroid, [1.0, 0.025])


def test_the_nearest_pattern_comes_first(rng: np.random.Generator) -> None:
    rows = rng.standard_normal((400, 12)).astype(np.float32)
    bank = ReasoningBank.fit(rows, 20, seed=1)
    for x in rows[:50]:
        found = bank.find_patterns(x, 3)
        here = bank.projection.project(x)
        away = [np.linalg.norm(bank.projection.project(p.centroid) - here) for p in bank.patterns]
        # By their distances: of two that are about as far, either may come first.
        np.testing.assert_allclose([away[p.id] for p in found], np.sort(away)[:3], rtol=1e-5)
        assert len({p.id for p in found}) == 3
    with pytest.raises(sona.OutOfRangeError):
        bank.find_patterns(rows[0], 0)
