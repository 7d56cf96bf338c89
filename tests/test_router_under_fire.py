"""The example router as users run it, while its workers, learners and settings are shot at."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import pytest

import sona_shm as sona
from sona_shm.shm.layout import OFFSETS
from sona_shm.shm.waiting import wait_until
from tests.conftest import ROOT
from tests.test_stats import assert_adds_up
from tests.web.client import Report
from tests.web.servers import PATIENCE, Server, server

CLIENTS: Final = 8
CHATS: Final = 10_000  # each with its feedback: 20,000 requests
SHOTS: Final = 15
LEARNER_TERMS: Final = OFFSETS["control_header.learner_terms"]


def start_client(port: int, seed: int, environment: dict[str, str]) -> subprocess.Popen[str]:
    arguments = map(str, (port, seed, CHATS // CLIENTS))
    return subprocess.Popen(
        [sys.executable, "-m", "tests.web.client", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment, "PYTHONPATH": str(ROOT / "examples")},
    )


def shoot(running: Server, engine: sona.Engine, rng: np.random.Generator) -> None:
    """SIGKILL for a worker each time, for the learner and SIGHUP for the master now and then."""
    for shot in range(SHOTS):
        goal = (shot + 1) * CHATS // (SHOTS + 1)
        assert wait_until(partial(has_decided, engine, goal), PATIENCE), running.log
        kill(int(rng.choice(running.workers)))
        if shot % 3 == 1:
            kill(learner_of(running, engine))
        if shot % 5 == 2:
            running.signal(signal.SIGHUP)


def has_decided(engine: sona.Engine, goal: int) -> bool:
    return engine.stats().decisions >= goal


def learner_of(running: Server, engine: sona.Engine) -> int:
    assert wait_until(lambda: engine.stats().learner_pid in running.learners, PATIENCE)
    return engine.stats().learner_pid


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):  # gunicorn may have been faster
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("preload", [False, True])
def test_nothing_fails_and_nothing_is_lost(
    name: str, tmp_path: Path, rng: np.random.Generator, preload: bool
) -> None:
    settings = tmp_path / "router.toml"
    example = (ROOT / "examples" / "router" / "router.toml").read_text()
    settings.write_text(example.replace('name = "router"', f'name = "{name}"'))
    command = ["gunicorn", "-c", "examples/router/gunicorn.conf.py", "--bind", "127.0.0.1:0"]
    command += ["--no-control-socket", *(["--preload"] if preload else [])]
    environment = {"SONA_ROUTER": str(settings)}
    with server(tmp_path / "log", *command, environment=environment) as running:
        running.await_log("Application startup complete", 4)
        with sona.Engine.attach(name) as engine:
            clients = [start_client(running.port, seed, environment) for seed in range(CLIENTS)]
            try:
                shoot(running, engine, rng)
                reports = [Report(**json.loads(client.communicate()[0])) for client in clients]
            finally:
                for client in clients:
                    client.kill()
            assert engine.flush(PATIENCE)
            assert running.end() == 0
            running.assert_all_gone()
            assert running.log.count("Hang up") == SHOTS // 5
            assert engine._memory.control.load(LEARNER_TERMS) > SHOTS // 3
            check_answers(reports)
            check_books(engine.stats(), reports)
    assert len(objects_of(name)) == 4  # three segments and the semaphore
    sona.Engine.destroy(name)
    assert objects_of(name) == []


def check_answers(reports: list[Report]) -> None:
    assert [refusal for report in reports for refusal in report.refused] == []
    assert sum(report.acknowledged for report in reports) == CHATS
    assert sum(report.cross_worker for report in reports) > CHATS // 10
    assert sum(report.chat_cut_off + report.feedback_cut_off for report in reports) > 0
    last_quarter = slice(-CHATS // CLIENTS // 4, None)
    earned = np.mean([report.rewards[last_quarter] for report in reports])
    blind = np.mean([report.blind_rewards[last_quarter] for report in reports])
    assert earned > blind + 0.1


def check_books(stats: sona.EngineStats, reports: list[Report]) -> None:
    """Each answered request is learned once, as it was told, though that may have come twice."""
    assert_adds_up(stats)
    counters = stats.counters
    cut_off = sum(report.feedback_cut_off for report in reports)
    assert CHATS <= stats.recorded <= CHATS + cut_off
    assert counters.outcomes_learned == CHATS
    assert counters.feedback_duplicate == stats.recorded - CHATS
    learned = sum(row.outcomes * row.mean_reward for row in stats.routes)
    assert learned == pytest.approx(sum(sum(report.rewards) for report in reports), rel=1e-4)
    assert (stats.dropped, counters.feedback_unknown, counters.feedback_expired) == (0, 0, 0)
    assert [lane for lane in stats.lanes if lane.alive] == []
    assert stats.decisions >= CHATS


def objects_of(name: str) -> list[str]:
    return [path.name for path in Path("/dev/shm").iterdir() if name in path.name]
