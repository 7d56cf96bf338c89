"""What the benchmark's processes do: one router, one stream, one order."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from multiprocessing import get_context
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from routers import episode
from routers.linucb import LinUCBRouter
from routers.ours import OurRouter
from routers.streams import Stream, load_stream
from routers.vowpal import VowpalRouter

ROUTERS: Final[dict[str, Callable[..., episode.Router]]] = {
    "sona_shm": OurRouter,
    "VowpalWabbit": VowpalRouter,
    "LinUCB": LinUCBRouter,
}
SCENARIOS: Final[dict[str, Callable[[Stream, int], episode.Episode]]] = {
    "plain": episode.plain,
    "drop": episode.drop,
    "swap": episode.swap,
    "arrival": episode.arrival,
    "recurring": episode.recurring,
}
_CURVE_POINTS: Final = 200
_AFTER: Final = 3000  # requests after a change that are looked at one by one


@dataclasses.dataclass(frozen=True)
class Task:
    """One pass.  `half` is None for all rows, 0 or 1 for the even or odd ones."""

    router: str
    settings: tuple[tuple[str, Any], ...]
    stream: str
    half: int | None
    scenario: str
    seed: int


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """What a pass earned; `after` and `routes` are request by request from the change on."""

    task: Task
    mean: float
    last_quarter: float
    microseconds: float
    curve: NDArray[np.float64]
    after: NDArray[np.float32]
    routes: NDArray[np.int16]


@lru_cache(maxsize=8)
def stream_of(name: str, half: int | None) -> Stream:
    """A stream or one half of it, loaded once in each process."""
    stream = load_stream(name)
    return stream if half is None else stream.half(half)


def run(task: Task) -> Result:
    """Play one pass."""
    played_in = SCENARIOS[task.scenario](stream_of(task.stream, task.half), task.seed)
    router = ROUTERS[task.router](played_in, task.seed, dict(task.settings))
    played = episode.play(router, played_in)
    running = played.reward.cumsum(dtype=np.float64) / np.arange(1, len(played.reward) + 1)
    points = np.linspace(0, len(running) - 1, _CURVE_POINTS).astype(np.int64)
    return Result(
        task,
        played.mean,
        played.last_quarter,
        played.microseconds,
        running[points],
        played.reward[played_in.change :][:_AFTER],
        played.route[played_in.change :][:_AFTER],
    )


def run_all(tasks: Iterable[Task], jobs: int, what: str) -> list[Result]:
    """All of them, in processes of their own; the results in the order of the tasks."""
    tasks = list(tasks)
    # Each router is timed on one core; more threads would only get into one another's way.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        done = pool.map(run, tasks)
        # On standard error: the figures may go to a program.
        console = Console(stderr=True)
        return list(track(done, what, len(tasks), transient=True, console=console))
