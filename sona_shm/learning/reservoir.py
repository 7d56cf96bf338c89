"""Recent outcomes as plain arrays."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from sona_shm import _core
from sona_shm.shm.layout import Geometry


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
    >>> from sona_shm.config import SonaConfig
    >>> len(Outcomes.from_rows(b"", SonaConfig(hidden_dim=4).geometry()))
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
    def from_rows(cls, rows: bytes | bytearray, geometry: Geometry) -> Outcomes:
        """Out of what ``_core.Reader._rows`` gives."""
        table = np.frombuffer(rows, _row_type(geometry))
        names = ("quality", "base", "linear", "bank", "propensity")
        return cls(
            np.ascontiguousarray(table["embedding"]),
            table["route"].astype(np.int64),
            **{name: table[name].astype(np.float64) for name in names},
        )

    def __len__(self) -> int:
        return len(self.route)


def _row_type(geometry: Geometry) -> np.dtype[np.void]:
    """``struct reservoir_row`` and the embedding behind it."""
    fields = {
        "sequence": (np.uint64, 0),
        "time_ns": (np.uint64, 8),
        "route": (np.uint32, 16),
        "quality": (np.float32, 20),
        "baseline": (np.float32, 24),
        "propensity": (np.float32, 28),
        "base": (np.float32, 32),
        "linear": (np.float32, 36),
        "bank": (np.float32, 40),
        "embedding": ((np.float32, (geometry.hidden_dim,)), _core.RESERVOIR_ROW_BYTES),
    }
    return np.dtype(
        {
            "names": list(fields),
            "formats": [form for form, _ in fields.values()],
            "offsets": [offset for _, offset in fields.values()],
            "itemsize": geometry.sizes()["reservoir_stride"],
        }
    )
