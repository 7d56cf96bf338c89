"""One worker process of the demonstration."""

from __future__ import annotations

import signal
import time
from multiprocessing.connection import Connection
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sona_shm.demo.stream import Stream
from sona_shm.engine import Engine

# A stand-in for the model's answer: the worker learns how good it was this much later.
ANSWER_SECONDS: Final = 0.0005


class Served(NamedTuple):
    """What one worker did, request by request."""

    decided_ns: NDArray[np.int64]
    reward: NDArray[np.float32]
    latency_ns: NDArray[np.int64]


def serve(name: str, stream: Stream, rows: NDArray[np.int64], results: Connection) -> None:
    """Attach by name, wait for the start, answer the requests, send back what happened."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    reward = stream.reward
    served = Served(
        np.empty(len(rows), np.int64),
        np.empty(len(rows), np.float32),
        np.empty(len(rows), np.int64),
    )
    with Engine.attach(name) as engine:
        results.send("ready")
        results.recv()
        for i, row in enumerate(rows):
            started = time.monotonic_ns()
            decision = engine.route(stream.embedding[row])
            served.latency_ns[i] = time.monotonic_ns() - started
            served.decided_ns[i] = started
            time.sleep(ANSWER_SECONDS)
            engine.feedback(decision.id, float(stream.quality[row, decision.index]))
            served.reward[i] = reward[row, decision.index]
    results.send(served)
