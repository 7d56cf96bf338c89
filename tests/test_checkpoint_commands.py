"""Checkpoints as an operator meets them: the learner's, by hand, and after everything is gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits

import sona_shm as sona
from sona_shm.checkpoint.format import read_checkpoint
from sona_shm.checkpoint.rotation import list_checkpoints
from sona_shm.shm.waiting import wait_until
from tests.checkpoints import embedding, learn_something, learned, small_config, state_of
from tests.children import PATIENCE
from tests.conftest import leftovers
from tests.test_cli import attach_when_created, sona_command, start_learner

CONFIG = """
hidden_dim = 12
max_workers = 3
trajectory_capacity = 200
pending_decisions = 64
[[routes]]
name = 'small'
cost = 0.1
[[routes]]
name = 'large'
cost = 1.0
"""
OFTEN = ("--every", "0.05", "--keep", "3")


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "engine.toml"
    path.write_text(CONFIG)
    return path


@contextmanager
def learner(name: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = start_learner(name, *arguments)
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=PATIENCE)


def await_learner_of(engine: sona.Engine, process: subprocess.Popen[str]) -> None:
    assert wait_until(
        lambda: engine.stats().learner_alive and engine.stats().learner_pid == process.pid, PATIENCE
    )


def await_checkpoint(directory: Path, version: int) -> Path:
    """The newest file, once it is of this version or a later one."""

    def newest() -> Path | None:
        for path in list_checkpoints(directory)[:1] if directory.exists() else []:
            if f"-v{version:020d}-" <= path.name[path.name.index("-v") :]:
                return path
        return None

    assert wait_until(lambda: newest() is not None, PATIENCE), list_checkpoints(directory)
    found = newest()
    assert found is not None
    return found


def children_of(pid: int) -> list[int]:
    """Whichever of its threads has started them."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def has_ended(pid: int) -> bool:
    """Whether it is gone, or waits only for whoever inherits the dead to look at it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


# ---- must-show: everything killed, everything removed ----


@contextmanager
def digits_learner(
    name: str, directory: Path, config: Path
) -> Iterator[tuple[subprocess.Popen[str], sona.Engine]]:
    arguments = ("--create", str(config), "--checkpoint", str(directory), *OFTEN)
    with learner(name, *arguments) as process, attach_when_created(name, process) as engine:
        await_learner_of(engine, process)
        yield process, engine


def greedy_reward(
    engine: sona.Engine, x: NDArray[np.float32], wanted: NDArray[np.int64]
) -> tuple[float, NDArray[np.float64]]:
    """Mean reward of the best predicted route, and the predictions; nothing is learned."""
    predicted = np.stack([engine.predict(row).reward for row in x])
    return float(np.mean(predicted.argmax(axis=1) == wanted)), predicted


def test_a_host_that_was_restarted_has_the_reward_it_had(
    name: str, rng: np.random.Generator, tmp_path: Path
) -> None:
    """Digits: learner killed, workers gone, segments removed, started anew."""
    images, labels = load_digits(return_X_y=True)
    images = images / np.linalg.norm(images, axis=1, keepdims=True)
    order = rng.permutation(len(labels))
    x, label = images[order].astype(np.float32), labels[order]
    config, directory = tmp_path / "digits.json", tmp_path / "checkpoints"
    settings: dict[str, Any] = {
        "hidden_dim": 64,
        "max_workers": 2,
        "trajectory_capacity": 4000,
        "routes": [{"name": f"digit-{digit}"} for digit in range(10)],
    }
    config.write_text(json.dumps(settings))

    with digits_learner(name, directory, config) as (process, engine):
        at_first, _ = greedy_reward(engine, x[1400:], label[1400:])
        for number, (row, wanted) in enumerate(zip(x[:1400], label[:1400], strict=True)):
            # Each route is tried at first: a digit that is never found would cost a tenth.
            tried = [f"digit-{number % 10}"] if number < 1000 else None
            decision = engine.route(row, tried)
            assert engine.feedback(decision.id, float(decision.index == wanted))
            assert engine.flush(PATIENCE)
        before, predicted = greedy_reward(engine, x[1400:], label[1400:])
        file = await_checkpoint(directory, engine._version())
        known = state_of(engine)
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE)
    sona.Engine.destroy(name)
    assert leftovers(name) == []

    with digits_learner(name, directory, config) as (_, engine):
        after, again = greedy_reward(engine, x[1400:], label[1400:])
        np.testing.assert_array_equal(again, predicted)
        assert after == before > 0.8 > at_first + 0.5
        assert state_of(engine).equals(known)
        assert read_checkpoint(file).state.equals(known)
        decision = engine.route(x[0])
        assert engine.feedback(decision.id, float(decision.index == label[0]))
        assert engine.flush(PATIENCE)
        assert engine.stats().counters.outcomes_learned == 1401


# ---- the learner ----


def test_a_learner_saves_beside_itself_and_at_its_end(
    name: str, rng: np.random.Generator, tmp_path: Path, config_file: Path
) -> None:
    directory = tmp_path / "checkpoints"
    arguments = ("--create", str(config_file), "--checkpoint", str(directory), "--every", "1000")
    with learner(name, *arguments) as process:
        with attach_when_created(name, process) as engine:
            await_learner_of(engine, process)
            assert wait_until(lambda: len(children_of(process.pid)) == 1, PATIENCE)
            (saver,) = children_of(process.pid)
            learn_something(engine, rng, 60)
        process.terminate()
        assert process.wait(PATIENCE) == 0
        assert has_ended(saver)
    (path,) = list_checkpoints(directory)
    with sona.Engine.attach(name) as engine:
        assert read_checkpoint(path).state.equals(state_of(engine))


def test_the_saving_process_ends_with_a_killed_learner_and_starts_again_when_killed(
    name: str, tmp_path: Path, config_file: Path
) -> None:
    directory = tmp_path / "checkpoints"
    arguments = ("--create", str(config_file), "--checkpoint", str(directory), *OFTEN)
    with learner(name, *arguments) as process:
        attach_when_created(name, process).close()
        assert wait_until(lambda: len(children_of(process.pid)) == 1, PATIENCE)
        (first,) = children_of(process.pid)
        os.kill(first, signal.SIGKILL)
        assert wait_until(lambda: children_of(process.pid) not in ([], [first]), PATIENCE)
        (second,) = children_of(process.pid)
        process.kill()
        process.wait(PATIENCE)
        assert wait_until(lambda: has_ended(second), PATIENCE)


def test_a_learner_restores_with_what_the_configuration_says_now(
    name: str, rng: np.random.Generator, tmp_path: Path, config_file: Path
) -> None:
    directory = tmp_path / "checkpoints"
    with sona.Engine.create(name, small_config(), "inline") as engine:
        learn_something(engine, rng, 60)
        directory.mkdir()
        engine.save(directory)
        known = engine.stats()
    sona.Engine.destroy(name)
    arguments = ("--create", str(config_file), "--checkpoint", str(directory), "--keep", "2")
    with learner(name, *arguments) as process, attach_when_created(name, process) as engine:
        assert learned(engine.stats().routes) == learned(known.routes)
        assert engine.config.cost_weight == 1.0  # the file's, by default
        assert engine.config.pattern_clusters == 100
        process.terminate()
        errors = process.communicate(timeout=PATIENCE)[1]
        assert "restored" in errors
        assert "'cost_weight': 1.0" in errors


def test_a_configuration_with_other_routes_does_not_restore(
    name: str, rng: np.random.Generator, tmp_path: Path, config_file: Path
) -> None:
    directory = tmp_path / "checkpoints"
    directory.mkdir()
    with sona.Engine.create(name, small_config(), "inline") as engine:
        learn_something(engine, rng, 60)
        engine.save(directory)
    sona.Engine.destroy(name)
    config_file.write_text(CONFIG + "[[routes]]\nname = 'huge'\n")
    arguments = (name, "--create", str(config_file), "--checkpoint", str(directory))
    done = sona_command("learner", *arguments)
    assert done.returncode == 1
    assert "small (0.1), large (1), huge (0)" in done.stderr
    assert "small (0.15), middle (0.4)" in done.stderr
    assert leftovers(name) == []
    # those in service now, as well as those at creation, are what the checkpoint has
    config_file.write_text(
        "hidden_dim = 12\nmax_routes = 16\n"
        "[[routes]]\nname='small'\ncost=0.15\n[[routes]]\nname='middle'\ncost=0.4\n"
    )
    with learner(*arguments) as process, attach_when_created(name, process) as engine:
        assert [route.name for route in engine.stats().routes] == ["small", "large", "middle"]


def test_a_directory_that_cannot_be_made_is_an_error(
    name: str, tmp_path: Path, config_file: Path
) -> None:
    arguments = ("--create", str(config_file), "--checkpoint", str(config_file / "in"))
    done = sona_command("learner", name, *arguments)
    assert done.returncode == 1
    assert "cannot make the directory" in done.stderr
    assert leftovers(name) == []


def test_a_learner_goes_on_where_nothing_can_be_saved(
    name: str, rng: np.random.Generator, tmp_path: Path, config_file: Path
) -> None:
    directory = tmp_path / "checkpoints"
    arguments = ("--create", str(config_file), "--checkpoint", str(directory), *OFTEN)
    with learner(name, *arguments) as process, attach_when_created(name, process) as engine:
        await_learner_of(engine, process)
        await_checkpoint(directory, 0)
        for path in directory.iterdir():
            path.unlink()
        directory.rmdir()
        directory.write_text("in the way")
        learn_something(engine, rng, 60)
        assert engine.stats().counters.outcomes_learned >= 60
        process.terminate()
        errors = process.communicate(timeout=PATIENCE)[1]
        assert process.returncode == 0
        assert "cannot make the directory" in errors
    assert directory.read_text() == "in the way"


@pytest.mark.parametrize(
    "arguments",
    [
        ("learner", "x", "--every", "3"),
        ("learner", "x", "--checkpoint", "d", "--every", "0"),
        ("learner", "x", "--checkpoint", "d", "--keep", "0"),
        ("save", "x", "d", "--keep", "3"),
        ("save", "x"),
        ("restore", "x"),
        ("restore", "x", "p", "--set", "max_workers"),
    ],
)
def test_a_wrong_command_line_exits_with_2(arguments: tuple[str, ...]) -> None:
    done = sona_command(*arguments)
    assert done.returncode == 2
    assert "usage: sona" in done.stderr


# ---- by hand ----


def test_saving_and_restoring_by_hand(name: str, rng: np.random.Generator, tmp_path: Path) -> None:
    with sona.Engine.create(name, small_config(), "inline") as engine:
        learn_something(engine, rng, 60)
    with sona.Engine.attach(name) as engine:
        known, outcomes = state_of(engine), engine.stats().counters.outcomes_learned
    done = sona_command("save", name, str(tmp_path))
    assert done.returncode == 0
    path = Path(done.stdout.strip())
    assert read_checkpoint(path).state.equals(known)
    done = sona_command("restore", name, str(path))
    assert done.returncode == 1
    assert "nobody uses it" in done.stderr
    done = sona_command("restore", name, str(tmp_path), "--replace", "--json")
    assert done.returncode == 0
    about = json.loads(done.stdout)
    assert (about["version"], about["outcomes_learned"]) == (known.version, outcomes)
    assert about["path"] == str(path)
    changes = ("--set", "max_workers=5", "--set", "policy=thompson")
    done = sona_command("restore", name, str(path), "--replace", *changes)
    assert f"version {known.version}" in done.stdout
    with sona.Engine.attach(name) as engine:
        assert (engine.config.max_workers, engine.config.policy) == (5, "thompson")
        assert state_of(engine).tensors["micro_a"].tobytes() == known.tensors["micro_a"].tobytes()
    path.write_bytes(path.read_bytes()[:1000])
    done = sona_command("restore", name, str(path), "--replace")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "cut off" in done.stderr or "ends in its header" in done.stderr
    with sona.Engine.attach(name) as engine:
        assert engine.config.max_workers == 5


def test_saving_again_and_again_ends_with_the_engine(
    name: str, rng: np.random.Generator, tmp_path: Path
) -> None:
    with sona.Engine.create(name, small_config(), "inline") as engine:
        saver = subprocess.Popen(
            [sys.executable, "-m", "sona_shm.cli", "save", name, str(tmp_path / "d"), *OFTEN],
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            for _ in range(5):
                assert engine.observe(embedding(rng), "small", 0.5)
                await_checkpoint(tmp_path / "d", engine._version())
            assert wait_until(lambda: len(list_checkpoints(tmp_path / "d")) <= 3, PATIENCE)
            sona.Engine.destroy(name)
            assert saver.wait(PATIENCE) == 0
        finally:
            saver.kill()
            saver.communicate(timeout=PATIENCE)
