"""Streams of requests with the quality that every route would have given each of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

COST_WEIGHT: Final = 0.2
DATA: Final = Path(__file__).resolve().parents[2].parent / "shared" / "data"
NAMES: Final = ("routellm_mmlu", "llmrouter9", "group", "digits")
_DIGIT_REQUESTS: Final = 20_000


class StreamAbsent(Exception):
    """The data of a stream is not on this machine."""


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """Rows that are asked for, and what each route makes of them.

    Attributes
    ----------
    name : str
    embedding : numpy.ndarray of float32, shape (rows, hidden_dim)
    quality : numpy.ndarray of float64, shape (rows, routes)
    price : numpy.ndarray of float64, shape (routes,)
        What a route's cost takes off its reward.
    requests : int
        Length of a pass.
    task : numpy.ndarray of int64, shape (rows,)
        Subject or task that a row comes from; no router sees it.
    """

    name: str
    embedding: NDArray[np.float32]
    quality: NDArray[np.float64]
    price: NDArray[np.float64]
    requests: int
    task: NDArray[np.int64]

    @property
    def reward(self) -> NDArray[np.float64]:
        """Shape (rows, routes)."""
        return self.quality - self.price

    def half(self, first: int) -> Stream:
        """Every second row: 0 the half that settings are chosen on, 1 the one reported."""
        rows = len(self.embedding)
        kept = np.arange(first, rows, 2)
        requests = self.requests * len(kept) // rows
        return dataclasses.replace(
            self,
            embedding=self.embedding[kept],
            quality=self.quality[kept],
            requests=requests,
            task=self.task[kept],
        )

    def order(self, seed: int, requests: int | None = None) -> NDArray[np.int64]:
        """Which row each request asks for: all rows once before any twice, shuffled."""
        wanted, rows = requests or self.requests, len(self.embedding)
        rng = np.random.default_rng(seed)
        return np.concatenate([rng.permutation(rows) for _ in range(-(-wanted // rows))])[:wanted]


def load_stream(name: str) -> Stream:
    """One of `NAMES`.

    Raises
    ------
    StreamAbsent
        With what is missing and where it was looked for.
    """
    if name == "digits":
        return _digits()
    path = DATA / ("llmrouter9.npz" if name == "group" else f"{name}.npz")
    if not path.exists():
        raise StreamAbsent(f"{name}: there is no {path}")
    with np.load(path, allow_pickle=False) as arrays:
        found = {key: arrays[key] for key in arrays.files}
    return _group(found) if name == "group" else _models(name, found)


def _models(name: str, found: dict[str, Any]) -> Stream:
    embedding = found["embedding"].astype(np.float32)
    cost = found["cost"].astype(np.float64)
    price = COST_WEIGHT * cost / cost.max()
    quality = found["quality"].astype(np.float64)
    _, task = np.unique(found["group"], return_inverse=True)
    return Stream(name, embedding, quality, price, len(embedding), task)


def _group(found: dict[str, Any]) -> Stream:
    """The task of each row is the only right route."""
    names, task = np.unique(found["group"], return_inverse=True)
    embedding = found["embedding"].astype(np.float32)
    right = np.eye(len(names))[task]
    return Stream("group", embedding, right, np.zeros(len(names)), len(embedding), task)


def _digits() -> Stream:
    from sklearn.datasets import load_digits

    pixels, digit = load_digits(return_X_y=True)
    embedding = (pixels / np.linalg.norm(pixels, axis=1, keepdims=True)).astype(np.float32)
    return Stream("digits", embedding, np.eye(10)[digit], np.zeros(10), _DIGIT_REQUESTS, digit)
