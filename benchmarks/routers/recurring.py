"""Two sets of tasks with different best routes, one after the other: A, B, A, B."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from routers.episode import Episode, play
from routers.ours import OurRouter
from routers.streams import Stream
from routers.tasks import stream_of

PHASES = ("A", "B", "A again", "B again")


@dataclasses.dataclass(frozen=True)
class Recurring:
    """One order of one schedule.

    Attributes
    ----------
    stream : str
    half : int or None
        None for all rows, 0 or 1 for the even or odd ones.
    settings : tuple
        Of our router, frozen.
    seed : int
    absence : int
        Passes over the rows of B before A returns; 0 splits the rows, so that no row of A or B is
        ever asked twice.
    """

    stream: str
    half: int | None
    settings: tuple[tuple[str, Any], ...]
    seed: int
    absence: int


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


def run(task: Recurring) -> list[NDArray[np.float32]]:
    """The rewards of each phase."""
    stream = stream_of(task.stream, task.half)
    phases = schedule(stream, task.seed, task.absence)
    order = np.concatenate(phases)
    played_in = Episode(stream, order, len(order), stream.quality, len(stream.price))
    router = OurRouter(played_in, task.seed, dict(task.settings))
    played = play(router, played_in)
    return np.split(played.reward, np.cumsum([len(phase) for phase in phases])[:-1])
