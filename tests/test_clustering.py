"""The projection that patterns are found in, and k-means."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from sona_shm.learning.clustering import k_means
from sona_shm.learning.projection import evenly, fit_projection

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


def embeddings(rng: np.random.Generator, n: int, dim: int) -> Floats:
    """Rows off the origin whose variance falls by direction, so that the leading ones are clear."""
    spread = 0.7 ** np.arange(dim)
    turned = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    rows: Floats = (rng.normal(size=(n, dim)) * spread @ turned).astype(np.float32)
    return rows + rng.normal(size=dim).astype(np.float32)


# ---- the projection ----

SHAPES = [(200, 12), (60, 60), (20, 50), (2, 9)]  # each Gram matrix is the smaller one once


def centred(rows: Floats) -> Doubles:
    away: Doubles = rows - rows.mean(axis=0, dtype=np.float64)
    return away


def mean_square(rows: Floats) -> float:
    """Of the distances to the mean."""
    return float(np.square(centred(rows)).sum(axis=1).mean())


@pytest.mark.parametrize(("n", "dim"), SHAPES)
def test_directions_are_the_leading_singular_vectors(
    rng: np.random.Generator, n: int, dim: int
) -> None:
    rows = embeddings(rng, n, dim)
    leading = np.linalg.svd(centred(rows), full_matrices=False)[2][: min(5, n - 1)]
    found = fit_projection(rows, 5).matrix[: len(leading)] * mean_square(rows) ** 0.5
    assert np.abs(found @ leading.T) == pytest.approx(np.eye(len(leading)), abs=1e-5)


@pytest.mark.parametrize(("n", "dim"), SHAPES)
def test_directions_are_orthogonal_and_the_missing_ones_zero(
    rng: np.random.Generator, n: int, dim: int
) -> None:
    rows = rng.normal(size=(n, dim)).astype(np.float32)
    matrix = fit_projection(rows, 31).matrix
    there = min(31, dim, n - 1)  # centring takes one
    expected = np.diag(np.repeat([1.0, 0.0], [there, 31 - there]))
    assert matrix @ matrix.T * mean_square(rows) == pytest.approx(expected, abs=1e-5)


def test_projected_rows_have_unit_size(rng: np.random.Generator) -> None:
    rows = embeddings(rng, 300, 20)
    projected = fit_projection(rows, 20).project(rows)  # all directions are there
    assert np.square(projected).sum(axis=1).mean() == pytest.approx(1.0, rel=1e-4)


def test_project_takes_the_mean_to_zero_for_one_and_for_many(rng: np.random.Generator) -> None:
    rows = embeddings(rng, 100, 16)
    projection = fit_projection(rows, 7)
    exact = centred(rows) @ projection.matrix.T
    assert projection.project(rows) == pytest.approx(exact, abs=1e-5)
    assert projection.project(rows[3]) == pytest.approx(exact[3], abs=1e-5)
    assert projection.project(rows).dtype == np.float32


@pytest.mark.parametrize(("n", "dim"), SHAPES)
def test_the_sign_of_a_direction_is_fixed(rng: np.random.Generator, n: int, dim: int) -> None:
    rows = embeddings(rng, n, dim)
    matrix = fit_projection(rows, 4).matrix
    assert (matrix.max(axis=1) >= -matrix.min(axis=1)).all()
    assert np.array_equal(matrix, fit_projection(-rows, 4).matrix)


def test_the_same_rows_give_the_same_bits_wherever_they_lie_in_memory(
    rng: np.random.Generator,
) -> None:
    rows = embeddings(rng, 400, 48)
    expected = fit_projection(rows, 31)
    for shift in (4, 8, 20):
        room = bytearray(rows.nbytes + shift)
        room[shift:] = rows.tobytes()
        moved = np.frombuffer(room, np.float32, offset=shift).reshape(rows.shape)
        found = fit_projection(moved, 31)
        assert np.array_equal(found.matrix, expected.matrix)
        assert np.array_equal(found.offset, expected.offset)
        assert np.array_equal(found.project(moved), expected.project(rows))


@pytest.mark.parametrize("n", [1, 2, 700])
def test_rows_that_are_all_the_same_have_no_direction(rng: np.random.Generator, n: int) -> None:
    projection = fit_projection(rng.normal(size=(1, 30)).astype(np.float32).repeat(n, axis=0), 31)
    assert not projection.matrix.any()
    assert not projection.project(rng.normal(size=30).astype(np.float32)).any()


def test_long_embeddings(rng: np.random.Generator) -> None:
    rows = rng.normal(size=(50, 4096)).astype(np.float32)
    matrix = fit_projection(rows, 31).matrix
    assert matrix @ matrix.T * mean_square(rows) == pytest.approx(np.eye(31), abs=1e-5)


def test_what_goes_to_the_core_is_contiguous_float32(rng: np.random.Generator) -> None:
    projection = fit_projection(embeddings(rng, 50, 8), 31)
    for array in (projection.matrix, projection.offset):
        assert array.dtype == np.float32
        assert array.flags.c_contiguous


@pytest.mark.parametrize("n", [1, 1499, 1500, 1501, 4096])
def test_a_sample_is_spread_over_all_rows(n: int) -> None:
    rows = np.arange(n, dtype=np.float32)
    sample = evenly(rows, 1500)
    assert len(sample) == min(n, 1500)
    assert (sample[0], sample[-1]) == (0, n - 1)
    steps = np.diff(sample)
    assert n == 1 or (steps.min() >= 1 and steps.max() <= n // 1500 + 1)


# ---- k-means ----


def groups(rng: np.random.Generator, sizes: list[int], dimensions: int) -> Floats:
    """Points in groups that are far apart."""
    centres = 20.0 * np.eye(dimensions)[: len(sizes)]
    points = centres.repeat(sizes, axis=0)
    return (points + 0.1 * rng.normal(size=points.shape)).astype(np.float32)


def square_error(points: Floats, centroids: Floats) -> float:
    away = points[:, None].astype(np.float64) - centroids
    return float(np.square(away).sum(axis=2).min(axis=1).sum())


def test_finds_groups_that_are_far_apart_largest_first(rng: np.random.Generator) -> None:
    points = groups(rng, [10, 40, 25], 6)
    found = k_means(points, 3, seed=0)
    assert found.sizes.tolist() == [40, 25, 10]
    assert found.assignment.tolist() == [2] * 10 + [0] * 40 + [1] * 25
    means = [points[10:50].mean(axis=0), points[50:].mean(axis=0), points[:10].mean(axis=0)]
    assert found.centroids == pytest.approx(np.stack(means), abs=1e-4)


@pytest.mark.parametrize("n", [1, 7, 500, 4096])
def test_every_point_belongs_to_its_nearest_centroid(rng: np.random.Generator, n: int) -> None:
    points = rng.normal(size=(n, 31)).astype(np.float32)
    found = k_means(points, 100, seed=int(rng.integers(1000)))
    away = np.square(points[:, None].astype(np.float64) - found.centroids).sum(axis=2)
    assert away[np.arange(n), found.assignment] == pytest.approx(away.min(axis=1), abs=1e-3)
    assert found.centroids.dtype == np.float32


@pytest.mark.parametrize("n", [1, 50, 2000, 3001])
def test_sizes_count_all_points_and_none_is_empty(rng: np.random.Generator, n: int) -> None:
    found = k_means(rng.normal(size=(n, 3)).astype(np.float32), 60, seed=1)
    assert found.sizes.sum() == n
    assert found.sizes.min() > 0
    assert (np.diff(found.sizes) <= 0).all()
    assert np.array_equal(found.sizes, np.bincount(found.assignment))


def test_centroids_are_better_than_points_drawn_blindly(rng: np.random.Generator) -> None:
    points = rng.normal(size=(800, 5)).astype(np.float32)
    drawn = points[rng.permutation(800)[:20]]
    found = k_means(points, 20, seed=3).centroids
    assert square_error(points, found) < 0.92 * square_error(points, drawn)


def test_the_first_choice_goes_where_nothing_is_chosen_yet(rng: np.random.Generator) -> None:
    points = groups(rng, [999, 1], 2)
    # From two centroids among the many, Lloyd's rounds would never leave the lone point alone.
    found = [k_means(points, 2, seed).sizes.tolist() for seed in range(50)]
    assert found.count([999, 1]) >= 40


def test_every_next_choice_keeps_away_from_all_before(rng: np.random.Generator) -> None:
    points = groups(rng, [30] * 8, 8)
    found = [k_means(points, 8, seed).sizes.tolist() for seed in range(20)]
    assert found.count([30] * 8) >= 17  # each misses a group about one time in a hundred


def test_a_seed_repeats_and_another_differs(rng: np.random.Generator) -> None:
    points = rng.normal(size=(3000, 8)).astype(np.float32)
    first, again, other = (k_means(points, 30, seed) for seed in (5, 5, 6))
    assert np.array_equal(first.centroids, again.centroids)
    assert np.array_equal(first.assignment, again.assignment)
    assert not np.array_equal(first.centroids, other.centroids)


@pytest.mark.parametrize("distinct", [1, 2, 5])
def test_no_more_clusters_than_different_points(rng: np.random.Generator, distinct: int) -> None:
    points = groups(rng, [1] * distinct, 6).repeat(300, axis=0)
    for seed in range(10):
        found = k_means(points, 20, seed)
        assert found.sizes.tolist() == [300] * distinct
        assert len(np.unique(found.centroids, axis=0)) == distinct
