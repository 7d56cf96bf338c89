"""The adapters as plain arrays."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sona_shm import _core
from sona_shm.errors import NonFiniteError, ShapeError
from sona_shm.trajectory import LearningSignal

MAX_RANK: Final = 64
GOLDEN_RATIO_CONJUGATE: Final = 0.618033988749895


def initial_down_projection(rank: int, hidden_dim: int) -> NDArray[np.float32]:
    """The deterministic small start of A: the golden-ratio sequence in ±0.01, as in the crate.

    Examples
    --------
    >>> initial_down_projection(1, 2)
    array([[-0.01      ,  0.00236068]], dtype=float32)
    """
    places = np.arange(rank * hidden_dim, dtype=np.float64)
    values = (np.mod(places * GOLDEN_RATIO_CONJUGATE, 1.0) - 0.5) * 0.02
    return values.astype(np.float32).reshape(rank, hidden_dim)


class LoRA:
    """A low-rank adapter ``h = x + (x @ A.T) @ B / sqrt(rank)``; such is the BaseLoRA.

    Parameters
    ----------
    a, b : numpy.ndarray of float32, shape (rank, hidden_dim)
        Down- and up-projection; not copied.

    Raises
    ------
    ShapeError
        If a and b do not have one shape (rank, hidden_dim).

    Examples
    --------
    >>> zero = np.zeros((8, 3), np.float32)
    >>> LoRA(zero, zero).forward([1.0, 2.0, 3.0])
    array([1., 2., 3.], dtype=float32)

    References
    ----------
    Hu et al. (2021), LoRA: Low-Rank Adaptation of Large Language Models, arXiv:2106.09685.
    """

    def __init__(self, a: NDArray[np.float32], b: NDArray[np.float32]) -> None:
        if a.ndim != 2 or a.shape != b.shape or not 1 <= len(a) <= MAX_RANK:
            raise ShapeError(
                f"a and b have shapes {a.shape} and {b.shape}, expected one shape (rank, "
                f"hidden_dim) with rank from 1 to {MAX_RANK}"
            )
        self.a, self.b = a, b

    @property
    def rank(self) -> int:
        """Number of rows of a and b.

        Examples
        --------
        >>> MicroLoRA(8, rank=2).rank
        2
        """
        return int(self.a.shape[0])

    def forward(self, x: ArrayLike) -> NDArray[np.float32]:
        """Adapt one embedding.

        Parameters
        ----------
        x : array_like of float32, shape (hidden_dim,)

        Returns
        -------
        numpy.ndarray of float32, shape (hidden_dim,)

        Raises
        ------
        ShapeError, DtypeError, NonFiniteError

        Examples
        --------
        >>> MicroLoRA(2).forward([1.0, 2.0])
        array([1., 2.], dtype=float32)
        """
        return _core.adapter_forward(self.a, self.b, x)

    def shift(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """How far embeddings, shape (hidden_dim,) or rows of them, are moved.

        Examples
        --------
        >>> MicroLoRA(2).shift(np.ones((3, 2), np.float32)).shape
        (3, 2)
        """
        scale = np.float32(1.0 / np.sqrt(self.rank))
        return np.multiply((x @ self.a.T) @ self.b, scale, dtype=np.float32)


class MicroLoRA(LoRA):
    """A low-rank adapter ``h = x + (x @ A.T) @ B / sqrt(rank)``.

    ``A`` is small and deterministic, ``B`` zero at the start, so that the adapter begins as the
    identity.  `forward` uses the weights of the last `apply_accumulated`, as in the crate; what
    was accumulated since takes effect there.

    Parameters
    ----------
    hidden_dim : int
    rank : int
        1 to 64.

    Attributes
    ----------
    a, b : numpy.ndarray of float32, shape (rank, hidden_dim)

    Examples
    --------
    >>> lora = MicroLoRA(4)
    >>> signal = LearningSignal(np.ones(4, np.float32), np.eye(4, dtype=np.float32)[0], 1.0)
    >>> lora.accumulate_gradient(signal, learning_rate=0.5); lora.pending_updates
    1
    >>> bool(np.all(lora.forward(np.ones(4)) == 1.0))
    True
    >>> lora.apply_accumulated()
    1
    >>> bool(lora.forward(np.ones(4))[0] > 1.0)
    True

    References
    ----------
    Hu et al. (2021), LoRA: Low-Rank Adaptation of Large Language Models, arXiv:2106.09685.
    """

    def __init__(self, hidden_dim: int, rank: int = 1) -> None:
        if not 1 <= rank <= MAX_RANK or hidden_dim < 1:
            raise ShapeError(
                f"hidden_dim is {hidden_dim} and rank {rank}, expected hidden_dim of at least 1 "
                f"and rank from 1 to {MAX_RANK}"
            )
        a = initial_down_projection(rank, hidden_dim)
        super().__init__(a, np.zeros_like(a))
        self._working: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None
        self._pending = 0

    @classmethod
    def from_weights(cls, a: NDArray[np.float32], b: NDArray[np.float32]) -> MicroLoRA:
        """An adapter with copies of the given weights.

        Raises
        ------
        ShapeError
            If a and b do not have one shape (rank, hidden_dim).

        Examples
        --------
        >>> MicroLoRA.from_weights(np.zeros((2, 3), "f4"), np.zeros((2, 3), "f4")).rank
        2
        """
        if a.ndim != 2 or a.shape != b.shape:
            raise ShapeError(f"a and b have shapes {a.shape} and {b.shape}, expected one shape")
        adapter = cls(1, 1)
        adapter.a, adapter.b = (w.astype(np.float32, order="C") for w in (a, b))
        return adapter

    @property
    def pending_updates(self) -> int:
        """Signals accumulated since the last `apply_accumulated`.

        Examples
        --------
        >>> MicroLoRA(8).pending_updates
        0
        """
        return self._pending

    def accumulate_gradient(self, signal: LearningSignal, learning_rate: float = 0.002) -> None:
        """Take one exact gradient step on a working copy, by the chain rule through both factors.

        With ``u`` the unit direction and ``p`` how far the adapter moves ``x`` along it already,
        ``e = target - p``, ``dB = s (A x) e u`` and ``dA = s (B u) e x``, divided by ``|x|²``
        where that is above 1.

        Parameters
        ----------
        signal : LearningSignal
        learning_rate : float

        Raises
        ------
        NonFiniteError
            If a value is NaN or infinite; nothing changes.

        Examples
        --------
        >>> lora = MicroLoRA(2)
        >>> lora.accumulate_gradient(LearningSignal(np.ones(2), np.ones(2), 0.5))
        >>> lora.pending_updates
        1
        """
        working = self._working or (self.a.copy(), self.b.copy())
        x, direction, target = signal
        if not _core.learn_direction(*working, x, direction, target, learning_rate):
            raise NonFiniteError("the signal holds NaN or infinity, expected finite numbers")
        self._working = working
        self._pending += 1

    def apply_accumulated(self) -> int:
        """Make what was accumulated visible to `forward`; returns the number of signals.

        Examples
        --------
        >>> MicroLoRA(2).apply_accumulated()
        0
        """
        if self._working is not None:
            self.a, self.b = self._working
        applied, self._pending, self._working = self._pending, 0, None
        return applied
