"""How much shared memory an engine takes, what fits into it, and what it may be called."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import posix_ipc
import pytest

import sona_shm as sona
from sona_shm.shm.layout import SEGMENT_KINDS
from sona_shm.shm.names import names_of
from tests.conftest import leftovers, remove_everything
from tests.refusals import raises_exactly


def bytes_in_dev_shm(name: str) -> int:
    total = 0
    for segment in names_of(name).segments:
        memory = posix_ipc.SharedMemory(segment)
        total += memory.size
        memory.close_fd()
    return total


@pytest.mark.parametrize(
    "config",
    [
        sona.SonaConfig(),
        sona.SonaConfig.edge_deployment(),
        sona.SonaConfig.max_quality(hidden_dim=3),
        sona.SonaConfig(hidden_dim=1, trajectory_capacity=1, max_workers=1, pending_decisions=1),
        sona.SonaConfig(hidden_dim=33, max_workers=3, routes=(sona.Route("a"),)),
        sona.SonaConfig(hidden_dim=8, routes=(sona.Route("a"), sona.Route("b", 1.0))),
    ],
    ids=["default", "edge", "quality", "least", "odd", "routes"],
)
def test_nbytes_is_what_the_segments_take(name: str, config: sona.SonaConfig) -> None:
    with sona.Engine.create(name, config) as engine:
        assert len(names_of(name).segments) == len(SEGMENT_KINDS)
        assert config.nbytes() == bytes_in_dev_shm(name) == engine.stats().bytes


def test_the_default_engine_fits_into_dockers_shared_memory() -> None:
    assert sona.SonaConfig().nbytes() <= 64 * 2**20
    assert sona.SonaConfig.edge_deployment().nbytes() < 5_000_000


@pytest.mark.parametrize("capacity", [1, 100, 10_000])
def test_the_lanes_hold_the_trajectory_capacity(name: str, capacity: int) -> None:
    config = sona.SonaConfig(hidden_dim=8, trajectory_capacity=capacity, max_workers=1)
    with sona.Engine.create(name, config) as engine:
        typical = sona.QueryTrajectory(1, [1.0] * 8)
        typical.add_step(sona.TrajectoryStep([1.0] * 8, [], 0.5))
        assert all(engine.record(typical.finalize(0.5)) for _ in range(capacity))


@pytest.mark.parametrize(("hidden_dim", "capacity"), [(8, 100), (64, 1000), (256, 1)])
def test_a_stand_alone_loop_keeps_its_buffer_capacity(hidden_dim: int, capacity: int) -> None:
    config = sona.InstantLoopConfig(buffer_capacity=capacity)
    with sona.InstantLoop(hidden_dim, config) as loop:
        for index in range(capacity):
            typical = sona.QueryTrajectory(index, [1.0] * hidden_dim)
            typical.add_step(sona.TrajectoryStep([1.0] * hidden_dim, [], 0.5))
            assert loop.on_trajectory(typical.finalize(0.5))
        assert [t.id for t in loop.drain_trajectories()] == list(range(capacity))


def test_lanes_beyond_their_largest_size_are_refused() -> None:
    large = {"hidden_dim": 4096, "trajectory_capacity": 100_000, "max_workers": 1}
    with raises_exactly(sona.ConfigError, ValueError, "trajectory_capacity"):
        sona.SonaConfig(**large).nbytes()  # type: ignore[arg-type]  # settings by name


# ---- names of engines ----

WRONG_NAMES = ["", "x" * 23, "é", "a\0b", "a/b", "/a", "../a", "a b", "a.b", "-a", "_a", "a\n"]


@pytest.mark.parametrize("wrong", [*WRONG_NAMES, None, 7, b"a"], ids=repr)
def test_an_engine_name_is_refused_before_anything_is_made(wrong: Any) -> None:
    config = sona.SonaConfig(hidden_dim=2)
    before = sorted(path.name for path in Path("/dev/shm").glob("sona-a*"))
    for use in (
        lambda: sona.Engine.create(wrong, config),
        lambda: sona.Engine.attach(wrong),
        lambda: sona.Engine.destroy(wrong),
        lambda: sona.Learner(wrong),
    ):
        with raises_exactly(sona.ConfigError, ValueError, repr(wrong), "22"):
            use()
    assert sorted(path.name for path in Path("/dev/shm").glob("sona-a*")) == before


@pytest.fixture
def longest_name() -> Iterator[str]:
    longest = f"t-{secrets.token_hex(10)}"
    yield longest
    remove_everything(longest)


def test_the_longest_engine_name_is_accepted(longest_name: str) -> None:
    assert len(longest_name) == 22
    with sona.Engine.create(longest_name, sona.SonaConfig(hidden_dim=2)):
        assert all(len(part) <= 30 for part in names_of(longest_name)[1:])
        with sona.Engine.attach(longest_name) as attached:
            assert attached.name == longest_name
    sona.Engine.destroy(longest_name)
    assert leftovers(longest_name) == []


@pytest.mark.parametrize("learner", ["Inline", "", 1, True], ids=repr)
def test_an_unknown_kind_of_learner_is_refused(name: str, learner: Any) -> None:
    with raises_exactly(sona.ConfigError, ValueError, repr(learner), "inline"):
        sona.Engine.create(name, sona.SonaConfig(hidden_dim=2), learner)
    assert leftovers(name) == []
