"""The seed document's four unit tests, and the published crate's own answers."""

from __future__ import annotations

import json

import numpy as np
import pytest

import sona_shm as sona
from tests.conftest import shared_file


def make_trajectory(id: int) -> sona.QueryTrajectory:
    t = sona.QueryTrajectory(id, [0.1] * 64)
    t.add_step(sona.TrajectoryStep([0.5] * 64, [], 0.8, 0))
    t.finalize(0.8, 1000)
    return t


def engine_loop(name: str, **settings: object) -> sona.Engine:
    config = sona.SonaConfig(hidden_dim=64, flush_interval_ms=None, **settings)  # type: ignore[arg-type]  # settings by name
    return sona.Engine.create(name, config, learner="inline")


def test_instant_loop_creation(name: str) -> None:
    with engine_loop(name) as engine:
        assert engine.instant.pending_count() == 0


def test_trajectory_processing(name: str) -> None:
    with engine_loop(name) as engine:
        loop = engine.instant
        loop.on_trajectory(make_trajectory(loop.next_id()))
        assert loop.pending_count() == 1
        assert loop.metrics.trajectories_processed == 1


def test_auto_flush(name: str) -> None:
    with engine_loop(name, flush_threshold=3) as engine:
        for i in range(5):
            engine.instant.on_trajectory(make_trajectory(i))
        assert engine.instant.metrics.flushes_performed == 1
        assert engine.instant.metrics.updates_applied == 3


def test_drain(name: str) -> None:
    with engine_loop(name) as engine:
        for i in range(10):
            engine.instant.on_trajectory(make_trajectory(i))
        drained = engine.instant.drain_trajectories()
        assert len(drained) == 10
        assert [t.id for t in drained] == list(range(10))
        assert engine.instant.pending_count() == 0


def golden_cases() -> list[object]:
    path = shared_file("golden", "ruvector_sona_0.1.8.json")
    cases: list[object] = json.loads(path.read_text())["cases"]
    return cases


def test_reference_rule_reproduces_every_published_answer(name: str) -> None:
    cases = golden_cases()
    assert len(cases) >= 20
    for case in cases:
        assert isinstance(case, dict)
        config = sona.SonaConfig(
            hidden_dim=case["hidden_dim"],
            micro_lora_rank=case["rank"],
            micro_lora_lr=case["learning_rate"],
            flush_threshold=case["flush_threshold"],
            update_rule="reference",
        )
        with sona.Engine.create(name, config, learner="inline") as engine:
            for i, recorded in enumerate(case["trajectories"]):
                t = sona.QueryTrajectory(i, recorded["embedding"])
                for index, step in enumerate(recorded["steps"]):
                    t.add_step(sona.TrajectoryStep(step["activations"], [], step["reward"], index))
                assert engine.record(t.finalize(recorded["quality"]))
            engine.flush()
            for probe in case["probes"]:
                answer = engine.apply(probe["input"])
                np.testing.assert_allclose(answer, probe["output"], atol=1e-5, err_msg=case["name"])
        sona.Engine.destroy(name)


def test_stand_alone_loop_removes_its_engine() -> None:
    loop = sona.InstantLoop(64)
    name = loop._memory.names.engine
    loop.on_trajectory(make_trajectory(loop.next_id()))
    loop.close()
    with pytest.raises(sona.EngineNotFound):
        sona.Engine.attach(name)
