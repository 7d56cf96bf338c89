"""What is refused because of the state of the engine: absent, taken, damaged, closed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import sona_shm as sona
from sona_shm.shm.layout import LAYOUT_VERSION, OFFSETS
from sona_shm.shm.memory import EngineMemory
from sona_shm.shm.names import names_of
from tests.conftest import leftovers
from tests.processes import line_of, worker
from tests.refusals import DIM, X, raises_exactly, refused, trajectory

ROUTES = (sona.Route("small"), sona.Route("large", 1.0))


def create(name: str, **settings: object) -> sona.Engine:
    config = sona.SonaConfig(hidden_dim=DIM, routes=ROUTES, **settings)  # type: ignore[arg-type]  # wrong on purpose
    return sona.Engine.create(name, config)


# ---- more workers than lanes ----

OPERATIONS: dict[str, Callable[[sona.Engine], object]] = {
    "route": lambda engine: engine.route(X),
    "record": lambda engine: engine.record(trajectory()),
    "feedback": lambda engine: engine.feedback(1, 0.5),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_worker_without_a_free_lane_is_told_max_workers(name: str, operation: str) -> None:
    hold = "engine.feedback(0, 0.5); print('held', flush=True); sys.stdin.read()"
    with create(name, max_workers=2) as engine, worker(hold, name) as first:
        assert line_of(first) == "held"
        with worker(hold, name) as second:
            assert line_of(second) == "held"
            with refused(engine, sona.NoFreeLaneError, RuntimeError, "max_workers (now 2)"):
                OPERATIONS[operation](engine)
            np.testing.assert_array_equal(engine.apply(X), X)
        OPERATIONS[operation](engine)
        stats = engine.stats()
        assert stats.recorded + stats.decisions == 3


# ---- absent and taken ----


def test_attaching_to_nothing_is_engine_not_found(name: str) -> None:
    with raises_exactly(sona.EngineNotFound, FileNotFoundError, repr(name), "create"):
        sona.Engine.attach(name, timeout=0.0)
    assert leftovers(name) == []


def test_a_learner_for_nothing_is_engine_not_found(name: str) -> None:
    with raises_exactly(sona.EngineNotFound, FileNotFoundError, repr(name)):
        sona.Learner(name)


def test_destroying_nothing_is_engine_not_found(name: str) -> None:
    with raises_exactly(sona.EngineNotFound, FileNotFoundError, repr(name)):
        sona.Engine.destroy(name)
    assert leftovers(name) == []


def test_a_name_that_is_in_use_is_engine_exists(name: str) -> None:
    with create(name) as engine:
        engine.record(trajectory())
        with refused(engine, sona.EngineInUse, FileExistsError, repr(name), "worker "):
            sona.Engine.create(name, sona.SonaConfig(hidden_dim=DIM), replace=True)


def test_a_lane_claimed_after_destroy_is_engine_not_found(name: str) -> None:
    with create(name) as engine:
        sona.Engine.destroy(name)
        with raises_exactly(sona.EngineNotFound, FileNotFoundError, repr(name), "destroyed"):
            engine.route(X)


# ---- damaged ----


@pytest.fixture
def memory(name: str) -> Iterator[EngineMemory]:
    """The memory of an engine that one trajectory was recorded into, for a test to damage."""
    with create(name) as engine:
        engine.record(trajectory())
        memory = EngineMemory(names_of(name))
        yield memory
        memory.close()


def store_identity(memory: EngineMemory, kind: str, field: str, value: int) -> None:
    offset = OFFSETS[f"segment_identity.{field}"]
    memory.buffer(kind)[offset : offset + 8] = value.to_bytes(8, "little")


@pytest.mark.parametrize("kind", ["control", "ring", "weights"])
@pytest.mark.parametrize("version", [0, LAYOUT_VERSION + 1, 2**64 - 1])
def test_another_layout_version_is_layout_mismatch(
    name: str, memory: EngineMemory, kind: str, version: int
) -> None:
    store_identity(memory, kind, "layout_version", version)
    found, ours = f"layout version {version}", f"has {LAYOUT_VERSION}"
    with raises_exactly(sona.LayoutMismatch, RuntimeError, found, ours):
        sona.Engine.attach(name, timeout=0.0)


@pytest.mark.parametrize("kind", ["control", "ring", "weights"])
@pytest.mark.parametrize("field", ["magic", "kind", "bytes"])
def test_an_identity_that_cannot_be_is_corrupt_segment(
    name: str, memory: EngineMemory, kind: str, field: str
) -> None:
    store_identity(memory, kind, field, 2**60)
    with raises_exactly(sona.CorruptSegment, RuntimeError, f"sona-{name}", kind):
        sona.Engine.attach(name, timeout=0.0)


def test_a_changed_configuration_is_corrupt_segment(name: str, memory: EngineMemory) -> None:
    memory.buffer("control")[memory.sizes["config_offset"] + 5] ^= 1
    with raises_exactly(sona.CorruptSegment, RuntimeError, f"sona-{name}", "checksum"):
        sona.Engine.attach(name, timeout=0.0)


@pytest.mark.parametrize("field", range(6))
def test_a_geometry_that_cannot_be_is_corrupt_segment(
    name: str, memory: EngineMemory, field: int
) -> None:
    memory.control.store(OFFSETS["control_header.hidden_dim"] + 8 * field, 2**40)
    with raises_exactly(sona.CorruptSegment, RuntimeError, f"sona-{name}", "destroy"):
        sona.Engine.attach(name, timeout=0.0)


def test_a_published_block_of_another_version_is_corrupt_segment(
    name: str, memory: EngineMemory
) -> None:
    start = memory.sizes["buffers_offset"] + OFFSETS["snapshot_header.version"]
    memory.buffer("weights")[start : start + 8] = (77).to_bytes(8, "little")
    with raises_exactly(sona.CorruptSegment, RuntimeError, "version", "destroy"):
        sona.Learner(name)


@pytest.mark.parametrize("field", ["ready", "magic"])
def test_a_half_made_engine_is_engine_not_ready(
    name: str, memory: EngineMemory, field: str
) -> None:
    if field == "ready":
        memory.control.store(OFFSETS["control_header.ready"], 0)
    else:
        store_identity(memory, "control", "magic", 0)
    with raises_exactly(sona.EngineNotReady, TimeoutError, repr(name), "half-made"):
        sona.Engine.attach(name, timeout=0.0)


def test_a_segment_of_another_engine_is_engine_not_ready(name: str, memory: EngineMemory) -> None:
    store_identity(memory, "ring", "creation_id", memory.creation_id ^ 1)
    with raises_exactly(sona.EngineNotReady, TimeoutError, repr(name)):
        sona.Engine.attach(name, timeout=0.0)


# ---- not the learner ----

LEARNER_ONLY: dict[str, Callable[[sona.Engine], object]] = {
    "drain_trajectories": lambda engine: engine.instant.drain_trajectories(),
    "drain_trajectories_n": lambda engine: engine.instant.drain_trajectories_n(1),
    "buffer().drain": lambda engine: engine.instant.buffer().drain(),
    "buffer().drain_n": lambda engine: engine.instant.buffer().drain_n(1),
}


@pytest.mark.parametrize("operation", LEARNER_ONLY)
def test_draining_in_a_worker_is_not_the_learner(name: str, operation: str) -> None:
    with create(name) as engine:
        engine.record(trajectory())
        with refused(engine, sona.NotTheLearner, RuntimeError, "learner"):
            LEARNER_ONLY[operation](engine)


HOLDER = "learner = sona.Learner(sys.argv[1]); print('held', flush=True); sys.stdin.read()"


def test_a_lease_that_is_held_names_its_holder(name: str) -> None:
    with create(name) as engine, worker(HOLDER, name) as holder:
        assert line_of(holder) == "held"
        for attempt in (
            lambda: sona.Learner(name),
            lambda: sona.Engine.attach(name, "inline"),
            engine.instant.become_learner,
        ):
            with refused(engine, sona.NotTheLearner, RuntimeError, str(holder.pid)):
                attempt()


def test_a_learner_thread_beside_another_learner_is_refused(name: str) -> None:
    with create(name) as engine, worker(HOLDER, name) as holder:
        assert line_of(holder) == "held"
        with refused(engine, sona.NotTheLearner, RuntimeError):
            sona.Engine.attach(name, "thread").close()


def test_two_learners_of_one_process_exclude_each_other(name: str) -> None:
    with create(name) as engine, sona.Learner(name):
        with refused(engine, sona.NotTheLearner, RuntimeError, str(os.getpid())):
            sona.Learner(name)
        with refused(engine, sona.NotTheLearner, RuntimeError, str(os.getpid())):
            engine.instant.become_learner()


# ---- closed ----

AFTER_CLOSE: dict[str, Callable[[sona.Engine], object]] = {
    "apply": lambda engine: engine.apply(X),
    "apply out": lambda engine: engine.apply(X, out=np.empty(DIM, np.float32)),
    "route": lambda engine: engine.route(X),
    "feedback": lambda engine: engine.feedback(1, 0.5),
    "record": lambda engine: engine.record(trajectory()),
    "begin_trajectory": lambda engine: engine.begin_trajectory(X),
    "end_trajectory": lambda engine: engine.end_trajectory(sona.TrajectoryBuilder(1, X), 0.5),
    "flush": lambda engine: engine.flush(),
    "stats": lambda engine: engine.stats(),
    "instant.next_id": lambda engine: engine.instant.next_id(),
    "instant.on_trajectory": lambda engine: engine.instant.on_trajectory(trajectory()),
    "instant.flush": lambda engine: engine.instant.flush(),
    "instant.metrics": lambda engine: engine.instant.metrics,
    "instant.micro_lora": lambda engine: engine.instant.micro_lora(),
    "instant.pending_count": lambda engine: engine.instant.pending_count(),
    "instant.buffer_stats": lambda engine: engine.instant.buffer_stats(),
    "instant.become_learner": lambda engine: engine.instant.become_learner(),
    "buffer length": lambda engine: len(engine.instant.buffer()),
    "buffer dropped_count": lambda engine: engine.instant.buffer().dropped_count,
    "buffer success_rate": lambda engine: engine.instant.buffer().success_rate,
    **LEARNER_ONLY,
}


@pytest.mark.parametrize("operation", AFTER_CLOSE)
@pytest.mark.parametrize("learner", [None, "inline"])
def test_use_after_close_is_engine_closed(name: str, operation: str, learner: str | None) -> None:
    create(name).close()
    engine = sona.Engine.attach(name, learner)  # type: ignore[arg-type]  # wrong on purpose
    engine.feedback(engine.route(X).id, 0.5)
    engine.close()
    with sona.Engine.attach(name) as witness:
        with refused(witness, sona.EngineClosed, RuntimeError, "closed", "attach"):
            AFTER_CLOSE[operation](engine)
        assert not any(witness._memory.lock_states()[1]), "a lane is held by a closed engine"
        assert not witness.stats().learner_alive, "the lease is held by a closed engine"


def test_close_may_be_repeated(name: str) -> None:
    engine = create(name)
    engine.close()
    engine.close()
    engine.instant.close()
    with engine:
        pass
    with sona.Engine.attach(name) as again:
        np.testing.assert_array_equal(again.apply(X), X)


def test_use_of_a_learner_after_close_is_engine_closed(name: str) -> None:
    with create(name):
        learner = sona.Learner(name)
        learner.close()
        with raises_exactly(sona.EngineClosed, RuntimeError, "closed"):
            learner.step()
        with raises_exactly(sona.EngineClosed, RuntimeError, "closed"):
            learner.wait(0.0)


def test_closing_a_learner_may_be_repeated(name: str) -> None:
    with create(name), sona.Learner(name) as learner:
        learner.close()
        learner.close()


def test_use_of_a_stand_alone_loop_after_close_is_engine_closed() -> None:
    loop = sona.InstantLoop(DIM)
    loop.close()
    loop.close()
    with raises_exactly(sona.EngineClosed, RuntimeError, "closed"):
        loop.on_trajectory(trajectory())
    with raises_exactly(sona.EngineClosed, RuntimeError, "closed"):
        loop.micro_lora()
