"""Callers whose arguments run Python, close the engine, or change while they are read."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import sona_shm as sona
from tests.children import run as run_child

DIM = 4


@pytest.fixture
def engine(name: str) -> Iterator[sona.Engine]:
    config = sona.SonaConfig(hidden_dim=DIM, routes=[sona.Route("a"), sona.Route("b")])
    with sona.Engine.create(name, config) as made:
        made.feedback(made.route(np.ones(DIM)).id, 0.5)  # has its lane
        yield made


class ClosingNumber:
    """A number that closes the engine when it is asked for its value."""

    def __init__(self, engine: sona.Engine) -> None:
        self._engine = engine

    def __float__(self) -> float:
        self._engine.close()
        return 0.5


class ClosingArray:
    """An embedding that closes the engine while numpy reads it."""

    def __init__(self, engine: sona.Engine) -> None:
        self._engine = engine

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        self._engine.close()
        return np.ones(DIM, np.float32)


def test_feedback_that_closes_the_engine_is_engine_closed(engine: sona.Engine) -> None:
    with pytest.raises(sona.EngineClosed):
        engine.feedback(1, ClosingNumber(engine))  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize("method", ["apply", "route"])
def test_an_embedding_that_closes_the_engine_is_engine_closed(
    engine: sona.Engine, method: str
) -> None:
    with pytest.raises(sona.EngineClosed):
        getattr(engine, method)(ClosingArray(engine))


def test_a_trajectory_that_closes_the_engine_is_engine_closed(engine: sona.Engine) -> None:
    with pytest.raises(sona.EngineClosed):
        engine.record(sona.QueryTrajectory(1, ClosingArray(engine)).finalize(0.5))


def test_steps_that_vanish_while_they_are_read_are_recorded_as_they_were(
    engine: sona.Engine,
) -> None:
    t = sona.QueryTrajectory(1, np.ones(DIM)).finalize(0.5)

    class Vanishing:
        def __float__(self) -> float:
            t.steps.clear()
            return 0.5

    for _ in range(3):
        t.add_step(sona.TrajectoryStep(np.ones(DIM), [], Vanishing()))  # type: ignore[arg-type]  # wrong on purpose
    assert engine.record(t)


def test_a_step_without_attention_weights_is_an_attribute_error(engine: sona.Engine) -> None:
    class Bare:
        activations, reward, step_idx, layer_name = np.ones(DIM), 0.5, 0, None

    t = sona.QueryTrajectory(1, np.ones(DIM)).finalize(0.5)
    t.steps.append(Bare())  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(AttributeError, match="attention_weights"):
        engine.record(t)
    t.steps.clear()
    assert engine.record(t)


def test_long_embeddings_do_not_drown_the_others(name: str, rng: np.random.Generator) -> None:
    """Half of the requests are 4,000 times as long; the rest are learned all the same."""
    config = sona.SonaConfig(
        hidden_dim=8, routes=[sona.Route("a"), sona.Route("b")], seed=int(rng.integers(2**62))
    )
    right = 0
    with sona.Engine.create(name, config, learner="inline") as engine:
        for turn in range(2000):
            x = rng.standard_normal(8)
            x *= (4000.0 if turn % 2 else 1.0) / np.linalg.norm(x)
            decision = engine.route(x)
            good = decision.index == int(x[0] > 0.0)
            engine.feedback(decision.id, float(good))
            right += good and turn >= 1000
    assert right >= 850


def test_an_embedding_too_large_to_square_is_refused(engine: sona.Engine) -> None:
    with pytest.raises(sona.NonFiniteError, match="too large"):
        engine.route(np.full(DIM, 3e38, np.float32))


@pytest.mark.parametrize("learner", ["inline", "thread", "process"])
def test_a_program_that_forgets_close_ends_quietly_and_loses_nothing(
    name: str, learner: str
) -> None:
    code = f"""
    config = sona.SonaConfig(hidden_dim=4, routes=[sona.Route("a"), sona.Route("b")])
    engine = sona.Engine.create(name, config, learner={learner!r})
    for _ in range(500):
        assert engine.feedback(engine.route(np.ones(4)).id, 0.5)
    """
    run_child(code, name)
    with sona.Engine.attach(name, learner="inline") as engine:
        engine.flush()
        metrics = engine.instant.metrics
    assert metrics.outcomes_learned == metrics.feedback_processed == 500


def test_a_learner_may_be_closed_while_another_thread_waits(name: str) -> None:
    code = """
    from sona_shm.learner import Learner
    from sona_shm.shm.layout import OFFSETS
    sona.Engine.create(name, sona.SonaConfig(hidden_dim=4)).close()
    learner = Learner(name)
    learner.step()
    waiting = threading.Thread(target=learner.wait, args=(30.0,))
    waiting.start()
    while not learner._memory.control.load(OFFSETS["control_header.learner_sleeping"]):
        pass
    learner.close()
    waiting.join(30.0)
    assert not waiting.is_alive()
    """
    run_child(code, name)
