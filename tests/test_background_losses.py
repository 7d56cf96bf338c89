"""Cycles of Loop B that are killed, interrupted, overtaken or answer nonsense."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

import numpy as np
import pytest

import sona_shm as sona
from sona_shm.learner import Learner
from sona_shm.learning.snapshot import Patterns
from sona_shm.shm.waiting import wait_until
from tests.background import CONFIG, CYCLE_PATIENCE, ask, drain_of, embeddings, step_until, teach
from tests.children import PATIENCE, end, hear, start
from tests.torture.background import cycle_process_of
from tests.torture.processes import LEARNER_PID


def test_a_killed_cycle_changes_nothing(name: str, rng: np.random.Generator) -> None:
    with sona.Engine.create(name, CONFIG) as engine, Learner(name) as learner:
        teach(engine, rng)
        step_until(learner, lambda: engine.instant.metrics.outcomes_learned == 600)
        x = embeddings(rng)
        before = engine.apply(x)
        background = drain_of(learner).background
        answered = ask(engine)
        step_until(learner, lambda: background._process is not None)
        process = background._process
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
        step_until(learner, answered)
        metrics = engine.instant.metrics
        assert (metrics.cycles_failed, metrics.cycles_installed) == (1, 0)
        np.testing.assert_array_equal(engine.apply(x), before)
        answered = ask(engine)
        step_until(learner, answered)
        assert engine.instant.metrics.cycles_installed == 1


@pytest.mark.parametrize("part", ["find", "prepare"])
def test_an_interrupted_cycle_changes_nothing(
    name: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """Ctrl-C in the process that learns inline: no part of the cycle is installed later."""

    def interrupted(*arguments: object, **settings: object) -> None:
        raise KeyboardInterrupt

    with sona.Engine.create(name, CONFIG, learner="inline") as engine:
        teach(engine, rng)
        # All new patterns are better, or there might be nothing to prepare.
        monkeypatch.setattr("sona_shm.loops.cycle.bank_gain", lambda *_: (1.0, 0.0))
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(f"sona_shm.loops.background.{part}", interrupted)
            engine.force_learn()
        teach(engine, rng, 1)
        metrics = engine.instant.metrics
        counts = (metrics.cycles_failed, metrics.cycles_installed, metrics.cycles_skipped)
        assert counts == (1, 0, 0)
        assert not engine.base_lora().b.any()
        assert engine.force_learn().status == "done"


def test_a_reason_of_any_length_reaches_who_asked(
    name: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*arguments: object) -> None:
        raise ValueError("x" * 100_000)

    monkeypatch.setattr("sona_shm.loops.cycle_process._read", failing)
    with sona.Engine.create(name, CONFIG, learner="thread") as engine:
        teach(engine, rng)
        result = engine.force_learn(PATIENCE)
        assert result.status == "failed"
        assert result.reason.startswith("ValueError('xxx")
        assert engine.instant.metrics.cycles_failed == 1
        assert engine.flush(PATIENCE)  # the learner is alive


def test_modules_in_the_working_directory_are_not_the_cycle_s(
    name: str, rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "msgpack.py").write_text("raise ImportError('not the one that is meant')")
    monkeypatch.chdir(tmp_path)
    with sona.Engine.create(name, CONFIG, learner="thread") as engine:
        teach(engine, rng)
        assert engine.force_learn(CYCLE_PATIENCE).status == "done"


def test_descriptors_of_any_number_are_waited_for(name: str, rng: np.random.Generator) -> None:
    """A worker with many connections has a learner in a thread."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1200), hard))
    taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(1050)]
    try:
        with sona.Engine.create(name, CONFIG, learner="thread") as engine:
            teach(engine, rng)
            assert engine.force_learn(CYCLE_PATIENCE).status == "done"
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_cycle_that_a_refit_overtook_leaves_its_patterns_out(
    name: str, rng: np.random.Generator
) -> None:
    with sona.Engine.create(name, CONFIG) as engine, Learner(name) as learner:
        teach(engine, rng)
        teach(engine, rng, 400, where=1)
        drain = drain_of(learner)
        answered = ask(engine)
        step_until(learner, lambda: drain.background._cycle is not None)
        cycle = drain.background._cycle
        assert cycle is not None
        assert wait_until(lambda: cycle.ended, CYCLE_PATIENCE)
        assert cycle.refit is not None
        fitted = Patterns(engine._patterns()[1], CONFIG.geometry()).fitted_ns
        drain._core.end_scheduled_refit(False)
        step_until(learner, answered)
        assert engine.instant.metrics.cycles_installed == 1
        patterns = Patterns(engine._patterns()[1], CONFIG.geometry())
        assert patterns.consolidations == 1
        assert patterns.fitted_ns == fitted  # as the scheduled refit left them


def test_a_learner_that_is_killed_inside_a_cycle_loses_only_that(
    name: str, rng: np.random.Generator
) -> None:
    daemon = "from sona_shm.learner import run\nsay('up')\nrun(name, threading.Event())"
    with sona.Engine.create(name, CONFIG) as engine:
        first, second = (start(daemon, name) for _ in range(2))
        try:
            assert (hear(first), hear(second)) == ("up", "up")
            teach(engine, rng)
            assert engine.flush(PATIENCE)
            control = engine._memory.control
            holder, standby = first, second
            if control.load(LEARNER_PID) == second.pid:
                holder, standby = second, first
            answered = ask(engine)
            assert wait_until(lambda: cycle_process_of(holder.pid) is not None, PATIENCE)
            cycle = cycle_process_of(holder.pid)
            assert cycle is not None
            os.kill(cycle, signal.SIGSTOP)  # so that it is not done before the learner dies
            holder.kill()
            holder.wait(PATIENCE)
            os.kill(cycle, signal.SIGCONT)
            assert wait_until(lambda: control.load(LEARNER_PID) == standby.pid, PATIENCE)
            assert wait_until(answered, CYCLE_PATIENCE)
            assert wait_until(lambda: not Path(f"/proc/{cycle}").exists(), PATIENCE)
            metrics = engine.instant.metrics
            assert metrics.cycles_installed == 1
            assert metrics.outcomes_learned == metrics.feedback_processed == 600
        finally:
            end(first)
            end(second)


def test_closing_a_learner_inside_a_cycle_does_not_wait_for_it(
    name: str, rng: np.random.Generator
) -> None:
    with sona.Engine.create(name, CONFIG) as engine:
        teach(engine, rng)
        with Learner(name) as learner:
            background = drain_of(learner).background
            ask(engine)
            step_until(learner, lambda: background._process is not None)
            process = background._process
            assert process is not None
            os.kill(process.pid, signal.SIGSTOP)
        assert not Path(f"/proc/{process.pid}").exists()
        assert engine.instant.metrics.cycles_installed == 0
