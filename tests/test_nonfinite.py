"""A value that is not finite and reaches the learner all the same: counted, and skipped."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import pytest

import sona_shm as sona
from sona_shm.shm.memory import EngineMemory
from sona_shm.shm.names import names_of
from tests.refusals import DIM, X, trajectory

HEADER = 64
QUALITY = 24  # byte of the quality in a record's header
# Byte of each value in the record of a trajectory with one step.
PLACES = {
    "quality": QUALITY,
    "embedding": HEADER,
    "reward": HEADER + 4 * DIM,
    "activations": HEADER + 4 * DIM + 16,
}
NOT_FINITE = [math.nan, math.inf, -math.inf]


def create(name: str, rule: Any = "exact") -> sona.Engine:
    routes = (sona.Route("small"), sona.Route("large"))
    config = sona.SonaConfig(hidden_dim=DIM, routes=routes, update_rule=rule)
    return sona.Engine.create(name, config)


def spoil(name: str, segment_place: str, offset: int, value: float) -> None:
    """Overwrite a float of lane 0, as a stray write of another process would."""
    memory = EngineMemory(names_of(name))
    start = memory.sizes["lanes_offset"] + memory.sizes[segment_place] + offset
    memory.buffer("ring")[start : start + 4] = struct.pack("<f", value)
    memory.close()


def learn_all(name: str) -> int:
    with sona.Learner(name) as learner:
        return learner.step()


def learned_weights(engine: sona.Engine) -> bytes:
    """Everything learned but the counters: adapter, heads, optimiser, statistics."""
    sizes, block = engine._memory.sizes, engine._snapshot()
    return block[sizes["micro_a"] : sizes["lane_progress"]] + block[sizes["routes_offset"] :]


@pytest.mark.parametrize("rule", ["exact", "reference"])
@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("place", PLACES)
def test_a_spoiled_trajectory_is_counted_and_skipped(
    name: str, place: str, value: float, rule: str
) -> None:
    with create(name, rule) as engine:
        engine.record(trajectory())
        spoil(name, "lane_ring_offset", PLACES[place], value)
        before = learned_weights(engine)
        assert learn_all(name) == 1
        counters = engine.instant.metrics
        assert counters.trajectories_processed == 1
        assert counters.nonfinite_skipped == 1
        assert counters.signals_accumulated == 0
        assert learned_weights(engine) == before
        assert engine.stats().version > 0, "the position behind the record is published"


@pytest.mark.parametrize("value", NOT_FINITE)
def test_a_spoiled_feedback_is_counted_and_skipped(name: str, value: float) -> None:
    with create(name) as engine:
        engine.feedback(engine.route(X).id, 0.9)
        spoil(name, "lane_ring_offset", QUALITY, value)
        before = learned_weights(engine)
        assert learn_all(name) == 1
        counters = engine.instant.metrics
        assert (counters.feedback_processed, counters.nonfinite_skipped) == (1, 1)
        assert counters.outcomes_learned == 0
        assert learned_weights(engine) == before


@pytest.mark.parametrize("value", NOT_FINITE)
def test_a_spoiled_decision_is_counted_and_skipped(name: str, value: float) -> None:
    with create(name) as engine:
        engine.feedback(engine.route(X).id, 0.9)
        spoil(name, "lane_slots_offset", engine._memory.sizes["slot_embedding"] + 4, value)
        before = learned_weights(engine)
        assert learn_all(name) == 1
        assert engine.instant.metrics.nonfinite_skipped == 1
        assert learned_weights(engine) == before


@pytest.mark.parametrize("rule", ["exact", "reference"])
def test_learning_goes_on_behind_a_spoiled_record(name: str, rule: str) -> None:
    with create(name, rule) as engine:
        engine.record(trajectory(quality=0.1))
        engine.record(trajectory(quality=0.9))
        spoil(name, "lane_ring_offset", PLACES["quality"], math.nan)
        assert learn_all(name) == 2
        after_spoiled = learned_weights(engine)
        sona.Engine.destroy(name)
    with create(name, rule) as engine:
        engine.record(trajectory(quality=0.9))
        learn_all(name)
        assert learned_weights(engine) == after_spoiled


@pytest.mark.parametrize("kind", ["embedding", "activations"])
def test_finite_values_whose_square_overflows_are_counted_and_skipped(name: str, kind: str) -> None:
    huge = np.full(DIM, 1e30, np.float32)
    with create(name) as engine:
        engine.record(trajectory(**{kind: huge}))
        before = learned_weights(engine)
        learn_all(name)
        assert engine.instant.metrics.nonfinite_skipped == 1
        assert learned_weights(engine) == before


def test_a_skipped_feedback_does_not_use_up_its_decision(name: str) -> None:
    with create(name) as engine:
        decision_id = engine.route(X).id
        engine.feedback(decision_id, 0.9)
        spoil(name, "lane_ring_offset", QUALITY, math.nan)
        engine.feedback(decision_id, 0.9)
        learn_all(name)
        counters = engine.instant.metrics
        assert (counters.nonfinite_skipped, counters.outcomes_learned) == (1, 1)
