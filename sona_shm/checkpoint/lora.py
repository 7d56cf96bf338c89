"""Another rank for an adapter that does the same."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sona_shm.learning.consolidation import singular_values
from sona_shm.learning.lora import initial_down_projection


def changed_rank(
    a: NDArray[np.float32], b: NDArray[np.float32], rank: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Factors of the given rank for the function ``x + (x aᵀ) b / √rank`` of these.

    A higher rank adds rows that begin as those of a new adapter do, so the function stays.  A
    lower one keeps the largest singular values.  An adapter that was never used, all zeros, stays
    so.

    Parameters
    ----------
    a, b : numpy.ndarray of float32, shape (rank, hidden_dim)
    rank : int

    Returns
    -------
    tuple of numpy.ndarray of float32, shape (rank, hidden_dim)

    Examples
    --------
    >>> a, b = np.eye(2, 3, dtype="f4"), np.ones((2, 3), "f4")
    >>> wide, deep = changed_rank(a, b, 3)
    >>> bool(np.allclose(wide.T @ deep / 3**0.5, a.T @ b / 2**0.5))
    True
    """
    old, hidden_dim = a.shape
    if rank == old:
        return a, b
    new_a = initial_down_projection(rank, hidden_dim)
    new_b = np.zeros_like(new_a)
    if not a.any() and not b.any():
        return new_b.copy(), new_b
    if rank > old:
        new_a[:old] = a
        new_b[:old] = b * np.float32(np.sqrt(rank / old))
        return new_a, new_b
    left, values, right = singular_values(a.astype(np.float64) / np.sqrt(old), b.astype(np.float64))
    # A row of A learns at the pace of its length: the new ones are as long as the old ones.
    length = float(np.sqrt(np.mean(np.sum(a.astype(np.float64) ** 2, axis=1))))
    for i in range(min(rank, len(values))):
        if values[i] > 0.0 and length > 0.0:
            new_a[i] = left[i] * length
            new_b[i] = right[i] * (values[i] * np.sqrt(rank) / length)
    return new_a, new_b
