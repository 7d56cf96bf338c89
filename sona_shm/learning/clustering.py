"""k-means."""

from __future__ import annotations

import dataclasses
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sona_shm.learning.projection import evenly

_LARGEST_SAMPLE: Final = 2000
_ROUNDS: Final = 8


@dataclasses.dataclass(frozen=True, eq=False)
class Clusters:
    """A partition of points.

    Attributes
    ----------
    centroids : numpy.ndarray of float32, shape (clusters, dimensions)
    assignment : numpy.ndarray of int64, shape (n,)
        Which centroid is nearest to each point.

    Examples
    --------
    >>> k_means(np.array([[0.0], [0.1], [9.0]], np.float32), 2, seed=0).sizes.tolist()
    [2, 1]
    """

    centroids: NDArray[np.float32]
    assignment: NDArray[np.int64]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Points of each cluster."""
        return np.bincount(self.assignment, minlength=len(self.centroids))


def k_means(points: NDArray[np.float32], clusters: int, seed: int) -> Clusters:
    """Clusters of points: k-means++, then eight rounds of Lloyd on at most 2,000 of them.

    Clusters that no point is nearest to are left out, so there may be fewer.  They are sorted by
    size, the largest first.

    Parameters
    ----------
    points : numpy.ndarray of float32, shape (n, dimensions), n at least 1
        Finite.
    clusters : int
        At least 1.
    seed : int
        Of the initial choice; the same points and seed give the same bits.

    Examples
    --------
    >>> len(k_means(np.ones((5, 2), np.float32), 3, seed=1).centroids)
    1

    References
    ----------
    Arthur & Vassilvitskii (2007), k-means++: The Advantages of Careful Seeding.
    """
    sample = evenly(points, _LARGEST_SAMPLE)
    centroids = _plus_plus(sample, clusters, np.random.default_rng(seed))
    for _ in range(_ROUNDS):
        centroids = _means(sample, nearest_centroid(sample, centroids), len(centroids))
    assignment = nearest_centroid(points, centroids)
    sizes = np.bincount(assignment, minlength=len(centroids))
    order = np.argsort(-sizes, kind="stable")
    order = order[sizes[order] > 0]
    place = np.zeros(len(centroids), np.int64)
    place[order] = np.arange(len(order))
    return Clusters(centroids[order], place[assignment])


def _plus_plus(
    points: NDArray[np.float32], clusters: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Each next centroid is a point drawn by its squared distance to those chosen before."""
    chosen = [int(rng.integers(len(points)))]
    distance = np.square(points - points[chosen[0]]).sum(axis=1, dtype=np.float64)
    while len(chosen) < clusters:
        total = distance.cumsum()
        if total[-1] <= 0.0:
            break  # all points are chosen
        drawn = int(np.searchsorted(total, rng.random() * total[-1], side="right"))
        chosen.append(min(drawn, len(points) - 1))
        step = np.square(points - points[chosen[-1]]).sum(axis=1, dtype=np.float64)
        distance = np.minimum(distance, step)
    return points[chosen]


def nearest_centroid(
    points: NDArray[np.float32], centroids: NDArray[np.float32]
) -> NDArray[np.int64]:
    """For each point the index of the centroid that is nearest to it.

    Examples
    --------
    >>> nearest_centroid(np.array([[0.2], [0.9]], np.float32), np.array([[0.0], [1.0]]))
    array([0, 1])
    """
    half = 0.5 * np.square(centroids).sum(axis=1)
    nearest: NDArray[np.int64] = np.argmax(points @ centroids.T - half, axis=1)
    return nearest


def _means(
    points: NDArray[np.float32], assignment: NDArray[np.int64], clusters: int
) -> NDArray[np.float32]:
    """Means of the clusters that have points."""
    sizes = np.bincount(assignment, minlength=clusters)
    members = np.zeros((clusters, len(points)), np.float32)
    members[assignment, np.arange(len(points))] = 1.0
    kept = sizes > 0
    members /= np.maximum(sizes, 1).astype(np.float32)[:, None]
    means: NDArray[np.float32] = members[kept] @ points
    return means
