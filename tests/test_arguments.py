"""What arrays may be: every kind of numbers in, the numpy expression out."""

from __future__ import annotations

import array
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import sona_shm as sona
from tests.background import move

DIM = 24
Floats = NDArray[np.float32]


@pytest.fixture
def engine(name: str, rng: np.random.Generator) -> Iterator[sona.Engine]:
    """An engine whose adapter moves embeddings by a few percent of their length."""
    routes = (sona.Route("small"), sona.Route("large"))
    config = sona.SonaConfig(hidden_dim=DIM, micro_lora_lr=1.0, routes=routes)
    with sona.Engine.create(name, config, learner="inline") as made:
        for _ in range(2):
            move(made, rng.standard_normal((2, DIM)).astype(np.float32))
        made.flush()
        yield made


def expected(engine: sona.Engine, x: Any) -> Floats:
    """The numpy expression in double precision over the published weights."""
    lora = engine.instant.micro_lora()
    a, b = lora.a.astype(np.float64), lora.b.astype(np.float64)
    x = np.asarray(x, np.float64)
    adapted: Floats = (x + (x @ a.T) @ b / np.sqrt(lora.rank)).astype(np.float32)
    return adapted


def check(given: Any, wanted: Floats) -> None:
    assert isinstance(given, np.ndarray)
    assert given.dtype == np.float32
    assert given.shape == wanted.shape
    np.testing.assert_allclose(given, wanted, rtol=1e-4, atol=1e-5)


def strided(x: Floats) -> Floats:
    wide = np.zeros((*x.shape, 3), np.float32)
    wide[..., 1] = x
    return wide[..., 1]


# Values are whole numbers where the kind can hold nothing else.
KINDS: dict[str, Callable[[Floats], Any]] = {
    "float32": lambda x: x,
    "float64": lambda x: x.astype(np.float64),
    "float16": lambda x: x.astype(np.float16),
    "longdouble": lambda x: x.astype(np.longdouble),
    "big-endian": lambda x: x.astype(">f4"),
    "int8": lambda x: np.round(x).astype(np.int8),
    "int64": lambda x: np.round(x).astype(np.int64),
    "uint16": lambda x: np.abs(np.round(x)).astype(np.uint16),
    "bool": lambda x: x > 0,
    "strided": strided,
    "reversed": lambda x: x[..., ::-1],
    "read-only": lambda x: np.frombuffer(x.tobytes(), np.float32).reshape(x.shape),
    "list": lambda x: x.tolist(),
    "nested tuples": lambda x: tuple(map(tuple, x)) if x.ndim == 2 else tuple(x),
    "memoryview": lambda x: x.data,
    "subclass": lambda x: x.view(np.recarray),
}
ROWS: dict[str, Callable[[Floats], Any]] = {
    "array.array": lambda x: array.array("f", x),
    "array.array of doubles": lambda x: array.array("d", x),
    "memoryview of bytearray": lambda x: memoryview(bytearray(x.tobytes())).cast("f"),
    "strided memoryview": lambda x: np.repeat(x, 2).data[::2],
}


def test_the_adapter_of_these_tests_is_not_the_identity(
    engine: sona.Engine, rng: np.random.Generator
) -> None:
    x = rng.standard_normal((1000, DIM)).astype(np.float32)
    assert np.linalg.norm(expected(engine, x) - x, axis=1).mean() > 0.01


@pytest.mark.parametrize("kind", KINDS | ROWS)
def test_apply_takes_one_row_of(engine: sona.Engine, rng: np.random.Generator, kind: str) -> None:
    x = (KINDS | ROWS)[kind](3 * rng.standard_normal(DIM).astype(np.float32))
    check(engine.apply(x), expected(engine, x))


# An empty list has no columns.
BATCHES = [
    (kind, rows)
    for kind in KINDS
    for rows in (0, 1, 2, 7)
    if rows or kind not in {"list", "nested tuples"}
]


@pytest.mark.parametrize(("kind", "rows"), BATCHES)
def test_apply_takes_a_batch_of(
    engine: sona.Engine, rng: np.random.Generator, kind: str, rows: int
) -> None:
    x = KINDS[kind](3 * rng.standard_normal((rows, DIM)).astype(np.float32))
    check(engine.apply(x), expected(engine, x))


def test_a_batch_in_columns_is_taken_by_rows(engine: sona.Engine, rng: np.random.Generator) -> None:
    x = np.asfortranarray(rng.standard_normal((5, DIM)).astype(np.float32))
    check(engine.apply(x), expected(engine, x))


def test_x_may_be_a_keyword(engine: sona.Engine, rng: np.random.Generator) -> None:
    x = rng.standard_normal(DIM).astype(np.float32)
    check(engine.apply(x=x), expected(engine, x))


@pytest.mark.parametrize("shape", [(DIM,), (1, DIM), (5, DIM)])
def test_out_receives_the_result_and_is_returned(
    engine: sona.Engine, rng: np.random.Generator, shape: tuple[int, ...]
) -> None:
    x = rng.standard_normal(shape).astype(np.float32)
    before = x.copy()
    out = np.full(shape, np.nan, np.float32)
    assert engine.apply(x, out=out) is out
    check(out, expected(engine, before))
    np.testing.assert_array_equal(x, before)


def test_out_may_be_positional(engine: sona.Engine, rng: np.random.Generator) -> None:
    x = rng.standard_normal(DIM).astype(np.float32)
    out = np.full(DIM, np.nan, np.float32)
    assert engine.apply(x, out) is out
    check(out, expected(engine, x))


@pytest.mark.parametrize("kind", ["float64", "strided", "list"])
def test_out_receives_what_was_converted(
    engine: sona.Engine, rng: np.random.Generator, kind: str
) -> None:
    x = KINDS[kind](rng.standard_normal((3, DIM)).astype(np.float32))
    out = np.full((3, DIM), np.nan, np.float32)
    engine.apply(x, out=out)
    check(out, expected(engine, x))


def test_out_may_be_a_buffer(engine: sona.Engine, rng: np.random.Generator) -> None:
    x = rng.standard_normal(DIM).astype(np.float32)
    out = memoryview(bytearray(4 * DIM)).cast("f")
    returned: object = engine.apply(x, out=out)  # type: ignore[arg-type]  # wider than declared
    assert returned is out
    check(np.array(out, np.float32), expected(engine, x))


@pytest.mark.parametrize("shape", [(DIM,), (5, DIM)])
def test_out_may_be_x(
    engine: sona.Engine, rng: np.random.Generator, shape: tuple[int, ...]
) -> None:
    x = rng.standard_normal(shape).astype(np.float32)
    wanted = expected(engine, x)
    assert engine.apply(x, out=x) is x
    check(x, wanted)


@pytest.mark.parametrize("shift", [-DIM, -7, -1, 1, 7, DIM])
@pytest.mark.parametrize("rows", [1, 3])
def test_out_may_overlap_x(
    engine: sona.Engine, rng: np.random.Generator, rows: int, shift: int
) -> None:
    memory = rng.standard_normal((rows + 2) * DIM).astype(np.float32)
    shape = (DIM,) if rows == 1 else (rows, DIM)
    x = memory[DIM : DIM + rows * DIM].reshape(shape)
    out = memory[DIM + shift : DIM + shift + rows * DIM].reshape(shape)
    wanted = expected(engine, x)
    engine.apply(x, out=out)
    check(out, wanted)


@pytest.mark.parametrize("kind", KINDS | ROWS)
def test_route_takes(engine: sona.Engine, rng: np.random.Generator, kind: str) -> None:
    x = (KINDS | ROWS)[kind](rng.standard_normal(DIM).astype(np.float32))
    assert engine.route(x).route in {"small", "large"}


@pytest.mark.parametrize("kind", KINDS | ROWS)
def test_record_keeps_the_values_of(
    engine: sona.Engine, rng: np.random.Generator, kind: str
) -> None:
    convert = (KINDS | ROWS)[kind]
    embedding, activations, attention = (
        convert(rng.standard_normal(n).astype(np.float32)) for n in (DIM, DIM, 5)
    )
    t = sona.QueryTrajectory(9, embedding)
    t.add_step(sona.TrajectoryStep(activations, attention, 0.25, 3, "layer"))
    engine.instant.drain_trajectories()
    engine.record(t.finalize(0.75, 12))
    (drained,) = engine.instant.drain_trajectories()
    check(drained.query_embedding, np.asarray(embedding, np.float32))
    check(drained.steps[0].activations, np.asarray(activations, np.float32))
    check(drained.steps[0].attention_weights, np.asarray(attention, np.float32))


@pytest.mark.parametrize("convert", [int, np.int64, np.uint64])
def test_feedback_takes_an_id_of(engine: sona.Engine, convert: Callable[[int], int]) -> None:
    decision = engine.route(np.ones(DIM))
    assert engine.feedback(convert(decision.id), 0.5)
    assert engine.instant.metrics.outcomes_learned == 1


@pytest.mark.parametrize("convert", [float, np.float32, np.float64, np.float16])
def test_feedback_takes_a_quality_of(engine: sona.Engine, convert: Callable[[float], Any]) -> None:
    assert engine.feedback(engine.route(np.ones(DIM)).id, convert(0.5))
    assert engine.instant.metrics.outcomes_learned == 1


def test_a_drained_trajectory_equals_the_recorded_one(
    engine: sona.Engine, rng: np.random.Generator
) -> None:
    engine.instant.drain_trajectories()
    t = sona.QueryTrajectory(2**64 - 1, rng.standard_normal(DIM).astype(np.float32))
    t.model_route, t.context_ids = "large", ["doc-1", "δ"]
    for index in range(20):
        activations = rng.standard_normal(DIM).astype(np.float32)
        attention = rng.standard_normal(index).astype(np.float32)
        layer = f"layer {index}" if index % 2 else None
        t.add_step(sona.TrajectoryStep(activations, attention, index / 4, 2**32 - 1, layer))
    engine.record(t.finalize(0.5, 2**63))
    (drained,) = engine.instant.drain_trajectories()
    assert (drained.id, drained.final_quality, drained.latency_us) == (2**64 - 1, 0.5, 2**63)
    assert (drained.model_route, drained.context_ids) == ("large", ["doc-1", "δ"])
    np.testing.assert_array_equal(drained.query_embedding, t.query_embedding)
    for got, given in zip(drained.steps, t.steps, strict=True):
        np.testing.assert_array_equal(got.activations, given.activations)
        np.testing.assert_array_equal(got.attention_weights, given.attention_weights)
        assert (got.reward, got.step_idx, got.layer_name) == (
            given.reward,
            given.step_idx,
            given.layer_name,
        )
