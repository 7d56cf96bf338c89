"""Principal directions of embeddings."""

from __future__ import annotations

import dataclasses
from typing import Final

import numpy as np
from numpy.typing import NDArray

_LARGEST_SAMPLE: Final = 1500
# Embeddings nearer to their mean than this are not scaled up further.
_LEAST_SPREAD: Final = 1e-6


@dataclasses.dataclass(frozen=True, eq=False)
class Projection:
    """An affine map of embeddings onto their leading principal directions.

    Attributes
    ----------
    matrix : numpy.ndarray of float32, shape (dimensions, hidden_dim)
        Orthogonal rows, divided by the root mean square distance of the embeddings to their mean;
        rows of zeros where the embeddings have fewer directions.
    offset : numpy.ndarray of float32, shape (dimensions,)
        Where the matrix takes the mean.

    Examples
    --------
    >>> rows = np.eye(4, dtype=np.float32)
    >>> fit_projection(rows, 2).project(rows).shape
    (4, 2)
    """

    matrix: NDArray[np.float32]
    offset: NDArray[np.float32]

    def project(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """One embedding, shape (hidden_dim,), or rows of them, onto the directions."""
        return x @ self.matrix.T - self.offset


def evenly(rows: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """At most so many of the rows, evenly spread.

    Examples
    --------
    >>> evenly(np.arange(10, dtype=np.float32), 3)
    array([0., 4., 9.], dtype=float32)
    """
    if len(rows) <= count:
        return rows
    return rows[np.linspace(0, len(rows) - 1, count).astype(np.int64)]


def fit_projection(embeddings: NDArray[np.float32], dimensions: int) -> Projection:
    """Principal components of at most 1,500 evenly spread rows.

    The smaller of the two Gram matrices is decomposed, so that long embeddings cost no more than
    many.  The same rows give the same bits.

    Parameters
    ----------
    embeddings : numpy.ndarray of float32, shape (n, hidden_dim), n at least 1
        Finite.
    dimensions : int

    Returns
    -------
    Projection

    Examples
    --------
    >>> line = np.outer(np.arange(5), [0.6, 0.8]).astype(np.float32)
    >>> (fit_projection(line, 1).matrix * np.sqrt(2.0)).round(3).tolist()
    [[0.6, 0.8]]

    References
    ----------
    Jolliffe (2002), Principal Component Analysis.
    """
    rows = evenly(embeddings, _LARGEST_SAMPLE).astype(np.float64)
    mean = rows.mean(axis=0)
    centred = rows - mean
    square = float(np.square(centred).sum(axis=1).mean())
    matrix = np.zeros((dimensions, rows.shape[1]))
    found = _leading_directions(centred, dimensions)
    matrix[: len(found)] = found / np.sqrt(max(square, _LEAST_SPREAD))
    return Projection(matrix.astype(np.float32), (matrix @ mean).astype(np.float32))


def _leading_directions(centred: NDArray[np.float64], dimensions: int) -> NDArray[np.float64]:
    n, d = centred.shape
    gram = centred.T @ centred if d <= n else centred @ centred.T
    values, vectors = np.linalg.eigh(gram)
    order = np.argsort(values)[::-1][:dimensions]
    # What is left of rounding is no direction.
    order = order[values[order] > 1e-10 * max(float(values[-1]), 1e-30)]
    if d <= n:
        found = vectors[:, order].T
    else:
        found = (centred.T @ vectors[:, order] / np.sqrt(values[order])).T
    # The sign of an eigenvector is arbitrary: its largest coefficient is made positive.
    largest = found[np.arange(len(found)), np.abs(found).argmax(axis=1)]
    signed: NDArray[np.float64] = found * np.where(largest < 0.0, -1.0, 1.0)[:, None]
    return signed
