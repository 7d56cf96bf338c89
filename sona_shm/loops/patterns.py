"""The published patterns, as people and programs see them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sona_shm.arrays import as_float32
from sona_shm.errors import NonFiniteError, ShapeError
from sona_shm.learning.projection import Projection
from sona_shm.learning.reasoning_bank import LearnedPattern, ReasoningBank
from sona_shm.learning.snapshot import Patterns, Snapshot
from sona_shm.shm.layout import Geometry


def published_bank(block: bytes, slow: bytes, geometry: Geometry) -> ReasoningBank:
    """The patterns of one published version; see `Engine.reasoning_bank`."""
    patterns, snapshot = Patterns(slow, geometry), Snapshot(block, geometry)
    projection = Projection(patterns.projection, patterns.offset)
    if patterns.count == 0:
        return ReasoningBank(projection, [])
    banks = bank_cells(snapshot)
    uses = snapshot.pattern_uses()
    return ReasoningBank(
        projection, [_pattern(j, patterns, banks[:, j], uses[j]) for j in range(patterns.count)]
    )


def bank_cells(snapshot: Snapshot) -> NDArray[np.float32]:
    """Weight, sum and sum of squares of every route in every pattern: (routes, patterns, 3)."""
    return np.array([snapshot.bank(i) for i in range(snapshot.route_count)], np.float32)


def checked_query(x: ArrayLike, hidden_dim: int) -> NDArray[np.float32]:
    """An embedding as `Engine.route` scales it.

    Raises
    ------
    ShapeError, DtypeError, NonFiniteError
    """
    query = as_float32(x, "x")
    if query.shape != (hidden_dim,):
        raise ShapeError(f"x has shape {query.shape}, expected ({hidden_dim},)")
    norm = float(np.linalg.norm(query.astype(np.float64)))
    if not np.isfinite(norm):
        raise NonFiniteError("x holds NaN or infinity, expected finite numbers")
    return query / np.float32(max(norm, 1.0))


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
        route_quality=np.divide(total, weight, out=np.full_like(total, np.nan), where=weight > 0),
        route_weight=weight,
    )
