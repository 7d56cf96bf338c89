"""Ways to run a documented command; what engine it finds, and where its placeholders point."""

from __future__ import annotations

import contextlib
import grp
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import pytest

import sona_shm as sona
from sona_shm.cli.main import build_parser
from sona_shm.shm.waiting import wait_until
from tests.children import PATIENCE
from tests.conftest import ROOT
from tests.private_shm import run_in_private_shm
from tests.terminal import terminal
from tests.web.servers import server

BIN: Final = Path(sys.executable).parent
CONFIG: Final = """\
hidden_dim = 8
max_workers = 4
trajectory_capacity = 2000
[[routes]]
name = "small"
cost = 0.01
[[routes]]
name = "large"
cost = 1.0
"""
#: Placeholders of documents; absolute paths come to lie below the test's own directory.
_ROOTS: Final = re.compile(r"(?<![\w.])/(?=(?:var|etc|opt)/)")
_ENGINE: Final = re.compile(r"\b(?:router|NAME)\b(?![./-])")


class Place(NamedTuple):
    """Where a command runs: a fresh engine name, an empty directory."""

    name: str
    directory: Path

    def filled_in(self, command: str) -> str:
        """The command with its placeholders replaced; programs are those of this environment."""
        command = command.removeprefix(".venv/bin/")
        command = _ENGINE.sub(self.name, command)
        command = command.replace("MODULE:FUNCTION", "rewards:reward")
        return _ROOTS.sub(f"{self.directory}/", command)

    def path(self, absolute: str) -> Path:
        """What stands for an absolute path of the documents."""
        return Path(_ROOTS.sub(f"{self.directory}/", absolute))

    def start(self, command: str) -> subprocess.Popen[str]:
        """Run by the shell that a reader has."""
        return subprocess.Popen(
            ["bash", "-c", f"exec {self.filled_in(command)}"],
            cwd=self.directory,
            env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": "."},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, command: str) -> str:
        """Run to the end, which must be success; its output."""
        with self.start(command) as process:
            try:
                output, errors = process.communicate(timeout=PATIENCE)
            finally:
                process.kill()
        assert process.returncode == 0, errors
        return output


Way = Callable[[str, Place], None]
Setting = Callable[[Place], AbstractContextManager[None]]


# ---- what a command finds ----


def _config(place: Place) -> sona.SonaConfig:
    return sona.SonaConfig.from_file(place.directory / "engine.toml")


def _learn(engine: sona.Engine) -> None:
    rng = np.random.default_rng(0)
    for x in rng.standard_normal((200, 8)):
        decision = engine.route(x / np.linalg.norm(x))
        assert engine.feedback(decision.id, 0.9 if decision.route == "small" else 0.4)


@contextmanager
def no_engine(place: Place) -> Iterator[None]:
    """Configurations, data and a reward function."""
    for file in ("engine.toml", "other.toml"):
        (place.directory / file).write_text(CONFIG)
    (place.directory / "rewards.py").write_text("def reward(outcome): return outcome.quality\n")
    rng = np.random.default_rng(0)
    quality = np.tile([0.1, 0.9], (200, 1))
    np.savez(
        place.directory / "FILE.npz",
        embedding=rng.standard_normal((200, 8)),
        quality=quality,
        cost=[0.1, 0.2],
        models=["small", "large"],
    )
    yield


@contextmanager
def an_engine(place: Place) -> Iterator[None]:
    """One that has learned, and that nobody uses."""
    with no_engine(place):
        with sona.Engine.create(place.name, _config(place), learner="inline") as engine:
            _learn(engine)
        yield


@contextmanager
def a_learner(place: Place) -> Iterator[None]:
    """One that has a learner."""
    with no_engine(place), sona.Engine.create(place.name, _config(place), "thread") as engine:
        _learn(engine)
        assert engine.flush(PATIENCE)
        yield


@contextmanager
def a_checkpoint(place: Place) -> Iterator[None]:
    """No engine, and what one has saved."""
    with a_checkpoint_and_its_engine(place):
        sona.Engine.destroy(place.name)
        yield


@contextmanager
def a_checkpoint_and_its_engine(place: Place) -> Iterator[None]:
    """One that nobody uses, and what it has saved."""
    with an_engine(place):
        with sona.Engine.attach(place.name) as engine:
            engine.save(place.directory / "FILE")
            directory = place.path(f"/var/lib/sona/{place.name}")
            directory.mkdir(parents=True)
            engine.save(directory)
        yield


@contextmanager
def a_journal(place: Place) -> Iterator[None]:
    """No engine, and what its learner has written."""
    with no_engine(place):
        journal = place.directory / "DIR"
        with sona.Engine.create(place.name, _config(place), "inline", journal=journal) as engine:
            _learn(engine)
        sona.Engine.destroy(place.name)
        yield


# ---- ways ----


def as_written(setting: Setting, *, says: str = "") -> Way:
    """Run to the end, with placeholders filled in; it must succeed, and say this."""

    def way(command: str, place: Place) -> None:
        with setting(place):
            assert says in place.run(command)

    return way


def daemon(setting: Setting, up: Callable[[Place], bool]) -> Way:
    """Start, see that it is up, SIGTERM; it must end with 0."""

    def way(command: str, place: Place) -> None:
        with setting(place), place.start(command) as process:
            try:
                assert wait_until(lambda: process.poll() is not None or up(place), PATIENCE)
                process.send_signal(signal.SIGTERM)
                _, errors = process.communicate(timeout=PATIENCE)
            finally:
                process.kill()
            assert process.returncode == 0, errors

    return way


def stream(setting: Setting, *, says: str) -> Way:
    """Prints a line again and again, until SIGTERM."""

    def way(command: str, place: Place) -> None:
        with setting(place), place.start(command) as process:
            try:
                assert process.stdout is not None
                assert says in process.stdout.readline()
            finally:
                process.terminate()

    return way


def in_a_terminal(setting: Setting, *, says: str) -> Way:
    """Fills a screen, until `q` is pressed."""

    def way(command: str, place: Place) -> None:
        _, *arguments = place.filled_in(command).split()
        with setting(place), terminal((80, 24), *arguments) as screen:
            screen.wait_for(place.name, says)
            screen.press("q")
            assert screen.end() == 0

    return way


def learner_is_up(place: Place) -> bool:
    """Whether there is an engine, and a living process learns for it."""
    try:
        with sona.Engine.attach(place.name, timeout=0.0) as engine:
            return engine.stats().learner_alive
    except (sona.EngineNotFound, sona.EngineNotReady):
        return False


def saver_is_up(place: Place) -> bool:
    """Whether the directory is there, which is made before the first wait."""
    return (place.directory / "DIR").is_dir()


def command_exists(command: str, _place: Place) -> None:
    """A document only names the command; it exists, with the options that are named."""
    _, name, *options = command.split()
    usage = io.StringIO()
    with contextlib.redirect_stdout(usage), pytest.raises(SystemExit) as end:
        build_parser().parse_args([name, "--help"])
    assert end.value.code == 0
    assert all(option in usage.getvalue() for option in options)


def script(command: str, _place: Place) -> None:
    """It runs for minutes: its shell reads it, and `make` knows what it asks for."""
    subprocess.run(["bash", "-n", command], cwd=ROOT, check=True)
    targets = re.findall(r"^make (\w+)$", (ROOT / command).read_text(), re.MULTILINE)
    subprocess.run(["make", "-n", *targets], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)


def of_the_router(*, says: str) -> Way:
    """Sent to the example router, on a port of its own; it must say this."""

    def way(command: str, place: Place) -> None:
        command = re.sub(r"^cd (\S+) && \.\./\.venv/bin/", rf"env -C {ROOT}/\1 ", command)
        settings = place.directory / "router.toml"
        example = (ROOT / "examples" / "router" / "router.toml").read_text(encoding="utf-8")
        settings.write_text(example.replace('name = "router"', f'name = "{place.name}"'))
        router = ("uvicorn", "--app-dir", "examples", "router.app:app", "--port", "0")
        environment = {"SONA_ROUTER": str(settings)}
        with server(place.directory / "log", *router, environment=environment) as running:
            command = command.replace("router.simulate", "router.simulate http://127.0.0.1:8000")
            assert says in place.run(command.replace(":8000", f":{running.port}"))

    return way


def of_pip(command: str, _place: Place) -> None:
    """Would download hundreds of megabytes: the extra that it names is there."""
    extras = re.findall(r"\[(\w+)\]", command)
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(extras) <= set(declared["optional-dependencies"])


def in_the_clone(command: str, place: Place) -> None:
    """Run in the root of the repository, as written; it must succeed."""
    place.run(f"env -C {ROOT} {command.removeprefix('.venv/bin/')}")


def elsewhere(file: str, evidence: str) -> Way:
    """Run by another test or script: the file that does, and the words in it that show it."""

    def way(_command: str, _place: Place) -> None:
        assert evidence in (ROOT / file).read_text(encoding="utf-8")

    return way


def programs_of_target(option: str) -> Way:
    """Take hours: each program that `make` would run is run with an option that makes it short."""

    def way(command: str, place: Place) -> None:
        target = command.split()[1]
        planned = subprocess.run(
            ["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        programs = set(re.findall(r"bin/python ((?:benchmarks/|-m tests)\S+)", planned))
        assert programs
        for program in sorted(programs):
            place.run(f"env -C {ROOT} {sys.executable} {program} {option}")

    return way


def in_a_container(setting: Setting) -> Way:
    """What `docker run` would run in the container is run here; Docker's own part is not."""

    def way(command: str, place: Place) -> None:
        options, arguments = re.split(r" sona-shm ", command, maxsplit=1)
        inside = arguments.replace("/etc/sona/router.toml", "engine.toml")
        entry = re.search(r"--entrypoint (\S+)", options)
        if entry is not None:
            assert shutil.which(entry[1])
        elif inside.startswith("learner"):
            daemon(setting, learner_is_up)(f"sona {inside}", place)
        else:
            as_written(setting)(f"sona {inside}", place)

    return way


def docker_knows(command: str, place: Place) -> None:
    """A document only names the command of Docker."""
    if shutil.which("docker") is None:
        pytest.skip("no docker command: install Docker's client")
    place.run(f"{command} --help")


def of_systemd(command: str, _place: Place) -> None:
    """Would change the host's own services: only its words are looked up.

    What units run is run by tests/test_systemd.py.
    """
    program, *words = command.split()
    if shutil.which(program) is None:
        pytest.skip(f"no {program} command: install systemd")
    asked = [program, "--help"]
    usage = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    for word in words:
        unit = re.fullmatch(r"(\S+@)router", word)
        if unit is not None:
            assert (ROOT / "tools" / "systemd" / f"{unit[1]}.service").exists()
        elif word != "USER":
            assert re.search(rf"(?<!\S){word}\b", usage), word


def installing(prepare: str = "true") -> Way:
    """Installs something, below a directory of the test's own."""

    def way(command: str, place: Place) -> None:
        with no_engine(place):
            place.run(f"bash -c '{prepare}'")
            place.run(command.replace("tools/", f"{ROOT}/tools/"))

    return way


def with_a_group(setting: Setting) -> Way:
    """As written, with a group that this host has and the caller is in."""

    def way(command: str, place: Place) -> None:
        as_written(setting)(
            command.replace("=sona", f"={grp.getgrgid(os.getegid()).gr_name}"), place
        )

    return way


def of_the_whole_host(code: str, *, says: str) -> Way:
    """Looks at all engines of the host: run where /dev/shm has only those that `code` made."""

    def way(command: str, _place: Place) -> None:
        _, *arguments = command.split()
        told = run_in_private_shm(
            f"{code}\nfrom sona_shm.cli import main\nprint(main({arguments}))\n",
            size="256m",
        )
        assert says in told

    return way


def of_users(files: Mapping[str, str], changed: str, adds: str) -> Way:
    """Changes the files of users and groups, of a directory of the test's own."""

    def way(command: str, place: Place) -> None:
        program = command.split()[0]
        if shutil.which(program) is None or os.geteuid() != 0:
            pytest.skip(f"{program} needs root, and the package passwd")
        etc = place.directory / "etc"
        etc.mkdir()
        for file in ("passwd", "group", "shadow", "gshadow"):
            (etc / file).write_text(files.get(file, ""))
        place.run(f"{command} --prefix {place.directory}")
        assert adds in (etc / changed).read_text()

    return way
