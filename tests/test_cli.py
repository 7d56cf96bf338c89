"""The command line, as a user runs it: in processes of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import sona_shm as sona
from sona_shm.cli.main import main
from sona_shm.shm.waiting import wait_until
from tests.conftest import leftovers

PATIENCE = 60.0
CONFIG = "hidden_dim = 8\nmax_workers = 2\n[[routes]]\nname = 'a'\n[[routes]]\nname = 'b'\n"


def sona_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sona_shm.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def start_learner(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "sona_shm.cli", "learner", *arguments],
        stderr=subprocess.PIPE,
        text=True,
    )


def attach_when_created(name: str, learner: subprocess.Popen[str]) -> sona.Engine:
    def created() -> bool:
        assert learner.poll() is None, learner.communicate()[1]
        try:
            sona.Engine.attach(name, timeout=0.0).close()
        except (sona.EngineNotFound, sona.EngineNotReady):
            return False
        return True

    assert wait_until(created, PATIENCE)
    return sona.Engine.attach(name)


@pytest.fixture
def config_file(tmp_path: Path) -> str:
    path = tmp_path / "engine.toml"
    path.write_text(CONFIG)
    return str(path)


@pytest.mark.parametrize(
    "command",
    [
        (),
        ("demo",),
        ("size",),
        ("learner",),
        ("learn",),
        ("stats",),
        ("top",),
        ("serve",),
        ("export",),
        ("doctor",),
        ("destroy",),
    ],
)
def test_help_says_what_the_command_does(command: tuple[str, ...]) -> None:
    done = sona_command(*command, "--help")
    assert done.returncode == 0
    assert "usage: sona" in done.stdout
    assert len(done.stdout.splitlines()) > 5


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("unknown",),
        ("doctor", "a", "b"),
        ("stats",),
        ("export", "x"),
        ("demo", "--workers", "0"),
        ("demo", "--requests", "many"),
    ],
)
def test_a_wrong_command_line_exits_with_2(arguments: tuple[str, ...]) -> None:
    done = sona_command(*arguments)
    assert done.returncode == 2
    assert "usage: sona" in done.stderr


@pytest.mark.parametrize("command", ["stats", "top", "destroy", "learner", "learn"])
def test_an_absent_engine_is_one_line_and_exit_code_1(command: str, name: str) -> None:
    done = sona_command(command, name)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"no engine '{name}' on this host" in done.stderr


def test_an_impossible_name_is_refused(name: str) -> None:
    done = sona_command("stats", "../etc")
    assert done.returncode == 1
    assert "expected 1 to 22 letters" in done.stderr


def test_stats_as_json_are_the_engine_s_own(name: str) -> None:
    with sona.Engine.create(name, sona.SonaConfig(hidden_dim=4), learner="inline") as engine:
        engine.record(sona.QueryTrajectory(1, [0.0] * 4).finalize(0.9))
        printed = json.loads(sona_command("stats", name, "--json").stdout)
        own = json.loads(json.dumps(engine.stats().to_mapping()))
    for moving in ("seconds_since_publish", "learner_seconds"):
        assert printed.pop(moving) >= 0.0
        own.pop(moving)
    assert printed == own


def test_stats_as_a_table_name_lanes_routes_and_counters(name: str) -> None:
    config = sona.SonaConfig(hidden_dim=4, routes=[sona.Route("[odd] name"), sona.Route("b")])
    with sona.Engine.create(name, config, learner="inline") as engine:
        engine.feedback(engine.route([0.0] * 4).id, 0.5)
        printed = sona_command("stats", name).stdout
    for word in ("lane", "retired", "[odd] name", "outcomes_learned", str(os.getpid())):
        assert word in printed


def test_destroy_refuses_while_in_use_and_force_does_not(name: str) -> None:
    with sona.Engine.create(name, sona.SonaConfig(hidden_dim=4), learner="inline"):
        refused = sona_command("destroy", name)
        assert refused.returncode == 1
        assert f"learner {os.getpid()}" in refused.stderr
        assert sona_command("destroy", name, "--force").returncode == 0
    assert leftovers(name) == []


def test_a_restore_over_an_engine_names_the_option(name: str, tmp_path: Path) -> None:
    file = tmp_path / "saved.safetensors"
    with sona.Engine.create(name, sona.SonaConfig(hidden_dim=4)) as engine:
        engine.save(file)
    refused = sona_command("restore", name, str(file))
    assert refused.returncode == 1
    assert "give --replace" in refused.stderr
    assert "replace=True" not in refused.stderr
    with sona.Engine.attach(name) as engine:
        engine.record(sona.QueryTrajectory(1, [0.0] * 4).finalize(0.9))
        in_use = sona_command("restore", name, str(file), "--replace")
        assert in_use.returncode == 1
        assert f"in use by worker {os.getpid()}" in in_use.stderr
    assert sona_command("restore", name, str(file), "--replace").returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["restore", "x", "a\0b"],
        ["save", "x", "a\0b"],
        ["export", "x", "a\0b"],
        ["replay", "a\0b"],
        ["replay", "j", "--config", "a\0b"],
        ["demo", "--data", "a\0b"],
        ["learner", "x", "--create", "a\0b"],
        ["learner", "x", "--checkpoint", "a\0b"],
        ["learner", "x", "--journal", "a\0b"],
    ],
)
def test_a_path_with_nul_exits_with_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert r"'a\x00b' is no path" in capsys.readouterr().err


def test_destroy_removes_an_engine_that_nobody_uses(name: str) -> None:
    sona.Engine.create(name, sona.SonaConfig(hidden_dim=4)).close()
    assert sona_command("destroy", name).returncode == 0
    assert leftovers(name) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_learner_learns_and_publishes_first(
    number: signal.Signals, name: str, config_file: str
) -> None:
    with start_learner(name, "--create", config_file) as learner:
        try:
            with attach_when_created(name, learner) as engine:
                assert wait_until(lambda: engine.stats().learner_alive, PATIENCE)
                assert engine.flush(PATIENCE)
                # A stopped process learns nothing, so that the signal finds records waiting.
                learner.send_signal(signal.SIGSTOP)
                for _ in range(50):
                    assert engine.feedback(engine.route([0.1] * 8).id, 1.0)
                learner.send_signal(number)
                learner.send_signal(signal.SIGCONT)
                _, log = learner.communicate(timeout=PATIENCE)
                assert learner.returncode == 0, log
                stats = engine.stats()
        finally:
            learner.kill()
    assert stats.counters.outcomes_learned == 50
    assert not stats.learner_alive


def test_create_keeps_an_engine_that_exists(name: str, config_file: str) -> None:
    sona.Engine.create(name, sona.SonaConfig(hidden_dim=5)).close()
    with start_learner(name, "--create", config_file) as learner:
        try:
            with sona.Engine.attach(name) as engine:
                assert wait_until(lambda: engine.stats().learner_alive, PATIENCE)
                assert engine.config.hidden_dim == 5
        finally:
            learner.terminate()
            learner.communicate(timeout=PATIENCE)
    assert learner.returncode == 0


def test_a_wrong_configuration_creates_nothing(name: str, tmp_path: Path) -> None:
    path = tmp_path / "engine.json"
    path.write_text('{"hidden_dim": 8, "colour": "red"}')
    done = sona_command("learner", name, "--create", str(path))
    assert done.returncode == 1
    assert "unknown settings colour" in done.stderr
    assert leftovers(name) == []


def test_the_log_has_at_most_one_line_a_second(name: str, config_file: str) -> None:
    with start_learner(name, "--create", config_file) as learner:
        try:
            with attach_when_created(name, learner) as engine:
                for _ in range(20_000):
                    engine.feedback(1, 0.5)
                assert engine.flush(PATIENCE)
        finally:
            learner.terminate()
            _, log = learner.communicate(timeout=PATIENCE)
    seconds = [line.split(",")[0] for line in log.splitlines() if " learned " in line]
    assert len(seconds) == len(set(seconds))


def test_the_learner_ends_when_its_engine_is_destroyed(name: str, config_file: str) -> None:
    with start_learner(name, "--create", config_file) as learner:
        try:
            with attach_when_created(name, learner) as engine:
                assert wait_until(lambda: engine.stats().learner_alive, PATIENCE)
            sona.Engine.destroy(name)
            _, log = learner.communicate(timeout=PATIENCE)
        finally:
            learner.kill()
    assert learner.returncode == 0
    assert "was destroyed" in log


def test_learn_prints_what_came_of_it(name: str, rng: np.random.Generator) -> None:
    config = sona.SonaConfig(hidden_dim=8, routes=(sona.Route("small"), sona.Route("large")))
    with sona.Engine.create(name, config, learner="thread") as engine:
        for i in range(400):
            x = rng.standard_normal(8)
            assert engine.observe(x / np.linalg.norm(x), i % 2, float(x[i % 2] > 0))
        done = sona_command("learn", name)
        assert (done.returncode, done.stderr) == (0, "")
        assert "learned from 400 outcomes" in done.stdout
        assert "patterns:" in done.stdout
        skipped = sona_command("learn", name)
        assert (skipped.returncode, skipped.stderr) == (0, "")
        assert "skipped: 0 signals since the last cycle" in skipped.stdout
        printed = json.loads(sona_command("learn", name, "--json").stdout)
        assert printed["status"] == "skipped"
    nobody = sona_command("learn", name, "--timeout", "0.1")
    assert (nobody.returncode, nobody.stdout) == (1, "")
    assert "nobody learns" in nobody.stderr
    assert sona_command("learn", name, "--timeout", "soon").returncode == 2
