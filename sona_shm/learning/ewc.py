"""Elastic weight consolidation on plain arrays: what other tasks need of a head.

``_core/ewc.c`` is the part of it that runs with every outcome.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from sona_shm.errors import ShapeError

Doubles = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class Anchor:
    """Where other tasks need a head, and how much.

    Parameters
    ----------
    weights : numpy.ndarray of float32, shape (hidden_dim,)
        Mean of their heads by information.
    information : numpy.ndarray of float32, shape (hidden_dim,)
        Diagonal of the empirical Fisher information: the sum of squared gradients while they were
        learned, 0 or more.

    Raises
    ------
    ShapeError
        If the lengths do not match.

    Examples
    --------
    >>> anchor = Anchor(np.array([1.0, 0.0]), np.array([4.0, 0.0]))
    >>> anchor.penalty(np.array([0.5, 9.0]))
    0.5
    >>> anchor.penalty(np.zeros(3))
    Traceback (most recent call last):
        ...
    sona_shm.errors.ShapeError: head has shape (3,), expected (2,) as the anchor

    References
    ----------
    Kirkpatrick et al. (2017), Overcoming Catastrophic Forgetting in Neural Networks,
    arXiv:1612.00796.
    """

    weights: NDArray[np.floating]
    information: NDArray[np.floating]

    def __post_init__(self) -> None:
        if self.weights.ndim != 1 or self.weights.shape != self.information.shape:
            raise ShapeError(
                f"weights have shape {self.weights.shape}, information {self.information.shape}, "
                "expected (hidden_dim,) of both"
            )

    def penalty(self, head: NDArray[np.floating]) -> float:
        """Half the squared distance of a head from the anchor, by information.

        Parameters
        ----------
        head : numpy.ndarray, shape (hidden_dim,)

        Raises
        ------
        ShapeError
            If the length does not match.
        """
        self._check(head)
        away = (head - self.weights).astype(np.float64)
        return float(0.5 * (self.information * away) @ away)

    def add_to(self, gram: Doubles, moment: Doubles, strength: float) -> None:
        """Make the penalty part of the normal equations of a least-squares fit, in place.

        Parameters
        ----------
        gram : numpy.ndarray of float64, shape (hidden_dim, hidden_dim)
            Of the inputs.
        moment : numpy.ndarray of float64, shape (hidden_dim,)
            Of inputs and targets.
        strength : float
            Factor on the penalty.

        Raises
        ------
        ShapeError
            If the lengths do not match; nothing was changed.
        """
        self._check(moment)
        if gram.shape != 2 * moment.shape:
            raise ShapeError(f"gram has shape {gram.shape}, expected {2 * moment.shape}")
        pull = strength * self.information.astype(np.float64)
        gram[np.diag_indices_from(gram)] += pull
        moment += pull * self.weights

    def _check(self, head: NDArray[np.floating]) -> None:
        if head.shape != self.weights.shape:
            raise ShapeError(
                f"head has shape {head.shape}, expected {self.weights.shape} as the anchor"
            )
