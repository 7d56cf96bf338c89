"""Several worker processes with a learner of their own against one that learns as it decides."""

from __future__ import annotations

import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

import sona_shm as sona
from routers import episode
from routers.ours import OurRouter, engine_config, engine_name
from routers.streams import Stream
from routers.tables import ALL, mean_of
from routers.tasks import stream_of

WORKERS: Final = 4
#: A model's answer takes this long; 0 is the hardest case, in which workers outrun the learner.
ANSWER_SECONDS: Final = (0.0005, 0.0)
_PATIENCE: Final = 60.0


def serve(
    name: str, stream: Stream, rows: NDArray[np.int64], answer: float, results: Connection
) -> None:
    """Body of a worker: its share of the requests, feedback after each."""
    reward = np.empty(len(rows))
    with sona.Engine.attach(name) as engine:
        results.send("ready")
        results.recv()
        for i, row in enumerate(rows):
            decision = engine.route(stream.embedding[row])
            if answer:
                time.sleep(answer)
            quality = float(stream.quality[row, decision.index])
            while not engine.feedback(decision.id, quality):
                time.sleep(0.001)  # a full lane: the learner is behind
            reward[i] = quality - stream.price[decision.index]
    results.send(reward)


def _receive(connection: Connection) -> Any:
    if not connection.poll(_PATIENCE):
        raise TimeoutError(f"a worker did not answer within {_PATIENCE:g} s")
    return connection.recv()


def four_workers(played_in: episode.Episode, seed: int, answer: float) -> float:
    """Mean reward of a pass that four workers share."""
    context = get_context("spawn")
    name = engine_name()
    config = engine_config(played_in, seed, WORKERS, {})
    engine = sona.Engine.create(name, config, learner="process")
    processes, connections = [], []
    try:
        for i in range(WORKERS):
            mine, theirs = context.Pipe()
            rows = played_in.order[i::WORKERS]
            process = context.Process(
                target=serve, args=(name, played_in.stream, rows, answer, theirs)
            )
            process.start()
            processes.append(process)
            connections.append(mine)
        for connection in connections:
            _receive(connection)
        for connection in connections:
            connection.send("go")
        return float(np.concatenate([_receive(c) for c in connections]).mean())
    finally:
        for process in processes:
            process.kill()
            process.join()
        engine.close()
        sona.Engine.destroy(name)


def inline(played_in: episode.Episode, seed: int) -> float:
    """Mean reward of a pass in one process."""
    return episode.play(OurRouter(played_in, seed, {}), played_in).mean


def workers_table(streams: list[str], orders: int) -> dict[str, Any]:
    """Reward of both, and the paired difference."""
    figures: dict[str, Any] = {}
    for name in streams:
        stream = stream_of(name, ALL)
        one: list[float] = []
        four: dict[float, list[float]] = {answer: [] for answer in ANSWER_SECONDS}
        for seed in track(range(orders), name, transient=True):
            played_in = episode.plain(stream, seed)
            one.append(inline(played_in, seed))
            for answer, rewards in four.items():
                rewards.append(four_workers(played_in, seed, answer))
        figures[name] = {"inline": mean_of(one)}
        for answer, rewards in four.items():
            label = f"{WORKERS} workers, answers in {1e3 * answer:g} ms"
            figures[name][label] = mean_of(rewards)
            figures[name][f"{label}: difference"] = mean_of(np.subtract(rewards, one))
    return figures


def print_workers(console: Console, figures: dict[str, Any]) -> None:
    """One column for each stream."""
    table = Table(title=f"{WORKERS} workers and a learner process against learning inline")
    table.add_column("")
    for name in figures:
        table.add_column(name, justify="right")
    for row in next(iter(figures.values()), {}):
        table.add_row(row, *(str(found[row]) for found in figures.values()))
    console.print(table)
