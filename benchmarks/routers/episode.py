"""One pass over a stream, with or without a change in the middle, and how a router plays it."""

from __future__ import annotations

import dataclasses
import time
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from routers.streams import Stream


class Router(Protocol):
    """What is compared."""

    def decide(self, row: int) -> int:
        """The route for a row of the stream."""

    def learn(self, row: int, route: int, quality: float) -> None:
        """The quality of the route that was just chosen."""

    def add_route(self) -> None:
        """The next route of the stream is there from now on."""

    def close(self) -> None:
        """Let go of everything."""


@dataclasses.dataclass(frozen=True, eq=False)
class Episode:
    """Requests in order.

    Attributes
    ----------
    stream : Stream
    order : numpy.ndarray of int64, shape (requests,)
    change : int
        Request at which the world changes; the number of requests if it does not.
    quality : numpy.ndarray of float64, shape (rows, routes)
        From the change on.
    routes : int
        That exist before the change.
    """

    stream: Stream
    order: NDArray[np.int64]
    change: int
    quality: NDArray[np.float64]
    routes: int


def plain(stream: Stream, seed: int) -> Episode:
    """Nothing changes."""
    order = stream.order(seed)
    return Episode(stream, order, len(order), stream.quality, stream.quality.shape[1])


def _best_and_worst(stream: Stream) -> tuple[int, int]:
    mean = stream.reward.mean(axis=0)
    return int(mean.argmax()), int(stream.quality.mean(axis=0).argmin())


def drop(stream: Stream, seed: int) -> Episode:
    """After one pass, the best route becomes as bad as the worst, for every row."""
    best, worst = _best_and_worst(stream)
    quality = stream.quality.copy()
    quality[:, best] = stream.quality[:, worst]
    return _changed(stream, seed, quality)


def swap(stream: Stream, seed: int) -> Episode:
    """After one pass, the best and the worst route exchange their qualities."""
    best, worst = _best_and_worst(stream)
    quality = stream.quality.copy()
    quality[:, [best, worst]] = stream.quality[:, [worst, best]]
    return _changed(stream, seed, quality)


def _changed(stream: Stream, seed: int, quality: NDArray[np.float64]) -> Episode:
    order = stream.order(seed, 2 * stream.requests)
    return Episode(stream, order, stream.requests, quality, stream.quality.shape[1])


def arrival(stream: Stream, seed: int) -> Episode:
    """After one pass, the best route comes; it is the last column."""
    best, _ = _best_and_worst(stream)
    columns = [k for k in range(stream.quality.shape[1]) if k != best] + [best]
    later = dataclasses.replace(
        stream, quality=stream.quality[:, columns], price=stream.price[columns]
    )
    order = later.order(seed, 2 * later.requests)
    return Episode(later, order, later.requests, later.quality, len(columns) - 1)


def rows_of_first(stream: Stream) -> NDArray[np.bool_]:
    """Which rows belong to A: tasks that have the most common best route, or half of the tasks."""
    best = np.array([stream.reward[stream.task == t].mean(axis=0).argmax() for t in _tasks(stream)])
    if len(set(best)) == len(best):  # to each task its own route
        return np.isin(stream.task, _tasks(stream)[: len(best) // 2])
    rows = np.array([np.count_nonzero(stream.task == t) for t in _tasks(stream)])
    common = max(set(best), key=lambda route: int(rows[best == route].sum()))
    return np.isin(stream.task, _tasks(stream)[best == common])


def _tasks(stream: Stream) -> NDArray[np.int64]:
    return np.unique(stream.task)


def schedule(stream: Stream, seed: int, absence: int) -> list[NDArray[np.int64]]:
    """The rows of each phase, in order."""
    rng = np.random.default_rng(seed)
    first = rows_of_first(stream)
    a, b = rng.permutation(np.flatnonzero(first)), rng.permutation(np.flatnonzero(~first))
    if absence == 0:
        (a1, a2), (b1, b2) = np.array_split(a, 2), np.array_split(b, 2)
        return [a1, b1, a2, b2]
    away = np.concatenate([rng.permutation(b) for _ in range(absence)])
    return [a, away, rng.permutation(a), rng.permutation(b)]


def recurring(stream: Stream, seed: int) -> Episode:
    """A, B, A, B, every row once; to a router nothing says so."""
    order = np.concatenate(schedule(stream, seed, absence=0))
    return Episode(stream, order, len(order), stream.quality, len(stream.price))


@dataclasses.dataclass(frozen=True, eq=False)
class Played:
    """What one router earned in one episode.

    Attributes
    ----------
    reward : numpy.ndarray of float32, shape (requests,)
    route : numpy.ndarray of int16, shape (requests,)
    microseconds : float
        Per request, deciding and learning.
    """

    reward: NDArray[np.float32]
    route: NDArray[np.int16]
    microseconds: float

    @property
    def mean(self) -> float:
        """Over the whole pass."""
        return float(self.reward.mean())

    @property
    def last_quarter(self) -> float:
        """Over its last quarter."""
        return float(self.reward[-(len(self.reward) // 4) :].mean())


def play(router: Router, episode: Episode) -> Played:
    """Decide, look, learn; request by request."""
    stream, requests = episode.stream, len(episode.order)
    reward, route = np.empty(requests, np.float32), np.empty(requests, np.int16)
    quality = stream.quality
    started = time.perf_counter()
    for i, row in enumerate(episode.order):
        if i == episode.change:
            quality = episode.quality
            if episode.routes < quality.shape[1]:
                router.add_route()
        k = router.decide(int(row))
        answer = float(quality[row, k])
        router.learn(int(row), k, answer)
        reward[i], route[i] = answer - stream.price[k], k
    seconds = time.perf_counter() - started
    router.close()
    return Played(reward, route, 1e6 * seconds / requests)
