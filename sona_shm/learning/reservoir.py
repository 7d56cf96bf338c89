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
    base, linear, bank : numpy.ndarray of float64, shape (n,)
        What the route's mean, the linear expert and the bank predicted, before they learned the
        outcome.
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
    base: NDArray[np.float64]
    linear: NDArray[np.float64]
    bank: NDArray[np.float64]
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
            ("propensity", "<f4"),
            ("base", "<f4"),
            ("linear", "<f4"),
            ("bank", "<f4"),
            ("unused", f"V{_core.RESERVOIR_ROW_BYTES - 44}"),
            ("embedding", "<f4", (hidden_dim,)),
        ]
        table = np.frombuffer(rows, np.dtype(fields))
        names = ("quality", "base", "linear", "bank", "propensity")
        return cls(
            np.ascontiguousarray(table["embedding"]),
            table["route"].astype(np.int64),
            **{name: table[name].astype(np.float64) for name in names},
        )

    def __len__(self) -> int:
        return len(self.route)
