"""Patterns that are too small, or too near to one another, go."""

from __future__ import annotations

import dataclasses
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sona_shm.learning.clustering import nearest_centroid
from sona_shm.learning.projection import Projection
from sona_shm.learning.reasoning_bank import PatternFit

#: A pattern with fewer rows says nothing that its neighbours could not say better.
FEWEST_ROWS: Final = 3
#: Two patterns are one if their centroids are nearer than this share of their mean squared radii.
MERGE_SHARE: Final = 0.1


@dataclasses.dataclass(frozen=True, eq=False)
class TidyFit:
    """Patterns after pruning and merging.

    Attributes
    ----------
    fit : PatternFit
    pruned, merged : int
        Patterns that went.
    """

    fit: PatternFit
    pruned: int
    merged: int


def prune_and_merge(fit: PatternFit, embeddings: NDArray[np.float32]) -> TidyFit:
    """Leave out patterns with hardly any rows, and make one of two that overlap.

    Parameters
    ----------
    fit : PatternFit
    embeddings : numpy.ndarray of float32, shape (n, hidden_dim)
        That it was fitted to.

    Returns
    -------
    TidyFit
        With sizes counted anew.

    Examples
    --------
    >>> from sona_shm.learning.reasoning_bank import fit_patterns
    >>> rows = np.eye(8, dtype=np.float32).repeat(8, axis=0)[:-7]    # one pattern has one row
    >>> tidy = prune_and_merge(fit_patterns(rows, 8, seed=0), rows)
    >>> tidy.pruned, len(tidy.fit.sizes)
    (1, 7)
    """
    points = fit.projection.project(embeddings)
    kept = fit.sizes >= min(FEWEST_ROWS, int(fit.sizes.max()))
    full, pruned = fit.full_centroids[kept], int((~kept).sum())
    assignment = nearest_centroid(points, fit.projection.project(full))
    merged_into = _merge(points, assignment, fit.projection.project(full))
    group = merged_into[assignment]
    return TidyFit(
        _means(fit.projection, embeddings, group),
        pruned,
        merged=int((merged_into != np.arange(len(merged_into))).sum()),
    )


def _merge(
    points: NDArray[np.float32], assignment: NDArray[np.int64], centroids: NDArray[np.float32]
) -> NDArray[np.int64]:
    """For each pattern the one that it becomes part of, itself where it stays.

    The nearest pair goes first, until none is near enough.
    """
    count = len(centroids)
    sizes = np.maximum(np.bincount(assignment, minlength=count), 1).astype(np.float64)
    away = np.square(points - centroids[assignment]).sum(axis=1, dtype=np.float64)
    radius = np.bincount(assignment, away, count) / sizes
    centre = centroids.astype(np.float64)
    target = np.arange(count)
    distance = np.full((count, count), np.inf)
    for i in range(count):
        distance[i] = _nearness(centre, radius, i)
    np.fill_diagonal(distance, np.inf)
    while True:
        i, j = divmod(int(distance.argmin()), count)
        if not distance[i, j] < MERGE_SHARE:
            return target
        share = sizes[j] / (sizes[i] + sizes[j])
        apart = float(np.square(centre[i] - centre[j]).sum())
        radius[i] = (1.0 - share) * radius[i] + share * radius[j] + share * (1.0 - share) * apart
        centre[i] += share * (centre[j] - centre[i])
        sizes[i] += sizes[j]
        target[target == j] = i
        gone = target != np.arange(count)
        distance[i] = np.where(gone, np.inf, _nearness(centre, radius, i))
        distance[i, i] = np.inf
        distance[:, i] = distance[i]
        distance[j] = distance[:, j] = np.inf


def _nearness(
    centre: NDArray[np.float64], radius: NDArray[np.float64], i: int
) -> NDArray[np.float64]:
    """Squared distances of pattern i to all, over the sum of both squared radii."""
    apart = np.square(centre - centre[i]).sum(axis=1)
    nearness: NDArray[np.float64] = apart / np.maximum(radius + radius[i], 1e-12)
    return nearness


def _means(
    projection: Projection, embeddings: NDArray[np.float32], group: NDArray[np.int64]
) -> PatternFit:
    """Patterns of the groups that have rows, the largest first."""
    _, place, sizes = np.unique(group, return_inverse=True, return_counts=True)
    full = np.zeros((len(sizes), embeddings.shape[1]), np.float64)
    np.add.at(full, place, embeddings)
    order = np.argsort(-sizes, kind="stable")
    means = (full / sizes[:, None])[order].astype(np.float32)
    return PatternFit(projection, projection.project(means), means, sizes[order])
