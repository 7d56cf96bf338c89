"""Real requests with known outcomes: what each route would have been worth for each of them."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sona_shm.errors import SonaError

COST_WEIGHT: Final = 0.2


class StreamError(SonaError, ValueError):
    """The data of the demonstration is absent or has the wrong shape.

    Examples
    --------
    >>> load_npz("nowhere.npz")
    Traceback (most recent call last):
        ...
    sona_shm.demo.stream.StreamError: cannot read nowhere.npz: [Errno 2] No such file or \
directory: 'nowhere.npz'
    """


@dataclasses.dataclass(frozen=True)
class Stream:
    """Requests and the quality that each route gives them.

    Attributes
    ----------
    title : str
    embedding : numpy.ndarray of float32, shape (rows, hidden_dim)
    quality : numpy.ndarray of float32, shape (rows, routes)
        In [0, 1].
    cost : numpy.ndarray of float32, shape (routes,)
        As a share of the dearest route's, in [0, 1].
    models : tuple of str
    default_requests : int
    """

    title: str
    embedding: NDArray[np.float32]
    quality: NDArray[np.float32]
    cost: NDArray[np.float32]
    models: tuple[str, ...]
    default_requests: int

    @property
    def reward(self) -> NDArray[np.float32]:
        """Shape (rows, routes): quality minus weighted cost."""
        return self.quality - np.float32(COST_WEIGHT) * self.cost

    def order(self, requests: int) -> NDArray[np.int64]:
        """Which row each request asks for: every row once before any row twice, shuffled."""
        rng = np.random.default_rng(0)
        rows = len(self.embedding)
        rounds = [rng.permutation(rows) for _ in range(-(-requests // rows))]
        return np.concatenate(rounds)[:requests]


def load_digits() -> Stream:
    """Handwritten digits as embeddings and ten specialists, each right for one digit."""
    try:
        from sklearn.datasets import load_digits as load
    except ImportError:
        raise StreamError(
            "the digits come with scikit-learn; pip install 'sona-shm[demo]', or give --data FILE"
        ) from None
    pixels, digit = load(return_X_y=True)
    embedding = pixels / np.linalg.norm(pixels, axis=1, keepdims=True)
    return Stream(
        title="handwritten digits, ten specialists",
        embedding=embedding.astype(np.float32),
        quality=np.eye(10, dtype=np.float32)[digit],
        cost=np.zeros(10, np.float32),
        models=tuple(f"knows-{d}" for d in range(10)),
        default_requests=20_000,
    )


def load_npz(path: str | Path) -> Stream:
    """Requests from a file with ``embedding``, ``quality``, ``cost`` and ``models``.

    Parameters
    ----------
    path : str or Path
        Arrays as in `Stream`; ``cost`` of shape (routes,) or (rows, routes), which is averaged,
        in any unit.

    Raises
    ------
    StreamError
        If the file cannot be read or the shapes do not fit.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            embedding, quality, cost, models = (
                arrays[key] for key in ("embedding", "quality", "cost", "models")
            )
    except (OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise StreamError(f"cannot read {path}: {error}") from None
    if cost.ndim == 2:
        cost = cost.mean(axis=0)
    rows, routes = len(embedding), len(models)
    if (
        embedding.ndim != 2
        or quality.shape != (rows, routes)
        or cost.shape != (routes,)
        or not rows
    ):
        raise StreamError(
            f"{path} has embedding {embedding.shape}, quality {quality.shape}, cost {cost.shape} "
            f"and {routes} models; expected (N, d), (N, K), (K,) or (N, K), and K"
        )
    if not np.all(np.isfinite(embedding)) or not np.all((quality >= 0.0) & (quality <= 1.0)):
        raise StreamError(f"{path} has an embedding that is not finite or a quality outside [0, 1]")
    dearest = float(cost.max())
    return Stream(
        title=Path(path).name,
        embedding=embedding.astype(np.float32),
        quality=quality.astype(np.float32),
        cost=(cost / dearest if dearest > 0 else cost).astype(np.float32),
        models=tuple(map(str, models)),
        default_requests=2 * rows,
    )
