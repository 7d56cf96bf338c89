"""``sona replay`` and ``sona learner --journal``, as a person runs them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sona_shm as sona
from sona_shm.shm.waiting import wait_until
from tests.test_cli import PATIENCE, sona_command

DIM = 4


def create(name: str, learner: Any, **arguments: Any) -> sona.Engine:
    routes = [sona.Route("small", 0.1), sona.Route("large", 1.0)]
    config = sona.SonaConfig(hidden_dim=DIM, routes=routes, cost_weight=0.1, exploration=2.0)
    return sona.Engine.create(name, config, learner, **arguments)


def requests(engine: sona.Engine, rng: np.random.Generator, number: int) -> None:
    for x in rng.standard_normal((number, DIM)):
        decision = engine.route(x)
        engine.feedback(decision.id, float(rng.random() < (0.3, 0.8)[decision.index]))


@pytest.fixture
def journal(name: str, tmp_path: Path, rng: np.random.Generator) -> Path:
    with create(name, "inline", journal=tmp_path / "journal") as engine:
        requests(engine, rng, 300)
    return tmp_path / "journal"


def test_a_journal_is_replayed_with_another_policy(journal: Path) -> None:
    done = sona_command("replay", str(journal), "--set", "policy=thompson", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads(done.stdout)
    assert result["rows"] == 300
    for estimate in ("logged", "inverse_propensity", "self_normalised", "doubly_robust"):
        low, high = result[estimate]["interval"]
        assert low <= result[estimate]["value"] <= high
    assert result["journal"]["corrupt"] == 0


def test_the_table_names_every_estimate(journal: Path) -> None:
    done = sona_command("replay", str(journal), "--set", "exploration=0.1")
    assert done.returncode == 0
    for part in ("logged policy", "doubly robust", "95 % interval", "300 decisions"):
        assert part in done.stdout


def test_a_configuration_may_come_from_a_file(journal: Path, tmp_path: Path) -> None:
    file = tmp_path / "other.toml"
    file.write_text(
        f'hidden_dim = {DIM}\npolicy = "softmax"\n[[routes]]\nname = "large"\ncost = 0.5\n'
    )
    done = sona_command("replay", str(journal), "--config", str(file), "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert 0 < result["rows"] < 300
    assert result["rows"] + result["skipped"] == 300


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["nowhere"], 1, "no journal"),
        (["{journal}", "--set", "policy=magic"], 1, "policy"),
        (["{journal}", "--set", "colour=red"], 1, "colour"),
        (["{journal}", "--set", "hidden_dim=5"], 1, "dimensions"),
        (["{journal}", "--set", "policy"], 2, "KEY=VALUE"),
        (["{journal}", "--config", "nowhere.toml"], 1, "nowhere.toml"),
    ],
)
def test_what_cannot_be_replayed_says_why(
    journal: Path, arguments: list[str], code: int, reason: str
) -> None:
    done = sona_command("replay", *(a.format(journal=journal) for a in arguments))
    assert done.returncode == code
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_the_daemon_journals(name: str, tmp_path: Path, rng: np.random.Generator) -> None:
    command = [sys.executable, "-m", "sona_shm.cli", "learner", name, "--journal", str(tmp_path)]
    with create(name, None) as engine:
        daemon = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            assert wait_until(lambda: engine.stats().learner_alive, PATIENCE)
            requests(engine, rng, 50)
            assert engine.flush(PATIENCE)
        finally:
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(PATIENCE) == 0
    assert len(sona.read_journal(tmp_path)) == 50


def test_a_reward_that_is_not_there_is_refused(name: str) -> None:
    with create(name, None):
        done = sona_command("learner", name, "--reward", "nowhere:nothing")
    assert done.returncode == 1
    assert "nowhere:nothing" in done.stderr
