"""What monitoring costs workers: the request path with ``sona top`` and ``sona serve`` at work.

The operations of ``hotpath.py`` at one dimension, while a live view looks once a second, a web
monitor samples once a second, and a scraper asks it for its metrics once a second.  Monitors run
all the time: in every other round they are stopped (SIGSTOP), so that whatever else the machine
does meets both.  Rounds last longer than the monitors' interval.  "ratio" is the mean over pairs
of rounds of the time with monitors by that without; "± SE" its standard error.  "noise" is the
same with no monitors in either round of a pair.

    python benchmarks/monitoring.py [--json] [--quick]
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
import timeit
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from hotpath import BATCH, ROUTES, teach
from timing import report

import sona_shm as sona
from sona_shm.loops.drain import DrainLoop
from sona_shm.shm.life_cycle import attach_memory
from sona_shm.shm.waiting import wait_until

DIM = 384
PATIENCE_SECONDS = 30.0
SCRAPER = """
import sys, time, urllib.request
while True:
    urllib.request.urlopen(sys.argv[1]).read()
    time.sleep(1.0)
"""


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def answers(url: str) -> bool:
    """Whether a web server is there."""
    try:
        with urllib.request.urlopen(url, timeout=1.0) as answer:
            return bool(answer.read())
    except OSError:
        return False


class Monitors:
    """Processes that look at an engine; stopped and continued together."""

    def __init__(self, name: str) -> None:
        url = f"http://127.0.0.1:{(port := free_port())}/metrics"
        sona_command = [sys.executable, "-m", "sona_shm.cli"]
        commands = (
            [*sona_command, "top", name, "--json", "--interval", "1"],
            [*sona_command, "serve", name, "--port", str(port)],
        )
        self._processes = [
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for command in commands
        ]
        if not wait_until(lambda: answers(url), PATIENCE_SECONDS):
            self.kill()
            raise RuntimeError("sona serve does not answer")
        self._processes.append(subprocess.Popen([sys.executable, "-c", SCRAPER, url]))

    def signal(self, number: signal.Signals) -> None:
        """To each of them; one that has ended is an error."""
        for process in self._processes:
            if process.poll() is not None:
                raise RuntimeError(f"a monitor has ended with status {process.returncode}")
            process.send_signal(number)

    def kill(self) -> None:
        """End all."""
        for process in self._processes:
            process.kill()
            process.wait()


@contextmanager
def monitors(name: str) -> Iterator[Monitors]:
    """Monitors that are ended at the end."""
    running = Monitors(name)
    try:
        yield running
    finally:
        running.kill()


class Operation:
    """One operation of the request path, repeated for a while."""

    def __init__(
        self, statement: str, names: dict[str, Any], between: Callable[[], object]
    ) -> None:
        self._timer = timeit.Timer(statement, globals=names)
        self._between = between

    def nanoseconds(self, seconds: float) -> float:
        """Mean time of one execution, over so many seconds with what lies between."""
        taken, count, end = 0.0, 0, time.monotonic() + seconds
        while time.monotonic() < end:
            taken += self._timer.timeit(BATCH)
            count += BATCH
            self._between()
        return taken / count * 1e9


def operations(engine: sona.Engine, drain: DrainLoop) -> dict[str, Operation]:
    """What a worker does, by name."""
    rng = np.random.default_rng(0)
    x, activations = (rng.standard_normal(DIM).astype(np.float32) for _ in range(2))
    x /= np.linalg.norm(x)
    trajectory = sona.QueryTrajectory(1, x)
    trajectory.add_step(sona.TrajectoryStep(activations, [], 0.8, 0))
    trajectory.finalize(0.8, 1000)
    names = {"engine": engine, "x": x, "out": np.empty_like(x), "ready": trajectory}
    statements = {
        "apply": "engine.apply(x, out=out)",
        f"route, K = {ROUTES}": "engine.route(x)",
        "route + feedback": "engine.feedback(engine.route(x).id, 0.5)",
        "record": "engine.record(ready)",
    }
    return {name: Operation(code, names, drain.flush) for name, code in statements.items()}


def ratios(
    operation: Operation, running: Monitors, rounds: int, seconds: float, *, monitored: bool
) -> tuple[float, list[float]]:
    """Median nanoseconds of the second round of each pair, and its ratios to the first.

    Which of the two comes first alternates.
    """
    times: list[float] = []
    found = []
    for turn in range(rounds):
        pair = {}
        for second in (bool(turn % 2), not turn % 2):
            running.signal(signal.SIGCONT if second and monitored else signal.SIGSTOP)
            pair[second] = operation.nanoseconds(seconds)
        times.append(pair[True])
        found.append(pair[True] / pair[False])
    return statistics.median(times), found


def measure(rounds: int, seconds: float) -> Iterator[dict[str, Any]]:
    """One row an operation."""
    routes = [sona.Route(f"r{k}", cost=0.1 * k) for k in range(ROUTES)]
    config = sona.SonaConfig(hidden_dim=DIM, routes=routes, flush_interval_ms=None, seed=1)
    name = f"monitored-{os.getpid()}"
    with sona.Engine.create(name, config) as engine:
        memory = attach_memory(name)
        drain = DrainLoop(memory, config)
        try:
            teach(engine, drain, DIM)
            with monitors(name) as running:
                for label, operation in operations(engine, drain).items():
                    _, noise = ratios(operation, running, rounds, seconds, monitored=False)
                    ns, found = ratios(operation, running, rounds, seconds, monitored=True)
                    yield {
                        "operation": label,
                        "ns, monitored": ns,
                        "ratio": statistics.fmean(found),
                        "± SE": _standard_error(found),
                        "noise": statistics.fmean(noise),
                        "noise ± SE": _standard_error(noise),
                    }
        finally:
            drain.close()
            memory.close()
            sona.Engine.destroy(name)


def _standard_error(values: list[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="few and short rounds")
    options = parser.parse_args()
    rows = list(measure(3, 0.2) if options.quick else measure(10, 1.2))
    report("request path, monitored", list(rows[0]), rows, as_json=options.json)


if __name__ == "__main__":
    main()
