"""How soon a record made in one process changes ``apply`` in another.

Three processes: this one records, one learns, one reads in a loop until what it reads changes.
``flush_threshold=1``; each record is made after the former was seen and after a random pause, so
that the learner sleeps when it comes, as it does at the rate of real requests.  The peer is the
time that one byte takes through a ``multiprocessing.Pipe`` to a process that waits for it, under
the same conditions.

    python benchmarks/visibility.py [--json] [--records 2000]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import time
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from timing import report

import sona_shm as sona

DIM = 384
TIMEOUT_SECONDS = 10.0


def unit_vector() -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """What is recorded and read."""
    return np.full(DIM, DIM**-0.5, np.float32)


def read_until_changed(name: str, connection: Connection) -> None:
    """Reader process: for each request, spin on apply until it changes, answer with the time."""
    x = unit_vector()
    out = np.empty_like(x)
    with sona.Engine.attach(name) as engine:
        engine.apply(x, out=out)
        last = out.tobytes()
        connection.send(0)
        while connection.recv():
            connection.send(0)
            deadline = time.monotonic() + TIMEOUT_SECONDS
            while out.tobytes() == last and time.monotonic() < deadline:
                engine.apply(x, out=out)
            seen = time.monotonic_ns()
            if out.tobytes() == last:
                break  # the parent's wait runs out, which is its error
            last = out.tobytes()
            connection.send(seen)


def answer_pipe(connection: Connection) -> None:
    """Peer process: says when a byte arrived."""
    connection.send(0)
    while connection.recv_bytes() == b"x":
        connection.send(time.monotonic_ns())


def receive(connection: Connection) -> int:
    """The next message, within a bounded time."""
    if not connection.poll(TIMEOUT_SECONDS):
        raise TimeoutError("the other process did not answer")
    value: int = connection.recv()
    return value


def pause(rng: random.Random) -> None:
    """Long enough for every process but the reader to fall asleep."""
    time.sleep(rng.uniform(0.0005, 0.0015))


def measure_visibility(records: int) -> list[float]:
    """Microseconds from the call of record to the changed apply."""
    rng = random.Random(0)
    embedding = unit_vector()
    activations = np.random.default_rng(0).standard_normal((64, DIM)).astype(np.float32)
    name = f"visibility-{os.getpid()}"
    config = sona.SonaConfig(
        hidden_dim=DIM,
        flush_threshold=1,
        max_workers=2,
        micro_lora_lr=1.0,  # so that every record changes the result beyond its last bit
    )
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with sona.Engine.create(name, config, learner="process") as engine:
        reader = context.Process(target=read_until_changed, args=(name, theirs), daemon=True)
        reader.start()
        try:
            receive(ours)
            microseconds = []
            for i in range(records):
                t = sona.QueryTrajectory(i, embedding)
                t.add_step(sona.TrajectoryStep(activations[i % 64], [], float(i % 2), 0))
                t.finalize(float(i % 2))
                ours.send(True)
                receive(ours)
                pause(rng)
                started = time.monotonic_ns()
                engine.record(t)
                microseconds.append((receive(ours) - started) / 1e3)
            ours.send(False)
            reader.join(TIMEOUT_SECONDS)
        finally:
            reader.kill()
            sona.Engine.destroy(name)
    return microseconds


def measure_pipe(records: int) -> list[float]:
    """Microseconds for one byte through a pipe to a waiting process."""
    rng = random.Random(0)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    peer = context.Process(target=answer_pipe, args=(theirs,), daemon=True)
    peer.start()
    try:
        receive(ours)
        microseconds = []
        for _ in range(records):
            pause(rng)
            started = time.monotonic_ns()
            ours.send_bytes(b"x")
            microseconds.append((receive(ours) - started) / 1e3)
        ours.send_bytes(b"end")
        peer.join(TIMEOUT_SECONDS)
    finally:
        peer.kill()
    return microseconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--records", type=int, default=2000)
    options = parser.parse_args()
    figures = {
        "record -> changed apply": measure_visibility(options.records),
        "one byte through a pipe": measure_pipe(options.records),
    }
    peer = float(np.median(figures["one byte through a pipe"]))
    rows: list[dict[str, Any]] = []
    for what, microseconds in figures.items():
        median, p99 = (float(np.percentile(microseconds, q)) for q in (50, 99))
        row = {"what": what, "median us": median, "p99 us": p99, "ratio": median / peer}
        if what.startswith("record"):
            row["budget"] = "median <= 100, p99 <= 1000"
            row["met"] = "yes" if median <= 100.0 and p99 <= 1000.0 else "NO"
        rows.append(row)
    columns = ["what", "median us", "p99 us", "ratio", "budget", "met"]
    report(f"visibility, dim {DIM}, {options.records} records", columns, rows, as_json=options.json)


if __name__ == "__main__":
    main()
