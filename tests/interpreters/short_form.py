"""The short form of the suite for an interpreter without pytest: ``python short_form.py``.

Attach, record, route, kill, fork, learner take-over, and what the resource tracker says.
"""

from __future__ import annotations

import multiprocessing
import os
import secrets
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import numpy as np

import sona_shm as sona
from sona_shm.learner import Learner

HIDDEN = 16
CONFIG = sona.SonaConfig(
    hidden_dim=HIDDEN,
    routes=(sona.Route("a", 0.1), sona.Route("b", 0.9)),
    micro_lora_lr=1.0,
    trajectory_capacity=400,
    max_workers=4,
    pending_decisions=256,
)
X = np.linspace(0.0, 1.0, HIDDEN, dtype=np.float32)
KILLS = 10
PATIENCE = 60.0


def record(engine: sona.Engine, count: int = 1) -> None:
    """Trajectories that must find room."""
    for number in range(count):
        t = sona.QueryTrajectory(number, X)
        t.add_step(sona.TrajectoryStep(X, [0.5], 0.8, 0))
        assert engine.record(t.finalize(0.7))


def check_one_process(name: str) -> None:
    """Create, record, route, learn, apply, take out, close."""
    with sona.Engine.create(name, CONFIG, learner="inline") as engine:
        record(engine, 20)
        decision = engine.route(X)
        assert engine.feedback(decision.id, 0.9)
        assert engine.instant.metrics.signals_accumulated == 21
        assert not np.array_equal(engine.apply(X), X)
        taken = engine.instant.drain_trajectories()
        assert len(taken) == 20 and np.array_equal(taken[0].query_embedding, X)
        try:
            engine.apply([float("nan")] * HIDDEN)
        except sona.NonFiniteError:
            pass
        else:
            raise AssertionError("NaN was accepted")


def fork(body: Callable[[], object]) -> int:
    """Run a function in a forked child; its process id."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads of numpy's libraries
        child = os.fork()
    if child == 0:
        status = 1
        try:
            body()
            status = 0
        finally:
            os._exit(status)
    return child


def check_fork(name: str) -> None:
    """Children of an attached parent have lanes of their own, and may close."""
    with sona.Engine.attach(name) as engine:
        record(engine)
        before = engine.stats().recorded
        lane = engine.instant._lane_index

        def body() -> None:
            record(engine, 10)
            assert engine.instant._lane_index != lane
            engine.close()

        assert os.waitpid(fork(body), 0)[1] == 0
        record(engine)
        assert engine.stats().recorded == before + 11


def check_kills(name: str) -> None:
    """Workers and learners killed in the midst of it: the books balance."""
    code = (
        "import sys, numpy as np, sona_shm as sona\n"
        "e = sona.Engine.attach(sys.argv[1]); x = np.ones(16, np.float32)\n"
        "t = sona.QueryTrajectory(1, x).finalize(0.5)\n"
        "print('up', flush=True)\n"
        "while True: e.record(t); e.feedback(e.route(x).id, 0.5)\n"
    )
    rng = np.random.default_rng(secrets.randbits(32))
    with sona.Engine.attach(name) as engine:
        for turn in range(KILLS):
            command = [sys.executable, "-c", code, name]
            with subprocess.Popen(command, stdout=subprocess.PIPE) as worker:
                assert worker.stdout is not None and worker.stdout.readline() == b"up\n"
                learner = Learner(name)
                for _ in range(int(rng.integers(2000))):
                    learner.step()
                worker.kill()
            if turn % 2:
                learner.close()
            else:  # dies without a last publication
                learner._drain.close()
                learner._memory.close()
        with Learner(name) as learner:
            learner._drain.flush()
            stats = engine.stats()
        counters = stats.counters
        assert stats.recorded == (counters.trajectories_processed + counters.feedback_processed), (
            stats
        )
        assert counters.lanes_quarantined == 0
        others = [sona.Engine.attach(name) for _ in range(CONFIG.max_workers)]
        for other in others:
            record(other)
            other.close()


def in_child(name: str) -> None:
    """For spawn and forkserver."""
    with sona.Engine.attach(name) as engine:
        record(engine)


def check_tracker(name: str) -> None:
    """Processes with trackers of their own and with a shared one; none may unlink anything."""
    other = shared_memory.SharedMemory(create=True, size=64)  # starts the tracker
    for method in ("spawn", "forkserver"):
        context: Any = multiprocessing.get_context(method)
        child = context.Process(target=in_child, args=(name,))
        child.start()
        child.join(PATIENCE)
        assert child.exitcode == 0
    code = (
        "import sys, sona_shm as sona; from multiprocessing import resource_tracker as r\n"
        "r.ensure_running(); e = sona.Engine.attach(sys.argv[1])\n"
        "print('up', flush=True); sys.stdin.readline()\n"
    )
    for ending in (None, signal.SIGKILL):
        command = [sys.executable, "-W", "always", "-c", code, name]
        child_process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert child_process.stdout is not None
        assert child_process.stdout.readline() == b"up\n"
        if ending is not None:
            child_process.send_signal(ending)
        # The pipes end when the child's tracker has ended too.
        _, errors = child_process.communicate(b"\n", timeout=PATIENCE)
        assert errors == b"", errors
        sona.Engine.attach(name).close()
    other.close()
    other.unlink()


def main() -> None:
    """Everything on one engine, which must be whole to the end."""
    name = f"short-{secrets.token_hex(5)}"
    try:
        for check in (check_one_process, check_fork, check_kills, check_tracker):
            check(name)
            print(check.__name__, "ok", flush=True)
        assert len(list(Path("/dev/shm").glob(f"*{name}*"))) == 4
    finally:
        sona.Engine.destroy(name)
    assert list(Path("/dev/shm").glob(f"*{name}*")) == []
    print("all ok", sys.version.split()[0])


if __name__ == "__main__":
    main()
