"""Folding one low-rank adapter into another."""

from __future__ import annotations

import dataclasses
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Doubles: TypeAlias = NDArray[np.float64]
Factors: TypeAlias = tuple[NDArray[np.float32], NDArray[np.float32]]

#: An adapter that moves no embedding of length 1 further than this is left to learn on: what it
#: has found is not worth the BaseLoRA's rank yet, and a reset would only delay it.
LEAST_SHIFT: Final = 0.05
# Singular values below this share of the largest are rounding, not directions.
_ROUNDING: Final = 1e-7


@dataclasses.dataclass(frozen=True, eq=False)
class Fold:
    """One adapter in place of the sum of two.

    Attributes
    ----------
    a, b : numpy.ndarray of float32, shape (rank, hidden_dim)
        Balanced: row r of both has the same length.
    spectral_error : float
        Largest length by which the shift of any unit embedding can differ from that of the sum.
    relative_error : float
        Frobenius norm of the difference, over that of the sum; 0.0 where the sum is zero.
    """

    a: NDArray[np.float32]
    b: NDArray[np.float32]
    spectral_error: float
    relative_error: float


def fold(first: Factors, second: Factors, rank: int) -> Fold:
    """The best adapter of a rank for what two adapters do together.

    An adapter ``(a, b)`` of r rows shifts x by ``(x @ a.T) @ b / sqrt(r)``.  The sum of both
    shifts is cut off after its `rank` largest singular values, which no adapter of that rank can
    do better (Eckart-Young).  It is computed in factored form: two thin QR decompositions and the
    SVD of a matrix as large as both ranks together.

    Parameters
    ----------
    first, second : pair of numpy.ndarray of float32, shape (r, hidden_dim)
        Finite; r may differ between the two.
    rank : int

    Returns
    -------
    Fold

    Examples
    --------
    >>> a = np.eye(2, 4, dtype=np.float32); zero = np.zeros((1, 4), np.float32)
    >>> folded = fold((a, 3.0 * a), (zero, zero), rank=2)
    >>> (folded.a.T @ folded.b / np.sqrt(2.0)).diagonal().round(3).tolist(), folded.spectral_error
    ([2.121, 2.121, 0.0, 0.0], 0.0)

    References
    ----------
    Eckart & Young (1936), The Approximation of One Matrix by Another of Lower Rank.
    """
    down = np.concatenate([_scaled(first), _scaled(second)]).astype(np.float64)
    up = np.concatenate([first[1], second[1]]).astype(np.float64)
    left, values, right = singular_values(down, up)
    kept = min(rank, len(values))
    # Both factors carry the root of a singular value, and of the 1/sqrt(rank) of an adapter.
    root = np.sqrt(values[:kept] * np.sqrt(rank))[:, None]
    a, b = (np.zeros((rank, down.shape[1]), np.float32) for _ in range(2))
    a[:kept], b[:kept] = root * left[:kept], root * right[:kept]
    left_over, total = values[kept:], float(np.linalg.norm(values))
    return Fold(
        a,
        b,
        spectral_error=float(left_over.max(initial=0.0)),
        relative_error=float(np.linalg.norm(left_over)) / total if total else 0.0,
    )


def largest_shift(factors: Factors) -> float:
    """The largest length by which an adapter moves an embedding of length 1.

    Examples
    --------
    >>> largest_shift((np.eye(1, 3, dtype="f4"), np.eye(1, 3, dtype="f4")))
    1.0
    """
    _, values, _ = singular_values(_scaled(factors), factors[1].astype(np.float64))
    return float(values[0])


def singular_values(down: Doubles, up: Doubles) -> tuple[Doubles, Doubles, Doubles]:
    """The singular value decomposition of ``down.T @ up``, which is never formed.

    Parameters
    ----------
    down, up : numpy.ndarray of float64, shape (r, hidden_dim)

    Returns
    -------
    tuple of numpy.ndarray
        Left vectors as rows, values from the largest down (0.0 where they are rounding), right
        vectors as rows.

    Examples
    --------
    >>> _, values, _ = singular_values(np.eye(2, 3), 2.0 * np.eye(2, 3))
    >>> values.tolist()
    [2.0, 2.0]
    """
    q_down, r_down = np.linalg.qr(down.T)
    q_up, r_up = np.linalg.qr(up.T)
    left, values, right = np.linalg.svd(r_down @ r_up.T)
    values = np.where(values > _ROUNDING * values[0], values, 0.0)
    return (q_down @ left).T, values, right @ q_up.T


def _scaled(factors: Factors) -> Doubles:
    """The down-projection with the adapter's own scale."""
    a = factors[0]
    scaled: Doubles = a / np.sqrt(float(len(a)))
    return scaled
