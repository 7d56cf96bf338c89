"""Loop B end to end: what a cycle changes, and who may ask for one."""

from __future__ import annotations

import dataclasses
import os
import threading

import numpy as np
import pytest

import sona_shm as sona
from sona_shm.learner import Learner
from sona_shm.learning.reservoir import Outcomes
from sona_shm.learning.snapshot import Patterns, Snapshot
from sona_shm.loops.background import FEWEST_SIGNALS
from sona_shm.loops.cycle import linear_features
from sona_shm.loops.working import WorkingBlocks
from sona_shm.shm.waiting import wait_until
from tests.background import (
    CONFIG,
    CYCLE_PATIENCE,
    DIM,
    ENOUGH_TO_FOLD,
    REQUESTED,
    ROUTES,
    SERVED,
    embeddings,
    move,
    step_until,
    teach,
)
from tests.children import PATIENCE, end, hear, start
from tests.torture.background import cycle_process_of

# ---- what a cycle changes ----


def test_a_cycle_folds_and_leaves_the_function_unchanged(
    name: str, rng: np.random.Generator
) -> None:
    with sona.Engine.create(name, CONFIG, learner="inline") as engine:
        teach(engine, rng)
        move(engine, embeddings(rng, 2))
        x = embeddings(rng)
        before, micro = engine.apply(x), engine.instant.micro_lora()
        assert micro.b.any()
        result = engine.force_learn()
        assert (result.status, result.consolidated) == ("done", True)
        assert np.abs(engine.apply(x) - before).max() <= result.truncation_error + 1e-5
        assert not engine.instant.micro_lora().b.any()
        np.testing.assert_allclose(engine.base_lora().shift(x), micro.shift(x), atol=1e-5)
        assert engine.instant.metrics.cycles_installed == 1


def test_learning_goes_on_after_a_cycle_and_truncates_when_it_must(
    name: str, rng: np.random.Generator
) -> None:
    config = sona.SonaConfig(hidden_dim=DIM, micro_lora_lr=1.0, base_lora_rank=2)
    with sona.Engine.create(name, config, learner="inline") as engine:
        errors = []
        for _ in range(4):
            for _ in range(2):
                move(engine, embeddings(rng, 2))
            x = embeddings(rng)
            before = engine.apply(x)
            result = engine.force_learn()
            assert (result.status, result.consolidated) == ("done", True)
            moved = np.linalg.norm(engine.apply(x) - before, axis=1).max()
            assert moved <= result.truncation_error + 1e-5
            errors.append(result.truncation_error)
        assert errors[0] == 0.0  # two of rank two fit
        assert errors[-1] > 0.0
        assert result.rows == 0  # no routes, no reservoir


def test_an_adapter_that_does_little_is_left_to_learn_on(
    name: str, rng: np.random.Generator
) -> None:
    """From a reset it would have to begin anew, and never get anywhere."""
    config = dataclasses.replace(CONFIG, micro_lora_lr=0.01)
    with sona.Engine.create(name, config, learner="inline") as engine:
        teach(engine, rng)
        before = engine.instant.micro_lora()
        result = engine.force_learn()
        assert (result.status, result.consolidated) == ("done", False)
        assert before.b.any()
        np.testing.assert_array_equal(engine.instant.micro_lora().b, before.b)


def test_an_adapter_that_is_not_finite_fails_the_cycle_and_not_the_learner(
    name: str, rng: np.random.Generator
) -> None:
    with sona.Engine.create(name, CONFIG, learner="inline") as engine:
        teach(engine, rng)
        drain = engine.instant._drain
        assert drain is not None
        drain.background.parts = frozenset({"consolidation"})
        working = WorkingBlocks(drain._core, CONFIG.geometry())
        working.snapshot.micro_b[0, 0] = np.nan
        result = engine.force_learn()
        assert result.status == "failed"
        assert "smaller micro_lora_lr" in result.reason
        working.snapshot.micro_b[0, 0] = 0.0
        assert engine.force_learn().status == "done"
        counters = engine.instant.metrics
        assert (counters.cycles_failed, counters.cycles_installed) == (1, 1)


def test_what_is_learned_sees_both_adapters(name: str, rng: np.random.Generator) -> None:
    """Trajectories move the sum of both towards its target: a fixed point stays one."""
    config = sona.SonaConfig(hidden_dim=DIM, micro_lora_lr=1.0)
    with sona.Engine.create(name, config, learner="inline") as engine:
        pair = embeddings(rng, 2)
        at = move(engine, pair, ENOUGH_TO_FOLD)
        assert at > 0.2
        assert engine.force_learn().consolidated
        assert abs(move(engine, pair, FEWEST_SIGNALS) - at) < 0.05


def test_patterns_follow_when_requests_have_moved(name: str, rng: np.random.Generator) -> None:
    """After 544 outcomes the next scheduled refit is far away."""
    with sona.Engine.create(name, CONFIG, learner="inline") as engine:
        teach(engine, rng)
        teach(engine, rng, 400, where=1)
        before = engine.reasoning_bank()
        result = engine.force_learn()
        after = engine.reasoning_bank()
        assert (result.reason, result.rows) == ("", CONFIG.reservoir)
        assert result.patterns_improvement > 0.0
        left = result.patterns_found - result.patterns_pruned - result.patterns_merged
        assert len(after) == result.patterns_installed == left
        assert after.patterns[0].created_at > before.patterns[0].created_at
        assert sum(pattern.cluster_size for pattern in after.patterns) == result.rows
        assert min(pattern.total_weight for pattern in after.patterns) > 0.0
        refits = Snapshot(engine._snapshot(), CONFIG.geometry()).refits
        assert engine.instant.metrics.refits_installed == refits  # cycles are counted apart


def test_patterns_that_predict_better_stay(name: str, rng: np.random.Generator) -> None:
    """The bank in use has learned seven times what the reservoir holds, in many small patterns."""
    config = sona.SonaConfig.from_mapping(CONFIG.to_mapping() | {"pattern_clusters": 200})
    with sona.Engine.create(name, config, learner="inline") as engine:
        teach(engine, rng, 3600)
        before = engine.reasoning_bank()
        result = engine.force_learn()
        assert result.patterns_improvement < 0.0
        assert result.patterns_installed == 0
        assert "in use predict held-out outcomes better" in result.reason
        after = engine.reasoning_bank()
        assert after.patterns[0].created_at == before.patterns[0].created_at
        assert after.patterns[0].total_weight == before.patterns[0].total_weight


def test_a_bad_head_is_refitted(name: str, rng: np.random.Generator) -> None:
    config = sona.SonaConfig.from_mapping(CONFIG.to_mapping() | {"head_lr": 1e-6})
    with sona.Engine.create(name, config, learner="inline") as engine:
        teach(engine, rng)
        result = engine.force_learn()
        assert len(result.heads) == len(ROUTES)
        assert any(head.refitted for head in result.heads)
        assert engine.instant.metrics.heads_refitted == sum(h.refitted for h in result.heads)
        snapshot = Snapshot(engine._snapshot(), config.geometry())
        for head in result.heads:
            assert bool(np.abs(snapshot.head(head.route)).max() > 0.01) == head.refitted


def test_the_linear_expert_sees_what_python_says(name: str, rng: np.random.Generator) -> None:
    """The features that heads are refitted on are those that the core predicts with."""
    config = sona.SonaConfig.from_mapping(CONFIG.to_mapping() | {"experts": ["linear"]})
    with sona.Engine.create(name, config, learner="inline") as engine:
        teach(engine, rng)
        move(engine, embeddings(rng, 2))
        assert engine.force_learn().consolidated
        teach(engine, rng, 50)
        block, slow = engine._patterns()
        snapshot = Snapshot(block, config.geometry())
        patterns = Patterns(slow, config.geometry())
        x = embeddings(rng, 1)
        features = linear_features(snapshot, patterns, x)[0]
        linear = [float(snapshot.head(k) @ features) + snapshot.bias(k) for k in range(3)]
        assert engine.observe(x[0], 1, 0.5)
        end_at = snapshot.reservoir_position + 1
        rows = engine._rows(end_at - 1, end_at)
        predicted = Outcomes.from_rows(rows, CONFIG.geometry()).linear
        assert predicted[0] == pytest.approx(float(np.clip(linear[1], -1, 1)), abs=1e-4)


def test_other_processes_read_the_reservoir(name: str, rng: np.random.Generator) -> None:
    with sona.Engine.create(name, CONFIG, learner="inline") as engine:
        x = embeddings(rng, 700)
        for i, row in enumerate(x):
            engine.observe(row, i % 3, 0.001 * i)
        outcomes = Outcomes.from_rows(engine._rows(200, 700), CONFIG.geometry())
        np.testing.assert_array_equal(outcomes.embeddings, x[200:])
        np.testing.assert_array_equal(outcomes.route, np.arange(200, 700) % 3)
        np.testing.assert_allclose(outcomes.quality, 0.001 * np.arange(200, 700), atol=1e-6)
        held = CONFIG.geometry().sizes()["reservoir_rows"]
        overwritten = Outcomes.from_rows(engine._rows(0, 100), CONFIG.geometry())
        assert len(overwritten) == 100 - (700 - held)
        with pytest.raises(ValueError, match="reservoir"):
            engine._rows(0, held + 1)


# ---- who may ask ----


def test_a_cycle_without_signals_is_skipped_and_says_so(
    name: str, rng: np.random.Generator
) -> None:
    with sona.Engine.create(name, CONFIG, learner="inline") as engine:
        teach(engine, rng, FEWEST_SIGNALS - 1)
        result = engine.force_learn()
        assert result.status == "skipped"
        assert result.reason == "99 signals since the last cycle, which needs 100"
        teach(engine, rng, 1)
        assert engine.force_learn().status == "done"
        assert engine.force_learn().status == "skipped"
        metrics = engine.instant.metrics
        assert (metrics.cycles_installed, metrics.cycles_skipped) == (1, 2)


@pytest.mark.parametrize("kind", ["inline", "thread", "process"])
def test_every_kind_of_learner_learns_in_the_background(
    name: str, rng: np.random.Generator, kind: str
) -> None:
    with sona.Engine.create(name, CONFIG, learner=kind) as engine:  # type: ignore[arg-type]  # a parameter
        teach(engine, rng)
        x = embeddings(rng)
        assert engine.flush(PATIENCE)
        before = engine.apply(x)
        result = engine.force_learn(CYCLE_PATIENCE)
        assert (result.status, result.rows) == ("done", CONFIG.reservoir)
        assert result.version_after > result.version_before
        assert engine._version() >= result.version_after
        assert np.abs(engine.apply(x) - before).max() <= result.truncation_error + 1e-5
        assert set(result.seconds) == {"reading", "patterns", "heads", "repeating", "installing"}


def test_a_cycle_goes_after_the_learner_and_not_last_of_all(
    name: str, rng: np.random.Generator
) -> None:
    """The lowest of all priorities is none where the cores are never idle."""
    with sona.Engine.create(name, CONFIG, learner="thread") as engine:
        teach(engine, rng)
        own = os.getpriority(os.PRIO_PROCESS, 0)
        assert engine.force_learn(CYCLE_PATIENCE).status == "done"
        cycle = cycle_process_of(os.getpid())
        assert cycle is not None
        assert os.getpriority(os.PRIO_PROCESS, cycle) == min(19, own + 10)
        assert os.getpriority(os.PRIO_PROCESS, 0) == own


def test_a_worker_in_another_process_asks(name: str, rng: np.random.Generator) -> None:
    with sona.Engine.create(name, CONFIG, learner="thread") as engine:
        teach(engine, rng)
        worker = start(
            "engine = sona.Engine.attach(name)\n"
            f"say(engine.force_learn({CYCLE_PATIENCE}).status)\nhear()",
            name,
        )
        try:
            assert hear(worker, CYCLE_PATIENCE) == "done"
        finally:
            end(worker)


def test_nobody_answers_where_nobody_learns(name: str, rng: np.random.Generator) -> None:
    with sona.Engine.create(name, CONFIG) as engine:
        teach(engine, rng, FEWEST_SIGNALS)
        result = engine.force_learn(timeout=0.01)
        assert result.status == "unanswered"
        assert "nobody learns" in result.reason
        with Learner(name) as learner:
            assert engine.force_learn(timeout=0.0).status == "unanswered"
            control = engine._memory.control  # both requests stand, and are answered together
            step_until(learner, lambda: control.load(SERVED) == control.load(REQUESTED) == 2)
        assert engine.instant.metrics.cycles_installed == 1


def test_who_asks_hears_that_the_engine_is_destroyed(name: str, rng: np.random.Generator) -> None:
    with sona.Engine.create(name, CONFIG) as engine, Learner(name):
        results: list[sona.LearnResult] = []
        asker = threading.Thread(target=lambda: results.append(engine.force_learn(2 * PATIENCE)))
        asker.start()
        assert wait_until(lambda: engine._memory.control.load(REQUESTED) == 1, PATIENCE)
        sona.Engine.destroy(name)
        asker.join(PATIENCE)  # less than it would wait for an answer
        assert [(r.status, r.reason) for r in results] == [
            ("unanswered", "the engine was destroyed meanwhile")
        ]


def test_nobody_waits_for_nan_seconds(name: str) -> None:
    with sona.Engine.create(name, CONFIG) as engine, Learner(name):
        assert engine.force_learn(float("nan")).status == "unanswered"
        assert not engine.flush(float("nan"))


def test_requests_at_the_same_time_are_one_cycle(name: str, rng: np.random.Generator) -> None:
    with sona.Engine.create(name, CONFIG) as engine, Learner(name) as learner:
        teach(engine, rng)
        results: list[sona.LearnResult] = []
        askers = [
            threading.Thread(target=lambda: results.append(engine.force_learn(CYCLE_PATIENCE)))
            for _ in range(3)
        ]
        for asker in askers:
            asker.start()
        assert wait_until(lambda: engine._memory.control.load(REQUESTED) == 3, PATIENCE)
        step_until(learner, lambda: engine._memory.control.load(SERVED) == 3)
        for asker in askers:
            asker.join(PATIENCE)
        assert [result.status for result in results] == ["done"] * 3
        assert engine.instant.metrics.cycles_installed == 1


def test_a_cycle_runs_at_its_interval(name: str, rng: np.random.Generator) -> None:
    config = sona.SonaConfig.from_mapping(CONFIG.to_mapping() | {"background_interval_ms": 1})
    with sona.Engine.create(name, config) as engine:
        teach(engine, rng)
        with Learner(name) as learner:
            step_until(learner, lambda: engine.instant.metrics.cycles_installed == 1)
            step_until(learner, lambda: engine.instant.metrics.cycles_skipped > 1)
