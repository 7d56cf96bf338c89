"""The published patterns, as people and programs see them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sona_shm.arrays import as_float32
from sona_shm.errors import NonFiniteError, OutOfRangeError, ShapeError
from sona_shm.learning.reasoning_bank import LearnedPattern
from sona_shm.learning.snapshot import Patterns, Snapshot
from sona_shm.shm.layout import Geometry


def _query(x: ArrayLike, hidden_dim: int) -> NDArray[np.float32]:
    query = as_float32(x, "x")
    if query.shape != (hidden_dim,):
        raise ShapeError(f"x has shape {query.shape}, expected ({hidden_dim},)")
    norm = float(np.linalg.norm(query.astype(np.float64)))
    if not np.isfinite(norm):
        raise NonFiniteError("x holds NaN or infinity, expected finite numbers")
    return query / np.float32(max(norm, 1.0))  # as route scales it


def learned_patterns(
    block: bytes, slow: bytes, geometry: Geometry, x: ArrayLike, k: int
) -> list[LearnedPattern]:
    """The k patterns nearest to x; see `Engine.find_patterns`."""
    if k < 1:
        raise OutOfRangeError(f"k is {k}, expected 1 or more")
    query = _query(x, geometry.hidden_dim)
    patterns, snapshot = Patterns(slow, geometry), Snapshot(block, geometry)
    if patterns.count == 0:
        return []
    projected = patterns.projection @ query - patterns.offset
    distance = np.square(patterns.centroids - projected).sum(axis=1)
    nearest = np.argsort(distance, kind="stable")[:k]
    banks = np.stack([snapshot.bank(i) for i in range(snapshot.route_count)])
    uses = snapshot.pattern_uses()
    return [_pattern(int(j), patterns, banks[:, j], uses[j]) for j in nearest]


def _pattern(
    index: int, patterns: Patterns, bank: NDArray[np.float32], use: NDArray[np.uint64]
) -> LearnedPattern:
    weight, total, _ = bank.astype(np.float64).T
    seen = float(weight.sum())
    fitted = patterns.fitted_ns / 1e9
    return LearnedPattern(
        id=index,
        centroid=patterns.full_centroids[index].copy(),
        cluster_size=int(patterns.sizes[index]),
        total_weight=seen,
        avg_quality=float(total.sum()) / seen if seen else 0.0,
        created_at=fitted,
        last_accessed=int(use[1]) / 1e9 if use[1] else fitted,
        access_count=int(use[0]),
        pattern_type="general",
        route_quality=np.divide(total, weight, out=np.full_like(total, np.nan), where=weight > 0),
        route_weight=weight,
    )
