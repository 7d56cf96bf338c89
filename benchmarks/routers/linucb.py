"""Disjoint LinUCB (Li et al. 2010): ridge regression of reward for each route, upper bounds."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from routers.episode import Episode

SETTINGS: Final[tuple[dict[str, Any], ...]] = tuple(
    {"alpha": alpha, "ridge": ridge} for alpha in (0.05, 0.2, 0.6) for ridge in (0.3, 3.0)
)


class LinUCBRouter:
    """With Sherman-Morrison updates of the inverse, and the price known, as ours has it."""

    def __init__(self, episode: Episode, seed: int, settings: dict[str, Any]) -> None:
        del seed  # LinUCB draws nothing
        self._stream = episode.stream
        self._alpha: float = settings["alpha"]
        routes, self._dim = episode.routes, episode.stream.embedding.shape[1] + 1
        self._ridge: float = settings["ridge"]
        eye = np.eye(self._dim, dtype=np.float32) / np.float32(self._ridge)
        self._inverse = np.repeat(eye[None], routes, axis=0)
        self._moment = np.zeros((routes, self._dim), np.float32)
        self._theta = np.zeros_like(self._moment)

    def _features(self, row: int) -> Any:
        return np.append(self._stream.embedding[row], np.float32(0.3))

    def decide(self, row: int) -> int:
        """The largest upper confidence bound of reward."""
        x = self._features(row)
        width = np.sqrt(np.maximum((self._inverse @ x) @ x, 0.0))
        price = self._stream.price[: len(width)]
        return int(np.argmax(self._theta @ x + self._alpha * width - price))

    def learn(self, row: int, route: int, quality: float) -> None:
        """One step of the ridge of the chosen route."""
        x = self._features(row)
        gain = self._inverse[route] @ x
        self._inverse[route] -= np.outer(gain, gain / (1.0 + x @ gain))
        self._moment[route] += np.float32(quality) * x
        self._theta[route] = self._inverse[route] @ self._moment[route]

    def add_route(self) -> None:
        """A new route begins with its prior."""
        eye = np.eye(self._dim, dtype=np.float32) / np.float32(self._ridge)
        self._inverse = np.concatenate([self._inverse, eye[None]])
        self._moment = np.concatenate([self._moment, np.zeros((1, self._dim), np.float32)])
        self._theta = np.concatenate([self._theta, np.zeros((1, self._dim), np.float32)])

    def close(self) -> None:
        """Nothing to let go."""
