"""The systemd units: valid, and their command lines do what they are for."""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path

import pytest

import sona_shm as sona
from sona_shm.checkpoint.rotation import list_checkpoints
from sona_shm.cli.main import build_parser
from tests.children import PATIENCE
from tests.test_cli import CONFIG
from tests.units import BIN, INSTALLED, UNITS, Unit

FILES = sorted(path.name for path in UNITS.glob("*.service"))


def test_there_is_a_learner_and_a_monitor() -> None:
    assert FILES == ["sona-learner@.service", "sona-serve@.service"]


@pytest.mark.parametrize("file", FILES)
def test_systemd_accepts_the_unit(file: str, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze command: install systemd")
    unit = tmp_path / file
    # It wants every program that a unit names to exist.
    unit.write_text((UNITS / file).read_text().replace(INSTALLED, BIN))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    # What it does not understand it only warns of.
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("file", FILES)
def test_the_engine_outlives_the_unit(file: str) -> None:
    """RemoveIPC= of a unit, which DynamicUser= implies, unlinks what its user has in /dev/shm."""
    unit = Unit(file, "router", Path("/"))
    assert unit.values("RemoveIPC") == ["no"]
    assert unit.values("DynamicUser") == []
    assert unit.values("User") == ["sona"]


def test_the_learner_runs_as_the_unit_says_and_is_stopped_in_order(
    name: str, tmp_path: Path
) -> None:
    unit = Unit("sona-learner@.service", name, tmp_path)
    state = unit.make_directories()
    etc = tmp_path / "etc" / "sona"
    etc.mkdir(parents=True)
    (etc / f"{name}.toml").write_text(CONFIG)
    (stop,) = unit.values("KillSignal")
    with subprocess.Popen(
        unit.command("ExecStart"), stderr=subprocess.PIPE, text=True, umask=0o007
    ) as learner:
        try:
            started = subprocess.run(
                unit.command("ExecStartPost"), timeout=PATIENCE, capture_output=True, check=False
            )
            assert (started.returncode, started.stderr) == (0, b"")
            with sona.Engine.attach(name, timeout=0.0) as engine:
                for _ in range(20):
                    assert engine.feedback(engine.route([0.1] * 8).id, 1.0)
            learner.send_signal(signal.Signals[stop])
            _, log = learner.communicate(timeout=float(unit.values("TimeoutStopSec")[0]))
        finally:
            learner.kill()
    assert learner.returncode == 0, log
    (saved,) = list_checkpoints(state)[:1]
    sona.Engine.destroy(name)
    with sona.Engine.restore(name, saved) as engine:
        assert engine.stats().counters.outcomes_learned == 20


def test_the_monitor_s_command_line_is_one() -> None:
    unit = Unit("sona-serve@.service", "router", Path("/"))
    program, *arguments = unit.command("ExecStart")
    assert program == f"{BIN}sona"
    options = build_parser().parse_args(arguments)
    assert (options.name, options.host, options.port) == ("router", "127.0.0.1", 9464)
