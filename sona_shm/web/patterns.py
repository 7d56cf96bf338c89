"""The learned patterns as points of a plane."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from sona_shm.config import SonaConfig
from sona_shm.learning.reasoning_bank import LearnedPattern, ReasoningBank
from sona_shm.monitor.stats import RouteStats


@dataclasses.dataclass(frozen=True, slots=True)
class PatternPoint:
    """A pattern where the first two principal directions of embeddings show it.

    Attributes
    ----------
    id : int
    x, y : float
        In root mean square distances of embeddings to their mean.
    size : int
        Requests that it was fitted to.
    quality : float or None
        Mean quality of its outcomes; None without outcomes.
    best_route : str or None
        The active route whose mean reward, cost subtracted, is highest there.
    best_reward : float or None
    """

    id: int
    x: float
    y: float
    size: int
    quality: float | None
    best_route: str | None
    best_reward: float | None


def pattern_points(
    bank: ReasoningBank, config: SonaConfig, routes: Sequence[RouteStats]
) -> list[PatternPoint]:
    """All patterns of a bank.

    Examples
    --------
    >>> bank = ReasoningBank.fit(np.eye(4, dtype=np.float32).repeat(8, axis=0), 4, seed=0)
    >>> [point.size for point in pattern_points(bank, SonaConfig(hidden_dim=4), [])]
    [8, 8, 8, 8]
    """
    if not bank.patterns:
        return []
    centroids = np.stack([pattern.centroid for pattern in bank.patterns])
    plane = bank.projection.project(centroids)[:, :2].astype(float).tolist()
    prices = np.array([config.cost_weight * route.cost for route in routes])
    active = np.array([route.active for route in routes], bool)
    return [
        _point(pattern, x, y, prices, active, routes)
        for pattern, (x, y) in zip(bank.patterns, plane, strict=True)
    ]


def _point(
    pattern: LearnedPattern,
    x: float,
    y: float,
    prices: np.ndarray[tuple[int], np.dtype[np.float64]],
    active: np.ndarray[tuple[int], np.dtype[np.bool_]],
    routes: Sequence[RouteStats],
) -> PatternPoint:
    # Routes may be added between the look at them and the look at the patterns.
    known = min(len(routes), len(pattern.route_quality))
    rewards = pattern.route_quality[:known] - prices[:known]
    rewards[~active[:known]] = np.nan
    best = int(np.nanargmax(rewards)) if np.isfinite(rewards).any() else None
    return PatternPoint(
        id=pattern.id,
        x=x,
        y=y,
        size=pattern.cluster_size,
        quality=pattern.avg_quality if pattern.total_weight > 0.0 else None,
        best_route=None if best is None else routes[best].name,
        best_reward=None if best is None else float(rewards[best]),
    )
