"""The ReasoningBank: learned patterns, clusters of embeddings with what was seen of each route."""

from __future__ import annotations

import dataclasses
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sona_shm import _core
from sona_shm.errors import OutOfRangeError
from sona_shm.learning.clustering import k_means
from sona_shm.learning.projection import Projection, fit_projection

PATTERN_TYPES: Final = (
    "general",
    "reasoning",
    "factual",
    "creative",
    "code_gen",
    "conversational",
)
#: Rows that a pattern needs on average, and patterns at least.
_ROWS_PER_PATTERN: Final = 6
_FEWEST_PATTERNS: Final = 3


@dataclasses.dataclass(slots=True, eq=False)
class LearnedPattern:
    """A cluster of requests and what was seen there; the fields of the Rust crate's, and routes'.

    Attributes
    ----------
    id : int
    centroid : numpy.ndarray of float32, shape (hidden_dim,)
        Mean embedding.
    cluster_size : int
        Requests it was fitted to.
    total_weight : float
        Discounted number of outcomes.
    avg_quality : float
        Their discounted mean quality; 0.0 without outcomes.
    created_at, last_accessed : float
        Seconds since 1970.
    access_count : int
        Outcomes since it was fitted.
    pattern_type : str
        One of `PATTERN_TYPES`; only people set another than "general".
    route_quality : numpy.ndarray of float64, shape (routes,)
        Discounted mean quality of each route; NaN without outcomes.
    route_weight : numpy.ndarray of float64, shape (routes,)
        Discounted number of outcomes of each route.

    Examples
    --------
    >>> bank = ReasoningBank.fit(np.eye(4, dtype=np.float32).repeat(8, axis=0), 4, seed=0)
    >>> bank.patterns[0].cluster_size
    8
    """

    id: int
    centroid: NDArray[np.float32]
    cluster_size: int
    total_weight: float = 0.0
    avg_quality: float = 0.0
    created_at: float = 0.0
    last_accessed: float = 0.0
    access_count: int = 0
    pattern_type: str = "general"
    route_quality: NDArray[np.float64] = dataclasses.field(default_factory=lambda: np.zeros(0))
    route_weight: NDArray[np.float64] = dataclasses.field(default_factory=lambda: np.zeros(0))

    def similarity(self, x: NDArray[np.float32]) -> float:
        """Cosine of the angle between an embedding and the centroid; 0.0 where one is zero.

        Examples
        --------
        >>> LearnedPattern(0, np.array([1, 0], np.float32), 1).similarity(np.array([3, 0]))
        1.0
        """
        length = float(np.linalg.norm(x) * np.linalg.norm(self.centroid))
        return float(x @ self.centroid) / length if length > 0.0 else 0.0

    def should_prune(
        self, min_quality: float, min_accesses: int, max_age_seconds: float, now: float
    ) -> bool:
        """Whether it is poor, rarely met and old, all three, as in the crate.

        Examples
        --------
        >>> pattern = LearnedPattern(0, np.ones(2, np.float32), 1, avg_quality=0.1)
        >>> pattern.should_prune(0.3, 5, 60.0, now=100.0)
        True
        """
        old = now - self.last_accessed > max_age_seconds
        return self.avg_quality < min_quality and self.access_count < min_accesses and old

    def merge(self, other: LearnedPattern) -> LearnedPattern:
        """One pattern in place of two: means by cluster size, qualities by weight.

        Examples
        --------
        >>> a = LearnedPattern(0, np.array([0.0], np.float32), 1, 1.0, 0.2)
        >>> b = LearnedPattern(1, np.array([1.0], np.float32), 3, 3.0, 0.6)
        >>> a.merge(b).centroid, round(a.merge(b).avg_quality, 3)
        (array([0.75], dtype=float32), 0.5)
        """
        size = self.cluster_size + other.cluster_size
        share = other.cluster_size / size if size else 0.5
        weight = self.total_weight + other.total_weight
        route_weight = self.route_weight + other.route_weight
        route_sum = np.nansum(
            [self.route_quality * self.route_weight, other.route_quality * other.route_weight],
            axis=0,
        )
        quality = self.avg_quality * self.total_weight + other.avg_quality * other.total_weight
        return LearnedPattern(
            id=self.id,
            centroid=((1.0 - share) * self.centroid + share * other.centroid).astype(np.float32),
            cluster_size=size,
            total_weight=weight,
            avg_quality=quality / weight if weight else 0.0,
            created_at=min(self.created_at, other.created_at),
            last_accessed=max(self.last_accessed, other.last_accessed),
            access_count=self.access_count + other.access_count,
            pattern_type=self.pattern_type,
            route_quality=np.divide(
                route_sum,
                route_weight,
                out=np.full(route_sum.shape, np.nan),
                where=route_weight > 0,
            ),
            route_weight=route_weight,
        )


class ReasoningBank:
    """Learned patterns over a projection of embeddings.

    An engine publishes what its learner has of this; `Engine.reasoning_bank` makes one of it.

    Parameters
    ----------
    projection : Projection
    patterns : list of LearnedPattern

    Examples
    --------
    >>> rows = np.eye(3, dtype=np.float32).repeat(10, axis=0)
    >>> bank = ReasoningBank.fit(rows, clusters=3, seed=0)
    >>> bank.find_patterns(rows[0], k=1)[0].centroid.round(3)
    array([1., 0., 0.], dtype=float32)
    """

    def __init__(self, projection: Projection, patterns: list[LearnedPattern]) -> None:
        self.projection = projection
        self.patterns = patterns

    @classmethod
    def fit(cls, embeddings: NDArray[np.float32], clusters: int, seed: int) -> ReasoningBank:
        """Patterns of embeddings, without outcomes yet; see `fit_patterns`.

        Examples
        --------
        >>> len(ReasoningBank.fit(np.eye(4, dtype=np.float32), 2, seed=0).patterns)
        2
        """
        fit = fit_patterns(embeddings, clusters, seed)
        rows = zip(fit.full_centroids, fit.sizes, strict=True)
        patterns = [
            LearnedPattern(i, centroid, int(size)) for i, (centroid, size) in enumerate(rows)
        ]
        return cls(fit.projection, patterns)

    def __len__(self) -> int:
        return len(self.patterns)

    def find_patterns(self, x: NDArray[np.float32], k: int) -> list[LearnedPattern]:
        """The k nearest patterns, nearest first, by distance in the projection, as routing does.

        Raises
        ------
        OutOfRangeError
            If k is below 1.

        Examples
        --------
        >>> bank = ReasoningBank.fit(np.eye(4, dtype=np.float32), 4, seed=0)
        >>> len(bank.find_patterns(np.ones(4, np.float32), k=2))
        2
        """
        if k < 1:
            raise OutOfRangeError(f"k is {k}, expected 1 or more")
        if not self.patterns:
            return []
        centroids = np.stack([pattern.centroid for pattern in self.patterns])
        away = self.projection.project(centroids) - self.projection.project(x)
        order = np.argsort(np.square(away).sum(axis=1), kind="stable")
        return [self.patterns[i] for i in order[:k]]

    def prune(
        self, min_quality: float, min_accesses: int, max_age_seconds: float, now: float
    ) -> int:
        """Remove patterns that are poor, rarely met and old; returns how many.

        Examples
        --------
        >>> bank = ReasoningBank.fit(np.eye(4, dtype=np.float32), 4, seed=0)
        >>> bank.prune(0.3, 1, 60.0, now=1000.0)
        3
        """
        before = len(self.patterns)
        self.patterns = [
            pattern
            for pattern in self.patterns
            if not pattern.should_prune(min_quality, min_accesses, max_age_seconds, now)
        ]
        return before - len(self.patterns)

    def consolidate(self, similarity_threshold: float) -> int:
        """Merge patterns whose centroids point almost the same way; returns how many went.

        Parameters
        ----------
        similarity_threshold : float
            Cosine from which two patterns are one, in [-1, 1].

        Examples
        --------
        >>> twice = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]], np.float32).repeat(6, axis=0)
        >>> bank = ReasoningBank.fit(twice, 3, seed=0)
        >>> bank.consolidate(0.99), len(bank)
        (1, 2)
        """
        kept: list[LearnedPattern] = []
        for pattern in self.patterns:
            for i, other in enumerate(kept):
                if other.similarity(pattern.centroid) >= similarity_threshold:
                    kept[i] = other.merge(pattern)
                    break
            else:
                kept.append(pattern)
        removed = len(self.patterns) - len(kept)
        self.patterns = kept
        return removed


@dataclasses.dataclass(frozen=True, eq=False)
class PatternFit:
    """What a refit installs.

    Attributes
    ----------
    projection : Projection
    centroids : numpy.ndarray of float32, shape (patterns, dimensions)
        The mean embeddings in the projection.
    full_centroids : numpy.ndarray of float32, shape (patterns, hidden_dim)
        Mean embeddings.
    sizes : numpy.ndarray of int64, shape (patterns,)
    """

    projection: Projection
    centroids: NDArray[np.float32]
    full_centroids: NDArray[np.float32]
    sizes: NDArray[np.int64]


def fit_patterns(embeddings: NDArray[np.float32], clusters: int, seed: int) -> PatternFit:
    """Fit a projection and patterns in it.

    Parameters
    ----------
    embeddings : numpy.ndarray of float32, shape (n, hidden_dim), n at least 1
        Finite.
    clusters : int
        Patterns at most; fewer where a pattern would have less than six rows on average.
    seed : int

    Examples
    --------
    >>> fit_patterns(np.eye(8, dtype=np.float32).repeat(6, axis=0), 100, seed=0).sizes.tolist()
    [6, 6, 6, 6, 6, 6, 6, 6]
    """
    projection = fit_projection(embeddings, _core.PROJECTED)
    wanted = min(clusters, max(_FEWEST_PATTERNS, len(embeddings) // _ROWS_PER_PATTERN))
    found = k_means(projection.project(embeddings), wanted, seed)
    full = np.zeros((len(found.centroids), embeddings.shape[1]), np.float64)
    np.add.at(full, found.assignment, embeddings)
    means = (full / found.sizes[:, None]).astype(np.float32)
    return PatternFit(projection, projection.project(means), means, found.sizes)
