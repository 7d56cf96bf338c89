"""Recent outcomes as plain arrays."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from sona_shm import _core


@dataclasses.dataclass(frozen=True, eq=False)
class Outcomes:
    """Rows of the reservoir, oldest first.

    Attributes
    ----------
    embeddings : numpy.ndarray of float32, shape (n, hidden_dim)
    route : numpy.ndarray of int64, shape (n,)
    quality : numpy.ndarray of float64, shape (n,)
        What was learned.
    predicted : numpy.ndarray of float64, shape (n,)
        By the linear expert, before it learned the outcome.
    propensity : numpy.ndarray of float64, shape (n,)
        With which the route was chosen; 1.0 where nobody knows.

    Examples
    --------
    >>> len(Outcomes.from_rows(b"", hidden_dim=4))
    0
    """

    embeddings: NDArray[np.float32]
    route: NDArray[np.int64]
    quality: NDArray[np.float64]
    predicted: NDArray[np.float64]
    propensity: NDArray[np.float64]

    @classmethod
    def from_rows(cls, rows: bytes | bytearray, hidden_dim: int) -> Outcomes:
        """Out of what ``_core.Reader._reservoir`` gives."""
        fields = [
            ("sequence", "<u8"),
            ("time_ns", "<u8"),
            ("route", "<u4"),
            ("quality", "<f4"),
            ("baseline", "<f4"),
            ("predicted", "<f4"),
            ("propensity", "<f4"),
            ("unused", f"V{_core.RESERVOIR_ROW_BYTES - 36}"),
            ("embedding", "<f4", (hidden_dim,)),
        ]
        table = np.frombuffer(rows, np.dtype(fields))
        return cls(
            np.ascontiguousarray(table["embedding"]),
            table["route"].astype(np.int64),
            table["quality"].astype(np.float64),
            table["predicted"].astype(np.float64),
            table["propensity"].astype(np.float64),
        )

    def __len__(self) -> int:
        return len(self.route)
