"""Saving and restoring: what is saved is all of it, and what is restored is the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import sona_shm as sona
from sona_shm import _core
from sona_shm.checkpoint.sections import Extent, Section, block_bytes, gather, scatter, sections
from sona_shm.checkpoint.state import state_of_blocks
from sona_shm.learning.snapshot import Snapshot
from sona_shm.shm.layout import CACHE_LINE, OFFSETS, Geometry
from sona_shm.shm.waiting import wait_until
from tests.checkpoints import (
    assert_books_agree,
    blank_times,
    embedding,
    learn_something,
    learned,
    small_config,
    state_of,
)
from tests.conftest import leftovers, remove_everything
from tests.torture.processes import Child, await_learner, learn

PATIENCE = 60.0
GEOMETRIES = [
    small_config().geometry(),
    small_config(hidden_dim=1, pattern_clusters=1, micro_lora_rank=1).geometry(),
    sona.SonaConfig(hidden_dim=33, routes=[sona.Route("a")], pattern_clusters=77).geometry(),
    sona.SonaConfig(hidden_dim=16).geometry(),
]


# ---- the table ----


def uncovered(geometry: Geometry, table: list[Section], extent: Extent) -> list[str]:
    """Pieces of the blocks, as long as a section at least, that no line of the table covers."""
    found = []
    for block, size in block_bytes(geometry, extent).items():
        covered = np.zeros(size, bool)
        if block == "fast":  # how far lanes were learned is not saved: new engines have new lanes
            start = geometry.sizes()["lane_progress"]
            covered[start : start + geometry.max_workers * _core.LANE_PROGRESS_BYTES] = True
        marked = bytearray(size)
        for section in table:
            if section.block == block:
                section.view(marked)[...] = np.frombuffer(b"\1" * 8, section.dtype)[0]
        covered |= np.frombuffer(marked, bool)
        edges = np.flatnonzero(np.diff(np.concatenate(([True], covered, [True]))))
        found += [
            f"{block} {start}:{end}"
            for start, end in edges.reshape(-1, 2)
            if end - start >= CACHE_LINE or end % CACHE_LINE
        ]
    return found


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_table_covers_every_section_of_the_layout(geometry: Geometry) -> None:
    extent = Extent(geometry.routes, geometry.sizes()["reservoir_rows"])
    table = sections(geometry, extent)
    assert uncovered(geometry, table, extent) == []
    for section in table:
        if 0 not in section.shape:
            rest = [line for line in table if line is not section]
            assert uncovered(geometry, rest, extent) != [], section.name


def test_sections_go_where_they_came_from(rng: np.random.Generator) -> None:
    geometry = small_config().geometry()
    extent = Extent(2, 40)
    blocks = {
        name: bytearray(rng.bytes(size)) for name, size in block_bytes(geometry, extent).items()
    }
    tensors = gather(geometry, extent, blocks)
    again = scatter(geometry, extent, tensors)
    for name, tensor in gather(geometry, extent, again).items():
        assert tensor.tobytes() == tensors[name].tobytes(), name


# ---- round trips ----


def test_everything_comes_back_bit_for_bit(
    name: str, rng: np.random.Generator, tmp_path: Path
) -> None:
    path = tmp_path / "saved.safetensors"
    other = f"{name[:18]}-two"
    try:
        with sona.Engine.create(name, small_config(), "inline") as engine:
            learn_something(engine, rng)
            assert engine.save(path) == path
            saved, stats = state_of(engine), engine.stats()
            x = embedding(rng)
            expected = engine.predict(x)
        with sona.Engine.restore(other, path) as restored:
            assert state_of(restored).equals(saved)
            assert state_of(restored).counts == saved.counts
            for found, wanted in zip(restored.predict(x), expected, strict=True):
                np.testing.assert_array_equal(found, wanted)
            after = restored.stats()
            assert learned(after.routes) == learned(stats.routes)
            assert after.counters == stats.counters
            assert (after.version, after.patterns) == (stats.version, stats.patterns)
            assert after.patterns > 1
            assert (after.recorded, after.decisions) == (stats.recorded, stats.decisions)
            assert after.retired.recorded == stats.recorded
            assert_books_agree(after)
            assert restored.instant.pending_count() == 0
    finally:
        remove_everything(other)


def test_restored_engines_learn_on_as_the_first_would_have(
    name: str, rng: np.random.Generator, tmp_path: Path
) -> None:
    """The same outcomes after a restore lead to the same weights, also past the next refits."""
    other = f"{name[:18]}-two"
    x = [embedding(rng) for _ in range(900)]
    quality = rng.random(len(x))
    blocks = []
    try:
        with sona.Engine.create(name, small_config(), "inline") as engine:
            learn_something(engine, rng, 520)  # in the midst of the refit at 512
            engine.save(tmp_path / "a")
            with sona.Engine.restore(other, tmp_path / "a", "inline") as restored:
                for each in (engine, restored):
                    for row, value in zip(x, quality, strict=True):
                        assert each.observe(row, "small", float(value))
                    state = state_of(each)
                    blank_times(state)
                    blocks.append(state)
        assert blocks[0].equals(blocks[1])
        assert blocks[0].header("refits") >= 6
    finally:
        remove_everything(other)


def test_books_add_up_after_a_restore_and_what_follows(
    name: str, rng: np.random.Generator, tmp_path: Path
) -> None:
    with sona.Engine.create(name, small_config(), "inline") as engine:
        learn_something(engine, rng)
        first_id = engine.instant.next_id()
        engine.save(tmp_path / "a")
    with sona.Engine.restore(name, tmp_path / "a", "inline", replace=True) as engine:
        before = engine.stats()
        learn_something_more(engine, rng)
        assert_books_agree(engine.stats())
        assert engine.stats().recorded == before.recorded + 40
        assert engine.stats().decisions == before.decisions + 20
        assert engine.instant.next_id() > first_id
        engine.save(tmp_path / "a")
    with sona.Engine.restore(name, tmp_path / "a", replace=True) as engine:
        assert_books_agree(engine.stats())
        assert engine.stats().recorded == before.recorded + 40


def learn_something_more(engine: sona.Engine, rng: np.random.Generator) -> None:
    for number in range(20):
        assert engine.feedback(engine.route(embedding(rng)).id, 0.5)
        assert engine.record(sona.QueryTrajectory(number, embedding(rng)).finalize(0.5))


def test_decisions_of_the_former_engine_are_unknown_to_the_new_one(
    name: str, rng: np.random.Generator, tmp_path: Path
) -> None:
    with sona.Engine.create(name, small_config(), "inline") as engine:
        learn_something(engine, rng, 50)
        pending = [engine.route(embedding(rng)).id for _ in range(5)]
        engine.save(tmp_path / "a")
    with sona.Engine.restore(name, tmp_path / "a", "inline", replace=True) as engine:
        before = engine.stats().counters
        for _ in range(3):
            engine.route(embedding(rng))
        for decision in pending:
            assert engine.feedback(decision, 0.9)
        counters = engine.stats().counters
        strays = counters.feedback_unknown + counters.feedback_expired
        assert strays == before.feedback_unknown + before.feedback_expired + 5
        assert counters.outcomes_learned == before.outcomes_learned


def test_an_engine_without_routes(name: str, rng: np.random.Generator, tmp_path: Path) -> None:
    config = sona.SonaConfig(hidden_dim=8, update_rule="reference", flush_threshold=1000)
    with sona.Engine.create(name, config, "inline") as engine:
        for number in range(30):
            assert engine.record(sona.QueryTrajectory(number, embedding(rng, 8)).finalize(0.9))
        saved = state_of(engine)
        engine.save(tmp_path / "a")
    with sona.Engine.restore(name, tmp_path / "a", "inline", replace=True) as engine:
        assert state_of(engine).equals(saved)
        assert engine.record(sona.QueryTrajectory(1, embedding(rng, 8)).finalize(0.9))
        assert_books_agree(engine.stats())


def test_any_safetensors_reader_opens_the_file(
    name: str, rng: np.random.Generator, tmp_path: Path
) -> None:
    with sona.Engine.create(name, small_config(), "inline") as engine:
        learn_something(engine, rng)
        path = engine.save(tmp_path)
        adapter = engine.instant.micro_lora()
    tensors = safetensors.numpy.load_file(path)
    np.testing.assert_array_equal(tensors["micro_a"], adapter.a)
    np.testing.assert_array_equal(tensors["micro_b"], adapter.b)
    assert tensors["route_head"].shape == (3, small_config().hidden_dim)
    assert path.name.startswith("checkpoint-")
    assert path.stat().st_mode & 0o777 == 0o600


# ---- under load ----


def record_until_killed(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    engine = sona.Engine.attach(name)
    x = [embedding(rng) for _ in range(200)]
    while True:
        for row in x:
            wait_until(lambda row=row: engine.observe(row, "small", 0.5), PATIENCE)  # type: ignore[misc]  # bound at once


def test_states_taken_under_load_are_whole(name: str, rng: np.random.Generator) -> None:
    """Each is the version it names: the reservoir's rows, too, end where the weights do."""
    children: list[Child] = []
    with sona.Engine.create(name, small_config(reservoir=512)) as engine:
        try:
            children.append(Child(learn, name))
            await_learner(engine, {children[0].pid})
            children += [Child(record_until_killed, name, int(rng.integers(2**32)))]
            versions: set[int] = set()
            while len(versions) < 200:
                state = state_of(engine)
                versions.add(state.version)
                position = state.header("reservoir_position")
                assert position == state.counter("outcomes_learned")
                sequence = OFFSETS["reservoir_row.sequence"]
                newest = state.tensors["reservoir_row"][-1:, sequence : sequence + 8].view("<u8")
                assert not position or newest[0, 0] == position
        finally:
            for child in children:
                child.kill()
        memory = engine._memory
        frozen = state_of(engine)
        fast, slow = engine._patterns()
        first = frozen.header("reservoir_position") - frozen.extent.rows
        rows = engine._rows(first, first + frozen.extent.rows, whole=True)
        assert rows is not None
        assert frozen.equals(state_of_blocks(engine.config, fast, slow, rows, frozen.counts))
        assert Snapshot(fast, memory.geometry).version == frozen.version


# ---- who is in the way ----


def test_a_running_engine_is_untouched(name: str, rng: np.random.Generator, tmp_path: Path) -> None:
    with sona.Engine.create(name, small_config(), "inline") as engine:
        learn_something(engine, rng, 50)
        engine.save(tmp_path / "a")
        (tmp_path / "broken").write_bytes((tmp_path / "a").read_bytes()[:-1])
        before = state_of(engine)
        with pytest.raises(sona.EngineInUse, match="in use by"):
            sona.Engine.restore(name, tmp_path / "a", replace=True)
        with pytest.raises(sona.CheckpointError, match="broken"):
            sona.Engine.restore(name, tmp_path / "broken", replace=True)
        with pytest.raises(sona.ConfigError, match="journal"):
            sona.Engine.restore(name, tmp_path / "a", journal=tmp_path)
        assert state_of(engine).equals(before)
        learn_something_more(engine, rng)
    with pytest.raises(sona.CheckpointError, match="broken"):
        sona.Engine.restore(name, tmp_path / "broken", replace=True)
    with pytest.raises(sona.EngineExists, match="nobody uses it"):
        sona.Engine.restore(name, tmp_path / "a")
    with sona.Engine.attach(name) as engine:
        assert engine.stats().recorded > before.counter("trajectories_processed")


def test_a_refused_restore_leaves_nothing(name: str, tmp_path: Path) -> None:
    with pytest.raises(sona.CheckpointError, match="no checkpoint at"):
        sona.Engine.restore(name, tmp_path / "absent")
    with pytest.raises(sona.CheckpointError, match="no checkpoint in"):
        sona.Engine.restore(name, tmp_path)
    assert leftovers(name) == []


def test_saving_a_closed_engine_is_refused(name: str, tmp_path: Path) -> None:
    engine = sona.Engine.create(name, small_config())
    engine.close()
    with pytest.raises(sona.EngineClosed):
        engine.save(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_restored_is_not_saved(name: str, tmp_path: Path) -> None:
    """A stray write into the published weights is found before it replaces a good file."""
    path = tmp_path / "a"
    with sona.Engine.create(name, small_config()) as engine:
        engine.save(path)
        good = path.read_bytes()
        sizes = engine._memory.sizes
        start = sizes["buffers_offset"] + sizes["micro_b"]
        engine._memory.buffer("weights")[start : start + 4] = np.float32("nan").tobytes()
        with pytest.raises(sona.CheckpointError, match="micro_b holds NaN"):
            engine.save(path)
        assert path.read_bytes() == good
