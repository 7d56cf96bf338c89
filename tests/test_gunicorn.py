"""The hooks under a real gunicorn: workers, lanes and learners come, go, are killed, reloaded."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

import sona_shm as sona
from sona_shm.shm.waiting import wait_until
from tests.test_stats import assert_adds_up
from tests.web.servers import PATIENCE, Server, is_running, server

CONFIG = """
hidden_dim = 8
max_workers = {lanes}
pending_decisions = 64
trajectory_capacity = 500
[[routes]]
name = "a"
[[routes]]
name = "b"
"""
UVICORN = "uvicorn_worker.UvicornWorker"


class Gunicorn:
    """Starts gunicorn as tools/gunicorn/gunicorn.conf.py has it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder

    def __call__(
        self,
        *arguments: str,
        kind: str = "sync",
        workers: int = 2,
        learners: int = 1,
        lanes: int = 8,
    ) -> AbstractContextManager[Server]:
        config = self.folder / "engine.toml"
        config.write_text(CONFIG.format(lanes=lanes))
        form = "asgi" if kind == UVICORN else "wsgi"
        environment = {
            "APPLICATION": f"tests.web.applications:{form}",
            "WORKER_CLASS": kind,
            "BIND": "127.0.0.1:0",
            "WORKERS": str(workers),
            "ENGINE": self.name,
            "ENGINE_CONFIG": str(config),
            "LEARNERS": str(learners),
        }
        command = ["gunicorn", "-c", "tools/gunicorn/gunicorn.conf.py", "--no-control-socket"]
        return server(self.folder / "log", *command, *arguments, environment=environment)

    def attach(self) -> sona.Engine:
        return sona.Engine.attach(self.name)


@pytest.fixture
def gunicorn(name: str, tmp_path: Path) -> Iterator[Gunicorn]:
    yield Gunicorn(name, tmp_path)


def workers_are_up(running: Server, count: int) -> list[int]:
    """Wait for so many workers with a lane; their process ids."""
    running.await_log(r"Listening at")

    def up() -> bool:
        pids, log = running.workers, running.log
        return len(pids) == count and all(f"sona: worker {pid} has lane" in log for pid in pids)

    assert wait_until(up, PATIENCE), running.log
    return running.workers


def requests(running: Server, count: int) -> set[int]:
    """Send requests, all of which must be answered; who answered."""
    answers = [running.get() for _ in range(count)]
    assert all(answer["recorded"] for answer in answers)
    return {answer["pid"] for answer in answers}


def assert_learned(engine: sona.Engine, outcomes: int) -> None:
    assert engine.flush(PATIENCE)
    stats = engine.stats()
    assert_adds_up(stats)
    assert stats.counters.outcomes_learned == outcomes


@pytest.mark.parametrize(
    ("kind", "preload"),
    [("sync", True), ("gthread", False), (UVICORN, False), (UVICORN, True)],
)
def test_a_server_s_life(gunicorn: Gunicorn, kind: str, preload: bool) -> None:
    options = ["--preload"] if preload else []
    with gunicorn(*options, kind=kind) as running:
        first = workers_are_up(running, 2)
        assert requests(running, 20) <= set(first)
        with gunicorn.attach() as engine:
            assert_learned(engine, 20)
            assert sorted(lane.pid for lane in engine.stats().lanes if lane.alive) == sorted(first)

            os.kill(first[0], signal.SIGKILL)
            running.await_log(rf"sona: worker {first[0]} has gone; lane \d is free")
            second = workers_are_up(running, 2)
            assert first[0] not in second
            requests(running, 10)

            learners = running.learners
            running.signal(signal.SIGHUP)
            assert wait_until(lambda: not set(running.workers) & set(second), PATIENCE)
            workers_are_up(running, 2)
            assert running.learners == learners
            assert not set(second) & requests(running, 10)

            assert running.end() == 0
            running.assert_all_gone()
            stats = engine.stats()
            assert_adds_up(stats)
            assert stats.counters.outcomes_learned == stats.decisions == 40
            assert [lane for lane in stats.lanes if lane.alive] == []


def test_workers_of_few_requests_each(gunicorn: Gunicorn) -> None:
    with gunicorn("--max-requests", "5") as running, wait_for_engine(running, gunicorn) as engine:
        assert len(requests(running, 40)) >= 4
        assert running.end() == 0
        assert_adds_up(engine.stats())
        assert engine.stats().counters.outcomes_learned == 40


def wait_for_engine(running: Server, gunicorn: Gunicorn) -> sona.Engine:
    running.await_log("sona: engine")
    return gunicorn.attach()


def test_a_worker_that_hangs_is_killed_and_what_it_recorded_is_learned(gunicorn: Gunicorn) -> None:
    with gunicorn("--timeout", "1", workers=1) as running:
        (hanging,) = workers_are_up(running, 1)
        with pytest.raises(OSError):
            running.get("/hang")
        running.await_log(rf"Worker \(pid:{hanging}\) was sent SIGKILL")
        running.await_log(rf"worker {hanging} has gone; lane 0 is free; it decided 1, recorded 1")
        requests(running, 1)
        with gunicorn.attach() as engine:
            assert_learned(engine, 2)
        assert running.end() == 0


def test_learners_end_with_a_killed_master(gunicorn: Gunicorn) -> None:
    with gunicorn("--timeout", "2", learners=2) as running:
        workers = workers_are_up(running, 2)
        requests(running, 5)
        learners = running.learners
        assert len(learners) == 2
        for worker in workers:  # they would end by themselves, and close what they have inherited
            os.kill(worker, signal.SIGSTOP)
        running.signal(signal.SIGKILL)
        running.process.wait(PATIENCE)
        assert wait_until(lambda: not any(map(is_running, learners)), PATIENCE)
        for worker in workers:
            os.kill(worker, signal.SIGCONT)
        running.assert_all_gone()
        with gunicorn.attach() as engine:
            assert engine.stats().counters.outcomes_learned == 5


def test_a_standby_learns_and_the_dead_learner_is_replaced(gunicorn: Gunicorn) -> None:
    with gunicorn(learners=2) as running:
        victim, _ = workers_are_up(running, 2)
        with gunicorn.attach() as engine:
            assert wait_until(lambda: engine.stats().learner_alive, PATIENCE)
            holder = engine.stats().learner_pid
            standby = [pid for pid in running.learners if pid != holder]
            os.kill(holder, signal.SIGKILL)
            requests(running, 5)
            assert_learned(engine, 5)
            assert [engine.stats().learner_pid] == standby
            os.kill(victim, signal.SIGKILL)
            (started,) = running.await_log(r"a learner of .* had died; started (\d+)")
            assert sorted(running.learners) == sorted([*standby, int(started)])
        workers_are_up(running, 2)  # gunicorn waits half a minute for one that it stops too early
        assert running.end() == 0
        running.assert_all_gone()


def test_without_a_learner_requests_are_answered(gunicorn: Gunicorn) -> None:
    with gunicorn(learners=0) as running:
        workers_are_up(running, 2)
        assert running.learners == []
        requests(running, 10)
        with gunicorn.attach() as engine:
            assert engine.stats().recorded == 10
            sona.Learner(gunicorn.name).close()
            assert engine.stats().counters.outcomes_learned == 10


def test_an_upgrade_hands_over_to_the_new_master_s_learner(
    gunicorn: Gunicorn, tmp_path: Path
) -> None:
    with gunicorn("--pid", str(tmp_path / "pid")) as running:
        workers_are_up(running, 2)
        with gunicorn.attach() as engine:
            assert wait_until(lambda: engine.stats().learner_alive, PATIENCE)
            running.signal(signal.SIGUSR2)
            file = tmp_path / "pid.2"
            assert wait_until(lambda: file.exists() and file.read_text().strip() != "", PATIENCE)
            successor = int(file.read_text())
            running.await_log(r"sona: worker \d+ has lane", 4)
            former = engine.stats().learner_pid
            assert running.end() == 0
            assert wait_until(lambda: engine.stats().learner_pid != former, PATIENCE)
            requests(running, 5)
            assert_learned(engine, 5)
            os.kill(successor, signal.SIGTERM)
            assert wait_until(lambda: not is_running(successor), PATIENCE)
            assert not engine.stats().learner_alive


# ---- what is said when something is not as it should be ----


def test_more_workers_than_lanes_is_said_at_the_start(gunicorn: Gunicorn) -> None:
    with gunicorn(workers=3, lanes=2) as running:
        assert running.process.wait(PATIENCE) == 1
        running.await_log("3 workers need as many lanes")
        assert running.learners == []


def test_a_reload_waits_for_the_lanes_of_former_workers(gunicorn: Gunicorn) -> None:
    with gunicorn(lanes=2) as running:
        former = workers_are_up(running, 2)
        running.await_log("max_workers should be twice the number of workers")
        running.signal(signal.SIGHUP)
        assert wait_until(lambda: not set(running.workers) & set(former), PATIENCE)
        assert not requests(running, 10) & set(former)
        assert running.end() == 0


def test_a_bad_configuration_ends_the_start_and_not_a_reload(
    gunicorn: Gunicorn, tmp_path: Path
) -> None:
    with gunicorn() as running:
        former = workers_are_up(running, 2)
        (tmp_path / "engine.toml").write_text("hidden_dim = 0\n")
        running.signal(signal.SIGHUP)
        running.await_log("hidden_dim is 0, .*; going on as before")
        assert wait_until(lambda: not set(running.workers) & set(former), PATIENCE)
        requests(running, 5)
        assert len(running.learners) == 1
        assert running.end() == 0


def test_workers_of_another_user_are_refused(gunicorn: Gunicorn) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may start gunicorn for another user")
    with gunicorn("--user", "65534") as running:
        assert running.process.wait(PATIENCE) == 1
        running.await_log("its workers as 65534, but an engine belongs to one user")


def test_an_engine_that_is_destroyed_fails_requests_and_not_the_server(gunicorn: Gunicorn) -> None:
    with gunicorn() as running:
        former = workers_are_up(running, 2)
        sona.Engine.destroy(gunicorn.name)
        os.kill(former[0], signal.SIGKILL)
        running.await_log(rf"no engine .*; worker {former[0]} has gone")
        running.await_log("no engine .*; requests fail until that is mended")
        running.signal(signal.SIGHUP)  # makes it anew
        assert wait_until(lambda: not set(running.workers) & set(former), PATIENCE)
        workers_are_up(running, 2)
        requests(running, 5)
        with gunicorn.attach() as engine:
            assert_learned(engine, 5)
        assert running.end() == 0


def test_a_lane_that_a_grandchild_holds_is_told(gunicorn: Gunicorn) -> None:
    with gunicorn(workers=1) as running:
        workers_are_up(running, 1)
        answer = running.get("/fork")
        try:
            os.kill(answer["pid"], signal.SIGKILL)
            running.await_log(rf"worker {answer['pid']} has gone, but lane 0 is held")
        finally:
            os.kill(answer["child"], signal.SIGKILL)
        requests(running, 5)


# ---- without hooks ----


def test_workers_of_uvicorn(name: str, tmp_path: Path) -> None:
    config = sona.SonaConfig(hidden_dim=8, routes=[sona.Route("a"), sona.Route("b")])
    with sona.Engine.create(name, config, learner="process") as engine:
        command = ["uvicorn", "tests.web.applications:asgi", "--workers", "2", "--port", "0"]
        with server(tmp_path / "log", *command, environment={"ENGINE": name}) as running:
            running.await_log("Started server process", 2)
            requests(running, 20)
            assert_learned(engine, 20)
            assert running.end() in (0, -signal.SIGTERM)
            running.assert_all_gone()
        assert [lane for lane in engine.stats().lanes if lane.alive] == []
