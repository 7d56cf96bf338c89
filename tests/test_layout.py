"""The declared layout: words that do not overlap, lines that do not meet, sizes that follow."""

from __future__ import annotations

import dataclasses
import itertools
import struct

import numpy as np
import pytest

import sona_shm as sona
from sona_shm import _core
from sona_shm.shm.layout import (
    LAYOUT_VERSION,
    LEARNER_COUNTERS,
    MAGIC,
    OFFSETS,
    SEGMENT_KINDS,
    Geometry,
)
from sona_shm.shm.memory import EngineMemory
from sona_shm.shm.names import names_of

LINE = 64
PAGE = 4096
STRUCTURES = sorted({key.partition(".")[0] for key in OFFSETS})
# Words of a lane header by who writes them, from the table in layout.h.
PRODUCER = {
    "head", "intent", "trajectories", "feedbacks", "dropped", "decisions", "epoch",
    "base_trajectories", "base_feedbacks", "base_dropped", "base_decisions",
}  # fmt: skip
CONSUMER = {"tail", "released_trajectories", "evicted_trajectories", "quarantined"}
BASE = Geometry(
    hidden_dim=64,
    rank=2,
    routes=3,
    max_workers=4,
    pending_decisions=8,
    lane_bytes=PAGE,
    patterns=10,
    reservoir=64,
    base_rank=8,
    tasks=3,
)


def drawn_geometry(rng: np.random.Generator, highest: int) -> Geometry:
    dim, rank, routes, workers, pending = (int(n) for n in rng.integers(1, highest, size=5))
    patterns, reservoir = int(rng.integers(1, highest)), int(rng.integers(64, 64 + highest))
    lane, base_rank = PAGE * int(rng.integers(1, 5)), int(rng.integers(1, highest))
    tasks = int(rng.integers(0, 6))
    return Geometry(
        dim, rank, routes, workers, pending, lane, patterns, reservoir, base_rank, tasks
    )


def fields_of(structure: str) -> dict[str, int]:
    prefix = structure + "."
    return {k.removeprefix(prefix): v for k, v in OFFSETS.items() if k.startswith(prefix)}


def lines_of(words: set[str]) -> set[int]:
    return {fields_of("lane_header")[word] // LINE for word in words}


@pytest.mark.parametrize("structure", STRUCTURES)
def test_fields_are_distinct_aligned_words(structure: str) -> None:
    offsets = list(fields_of(structure).values())
    assert len(set(offsets)) == len(offsets)
    assert all(offset % 8 == 0 for offset in offsets)


def test_the_python_layout_is_the_compiled_one() -> None:
    assert OFFSETS is _core.OFFSETS
    assert (MAGIC, LAYOUT_VERSION) == (_core.MAGIC, _core.SONA_LAYOUT_VERSION)
    assert struct.pack("<Q", MAGIC) == b"SONA_SHM"


def test_producer_and_consumer_write_different_cache_lines() -> None:
    assert set(fields_of("lane_header")) == PRODUCER | CONSUMER, "name the writer of a new word"
    assert not lines_of(PRODUCER) & lines_of(CONSUMER)


def test_begun_and_version_of_a_cell_lie_on_different_cache_lines() -> None:
    cell = fields_of("cell_header")
    assert cell["begun"] // LINE != cell["version"] // LINE


def test_words_that_many_processes_write_lie_on_lines_of_their_own() -> None:
    header = fields_of("control_header")
    shared = ("next_trajectory_id", "flush_requested", "learner_sleeping")
    for word in shared:
        others = {other: at for other, at in header.items() if other != word}
        assert header[word] // LINE not in {at // LINE for at in others.values()}, word


def test_owner_label_fills_its_row() -> None:
    assert fields_of("lane_owner")["label"] + _core.LABEL_BYTES == _core.LANE_OWNER_BYTES
    assert _core.RECORD_HEADER_BYTES == LINE


def test_metrics_are_the_counters_in_order() -> None:
    names = tuple(field.name for field in dataclasses.fields(sona.InstantLoopMetrics))
    assert names == LEARNER_COUNTERS


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_dim", 0),
        ("hidden_dim", 65537),
        ("rank", 0),
        ("rank", 65),
        ("routes", 1025),
        ("max_workers", 0),
        ("max_workers", 1025),
        ("pending_decisions", 0),
        ("pending_decisions", (1 << 24) + 1),
        ("lane_bytes", 0),
        ("lane_bytes", PAGE + LINE),
        ("lane_bytes", (1 << 31) + PAGE),
        ("patterns", 0),
        ("patterns", 4097),
        ("reservoir", 63),
        ("reservoir", (1 << 20) + 1),
        ("hidden_dim", 2**64 - 1),
    ],
)
def test_a_geometry_beyond_its_limits_raises(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=field):
        BASE._replace(**{field: value}).sizes()


def test_the_limits_themselves_are_accepted() -> None:
    least = Geometry(1, 1, 0, 1, 1, PAGE, 1, 64, 1, 0).sizes()
    most = Geometry(65536, 64, 1024, 1024, 1 << 24, 1 << 31, 4096, 1 << 20, 64, 8).sizes()
    assert 0 < least["ring_bytes"] < most["ring_bytes"] < 2**63
    assert 0 < least["weights_bytes"] < most["weights_bytes"] < 2**63


@pytest.mark.parametrize("field", Geometry._fields)
def test_sizes_never_shrink_when_a_number_grows(field: str, rng: np.random.Generator) -> None:
    for _ in range(50):
        drawn = drawn_geometry(rng, 60)
        step = (
            PAGE
            if field == "lane_bytes"
            else int(rng.integers(1, {"tasks": 3}.get(field, 5 if "rank" in field else 60)))
        )
        larger = drawn._replace(**{field: getattr(drawn, field) + step})
        for segment in ("control_bytes", "ring_bytes", "weights_bytes", "snapshot_bytes"):
            assert larger.sizes()[segment] >= drawn.sizes()[segment], (drawn, larger, segment)


def test_blocks_of_the_snapshot_do_not_overlap(rng: np.random.Generator) -> None:
    for _ in range(50):
        g = drawn_geometry(rng, 64)
        row, sizes = 4 * g.hidden_dim, g.sizes()
        taken = {
            "micro_a": g.rank * row,
            "micro_b": g.rank * row,
            "feature_mean": row,
            "reference_sum": row,
            "lane_progress": 48 * g.max_workers,
            "pattern_uses": 16 * g.patterns,
            "task_detector": 256,
            "task_means": _core.TASK_MEANS * row,
            "task_lags": 2 * sizes["task_state_bytes"],
            "routes_offset": g.routes * sizes["route_stride"],
        }
        assert_apart(sizes, taken, start=512, end=sizes["snapshot_bytes"])


def test_parts_of_a_route_do_not_overlap(rng: np.random.Generator) -> None:
    for _ in range(50):
        g = drawn_geometry(rng, 64)
        features = _core.PROJECTED + 1
        taken = {
            "route_head": 4 * g.hidden_dim,
            "route_squared": 4 * g.hidden_dim,
            "route_ridge": 4 * features,
            "route_covariance": 4 * features**2,
            "route_bank": _core.BANK_CELL_BYTES * g.patterns,
        }
        assert_apart(g.sizes(), taken, start=256, end=g.sizes()["route_stride"])


def test_parts_of_the_slow_block_do_not_overlap(rng: np.random.Generator) -> None:
    for _ in range(50):
        g = drawn_geometry(rng, 64)
        row, sizes = 4 * g.hidden_dim, g.sizes()
        assert sizes["pattern_stride"] >= g.patterns
        assert sizes["pattern_stride"] % 16 == 0
        taken = {
            "slow_projection": _core.PROJECTED * row,
            "slow_offset": 4 * (_core.PROJECTED + 1),
            "slow_centroids": 4 * (_core.PROJECTED + 1) * sizes["pattern_stride"],
            "slow_full_centroids": g.patterns * row,
            "slow_sizes": 8 * g.patterns,
            "slow_base_a": g.base_rank * row,
            "slow_base_b": g.base_rank * row,
            "slow_tasks": g.tasks * sizes["task_stride"],
            "slow_anchors": g.routes * sizes["anchor_stride"],
            "slow_begun": g.routes * sizes["begun_stride"],
        }
        assert_apart(sizes, taken, start=64, end=sizes["slow_bytes"])


def test_parts_of_the_weights_do_not_overlap(rng: np.random.Generator) -> None:
    for _ in range(50):
        g = drawn_geometry(rng, 64)
        sizes = g.sizes()
        taken = {
            "cell_offset": 128,
            "slow_cell_offset": 128,
            "buffers_offset": _core.CELL_BUFFERS * sizes["buffer_stride"],
            "slow_buffers_offset": _core.CELL_BUFFERS * sizes["slow_buffer_stride"],
            "reservoir_offset": sizes["reservoir_rows"] * sizes["reservoir_stride"],
        }
        assert sizes["buffer_stride"] >= sizes["snapshot_bytes"]
        assert sizes["slow_buffer_stride"] >= sizes["slow_bytes"]
        assert sizes["reservoir_stride"] >= LINE + 4 * g.hidden_dim
        assert_apart(sizes, taken, start=LINE, end=sizes["weights_bytes"])


def test_parts_of_a_lane_do_not_overlap(rng: np.random.Generator) -> None:
    for _ in range(50):
        g = drawn_geometry(rng, 64)
        sizes = g.sizes()
        taken = {
            "lane_ring_offset": g.lane_bytes,
            "lane_slots_offset": g.pending_decisions * sizes["slot_bytes"],
            "lane_marks_offset": 16 * g.pending_decisions,
        }
        assert sizes["slot_embedding"] >= LINE + 8 * sizes["allowed_words"]
        assert sizes["slot_bytes"] >= sizes["slot_embedding"] + 4 * g.hidden_dim
        assert_apart(sizes, taken, start=256, end=sizes["lane_stride"])
        last = sizes["lanes_offset"] + g.max_workers * sizes["lane_stride"]
        assert last <= sizes["ring_bytes"]


def assert_apart(sizes: dict[str, int], taken: dict[str, int], start: int, end: int) -> None:
    places = sorted((sizes[part], sizes[part] + length) for part, length in taken.items())
    assert all(at % LINE == 0 for at, _ in places)
    assert places[0][0] >= start
    assert places[-1][1] <= end
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(places))


def test_each_segment_begins_with_its_identity(name: str) -> None:
    config = sona.SonaConfig(hidden_dim=8)
    with sona.Engine.create(name, config):
        memory = EngineMemory(names_of(name))
        identities = {
            kind: struct.unpack_from("<5Q", memory.buffer(kind)) for kind in SEGMENT_KINDS
        }
        for kind, (magic, version, number, creation_id, size) in identities.items():
            assert (magic, version, number) == (MAGIC, LAYOUT_VERSION, SEGMENT_KINDS[kind])
            assert creation_id == memory.creation_id
            assert size == config.geometry().sizes()[f"{kind}_bytes"]
        memory.close()


def test_two_engines_have_different_creation_ids(name: str) -> None:
    config = sona.SonaConfig(hidden_dim=8)
    found = []
    for _ in range(2):
        sona.Engine.create(name, config, replace=True).close()
        memory = EngineMemory(names_of(name))
        found.append(memory.creation_id)
        memory.close()
    assert found[0] != found[1]


def test_words_refuse_what_is_no_word_of_the_segment() -> None:
    segment = np.zeros(128, np.uint64)
    first = (-segment.ctypes.data % LINE) // 8
    words = _core.Words(segment[first : first + 64].data)
    words.store(8, 2**64 - 1)
    assert words.add(8, 2) == 2**64 - 1
    assert words.exchange(8, 7) == 1
    assert words.load(8) == 7
    for offset in (-8, 4, 8 * 64):
        with pytest.raises(IndexError, match=str(offset)):
            words.load(offset)
    words.release()
    with pytest.raises(sona.EngineClosed):
        words.load(8)
