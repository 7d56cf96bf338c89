"""Two sets of tasks with different best routes, one after the other: A, B, A, B."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from routers.episode import Episode, play, schedule
from routers.ours import OurRouter
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


def run(task: Recurring) -> list[NDArray[np.float32]]:
    """The rewards of each phase."""
    stream = stream_of(task.stream, task.half)
    phases = schedule(stream, task.seed, task.absence)
    order = np.concatenate(phases)
    played_in = Episode(stream, order, len(order), stream.quality, len(stream.price))
    router = OurRouter(played_in, task.seed, dict(task.settings))
    played = play(router, played_in)
    return np.split(played.reward, np.cumsum([len(phase) for phase in phases])[:-1])
