"""The learner as daemon, standby, thread and child process: when it begins, wakes and ends."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

import sona_shm as sona
from sona_shm.learner import Learner, LearnerProcess, run
from sona_shm.loops.drain import LearnerOptions
from sona_shm.shm.layout import OFFSETS
from sona_shm.shm.waiting import wait_until
from tests.children import PATIENCE, SMALL, end, hear, start, trajectory
from tests.torture.processes import LEARNER_PID

_SLEEPING = OFFSETS["control_header.learner_sleeping"]
DAEMON = """
import logging
from sona_shm.learner import run
logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
say("up")
run(name, stop)
say("ended")
"""


def await_holder(engine: sona.Engine, pid: int) -> None:
    memory = engine._memory
    assert wait_until(
        lambda: memory.lock_states()[0] and memory.control.load(LEARNER_PID) == pid, PATIENCE
    )


@contextmanager
def daemons(name: str, count: int) -> Iterator[list[subprocess.Popen[str]]]:
    started = [start(DAEMON, name) for _ in range(count)]
    try:
        for daemon in started:
            assert hear(daemon) == "up"
        yield started
    finally:
        for daemon in started:
            end(daemon)


def test_a_standby_takes_over_when_the_holder_is_killed(name: str) -> None:
    with sona.Engine.create(name, SMALL) as engine, daemons(name, 3) as started:
        memory = engine._memory
        terms = OFFSETS["control_header.learner_terms"]
        recorded = 0
        while started:
            assert wait_until(
                lambda: memory.control.load(LEARNER_PID) in [d.pid for d in started], PATIENCE
            )
            holder = next(d for d in started if d.pid == memory.control.load(LEARNER_PID))
            await_holder(engine, holder.pid)
            recorded += 1
            assert engine.record(trajectory())
            assert engine.flush(PATIENCE)
            assert engine.instant.metrics.trajectories_processed == recorded
            end(holder)
            started.remove(holder)
        assert memory.control.load(terms) == 3
        assert wait_until(lambda: not engine.stats().learner_alive, PATIENCE)


def test_a_stopped_daemon_learns_what_is_recorded_before_it_ends(name: str) -> None:
    with sona.Engine.create(name, SMALL) as engine, daemons(name, 2) as started:
        holder_pid = engine._memory.control.load(LEARNER_PID)
        assert wait_until(lambda: engine.stats().learner_alive, PATIENCE)
        holder_pid = engine._memory.control.load(LEARNER_PID)
        holder = next(daemon for daemon in started if daemon.pid == holder_pid)
        standby = next(daemon for daemon in started if daemon is not holder)
        holder.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, holder.pid, os.WSTOPPED)
        for _ in range(10):
            assert engine.record(trajectory())
        assert engine.stats().learner_alive  # a stopped holder is still the holder
        standby.send_signal(signal.SIGTERM)
        assert standby.wait(PATIENCE) == 0
        holder.send_signal(signal.SIGTERM)
        holder.send_signal(signal.SIGCONT)
        assert holder.wait(PATIENCE) == 0
        assert engine.instant.metrics.trajectories_processed == 10
        assert not engine.stats().learner_alive


def test_run_ends_with_its_event_and_with_the_engine(name: str) -> None:
    with sona.Engine.create(name, SMALL) as engine:
        stop = threading.Event()
        thread = threading.Thread(target=run, args=(name, stop))
        thread.start()
        assert wait_until(lambda: engine.stats().learner_alive, PATIENCE)
        second_stop = threading.Event()
        second = threading.Thread(target=run, args=(name, second_stop))
        second.start()
        second_stop.set()  # a standby ends too
        second.join(PATIENCE)
        assert not second.is_alive()
        assert engine.record(trajectory())
        stop.set()
        thread.join(PATIENCE)
        assert not thread.is_alive()
        assert engine.instant.metrics.trajectories_processed == 1
        assert not engine.stats().learner_alive
    with pytest.raises(sona.EngineNotFound):
        run("t-no-such-engine", threading.Event())


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_an_own_learner_ends_with_its_engine(name: str, kind: str) -> None:
    config = SMALL
    engine = sona.Engine.create(name, config, learner=kind)  # type: ignore[arg-type]  # a parameter
    assert engine.stats().learner_alive
    for _ in range(30):
        assert engine.record(trajectory())
    engine.close()
    with sona.Engine.attach(name) as again:
        assert not again.stats().learner_alive
        assert again.instant.metrics.trajectories_processed == 30
        assert [t.name for t in threading.enumerate() if name in t.name] == []


def test_a_learner_process_that_is_still_starting_learns_before_it_ends(name: str) -> None:
    with sona.Engine.create(name, SMALL) as engine:
        assert engine.record(trajectory())
        process = LearnerProcess(name, LearnerOptions())
        process.stop()
        assert not process.is_alive
        assert engine.instant.metrics.trajectories_processed == 1


def test_a_learner_process_ends_when_its_parent_is_killed(name: str) -> None:
    with sona.Engine.create(name, SMALL) as engine:
        parent = start(
            "engine = sona.Engine.attach(name, learner='process'); record(engine, 7)\n"
            "say('on'); hear()",
            name,
        )
        try:
            assert hear(parent) == "on"
            pid = engine._memory.control.load(LEARNER_PID)
            assert engine.stats().learner_alive
            assert pid != parent.pid
            parent.kill()
            parent.wait(PATIENCE)
            assert wait_until(lambda: not engine.stats().learner_alive, PATIENCE)
            assert engine.instant.metrics.trajectories_processed == 7
        finally:
            end(parent)


@pytest.mark.parametrize("kind", ["thread", "process", "inline"])
def test_a_second_learner_is_refused(name: str, kind: str) -> None:
    with sona.Engine.create(name, SMALL, learner=kind) as engine:  # type: ignore[arg-type]  # a parameter
        with pytest.raises(sona.NotTheLearner, match=str(engine._memory.control.load(LEARNER_PID))):
            Learner(name)
        with pytest.raises(sona.NotTheLearner):
            sona.Engine.attach(name, learner="inline")
        assert engine.record(trajectory())


def test_flush_from_a_worker_is_served(name: str) -> None:
    """Nothing but the flush makes this learner publish."""
    config = sona.SonaConfig(
        hidden_dim=8, max_workers=2, flush_interval_ms=None, flush_threshold=10**6
    )
    with sona.Engine.create(name, config, learner="thread") as engine:
        worker = start(
            """
            engine = sona.Engine.attach(name)
            record(engine, 5)
            before = engine.instant.metrics.trajectories_processed
            assert engine.flush(30.0)
            say(f"{before} {engine.instant.metrics.trajectories_processed}")
            hear()
            """,
            name,
        )
        try:
            assert hear(worker) == "0 5"
        finally:
            end(worker)
    with sona.Engine.attach(name) as engine:
        assert not engine.flush(timeout=0.01)  # nobody is there to answer
        with Learner(name) as learner:
            learner.step()  # the request still stands, and is answered
            assert engine.flush(timeout=0.0) is False
            learner.step()
            control = engine._memory.control
            assert control.load(OFFSETS["control_header.flush_served"]) == control.load(
                OFFSETS["control_header.flush_requested"]
            )


def test_a_sleeping_learner_is_woken_by_a_record(name: str) -> None:
    """It sleeps for far longer than this test; only the bell can wake it."""
    with sona.Engine.create(name, SMALL) as engine, Learner(name) as learner:
        control = engine._memory.control
        for _ in range(20):
            while learner.step():
                pass
            sleeper = threading.Thread(target=learner.wait, args=(10 * PATIENCE,))
            sleeper.start()
            assert wait_until(lambda: control.load(_SLEEPING) == 1, PATIENCE)
            assert engine.record(trajectory())
            sleeper.join(PATIENCE)
            assert not sleeper.is_alive()
            assert control.load(_SLEEPING) == 0
            assert learner.step() == 1


def test_a_sleeping_learner_is_woken_by_feedback_and_by_requests(name: str) -> None:
    with sona.Engine.create(name, SMALL) as engine, Learner(name) as learner:
        control = engine._memory.control
        requests: tuple[Callable[[], object], ...] = (
            lambda: engine.feedback(engine.route([0.5] * 8).id, 0.5),
            lambda: engine.flush(timeout=0.0),
            lambda: engine.force_learn(timeout=0.0),
        )
        for ask in requests:
            while learner.step():
                pass
            sleeper = threading.Thread(target=learner.wait, args=(10 * PATIENCE,))
            sleeper.start()
            assert wait_until(lambda: control.load(_SLEEPING) == 1, PATIENCE)
            ask()
            sleeper.join(PATIENCE)
            assert not sleeper.is_alive()
            learner.step()


def test_a_learner_does_not_sleep_beside_work(name: str) -> None:
    with sona.Engine.create(name, SMALL) as engine, Learner(name) as learner:
        work: tuple[Callable[[], object], ...] = (
            lambda: engine.record(trajectory()),
            lambda: engine.flush(timeout=0.0),
            lambda: engine.force_learn(timeout=0.0),
        )
        for make in work:
            while learner.step():
                pass
            make()
            sleeper = threading.Thread(target=learner.wait, args=(10 * PATIENCE,))
            sleeper.start()
            sleeper.join(PATIENCE)
            assert not sleeper.is_alive()
            learner.step()


def test_what_a_learner_had_not_published_is_learned_again(name: str) -> None:
    config = sona.SonaConfig(hidden_dim=8, flush_interval_ms=None, flush_threshold=100)
    with sona.Engine.create(name, config) as engine:
        learner = start(
            """
            from sona_shm.learner import Learner
            learner = Learner(name)
            say("up"); hear()
            say(str(learner.step())); hear()
            """,
            name,
        )
        try:
            assert hear(learner) == "up"
            for _ in range(30):
                assert engine.record(trajectory())
            assert learner.stdin is not None
            learner.stdin.write("learn\n")
            learner.stdin.flush()
            assert hear(learner) == "30"
            assert engine.instant.metrics.trajectories_processed == 0
        finally:
            end(learner)
        with Learner(name) as successor:
            assert successor.step() == 30
        assert engine.instant.metrics.trajectories_processed == 30
