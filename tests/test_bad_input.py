"""What is refused: which error, what its message names, and that nothing changed."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

import sona_shm as sona
from tests.refusals import DIM, X, refused, trajectory

NOT_FINITE = [math.nan, math.inf, -math.inf]


def make_engine(name: str, **settings: object) -> sona.Engine:
    config = sona.SonaConfig(
        hidden_dim=DIM,
        routes=(sona.Route("small"), sona.Route("large", 1.0)),
        **settings,  # type: ignore[arg-type]  # settings by name
    )
    return sona.Engine.create(name, config, learner="inline")


@pytest.fixture
def engine(name: str) -> Iterator[sona.Engine]:
    """An engine that has recorded, decided and learned something already."""
    with make_engine(name) as made:
        made.feedback(made.route(X).id, 0.9)
        made.record(trajectory())
        yield made


# ---- shapes ----


@pytest.mark.parametrize("shape", [(DIM - 1,), (DIM + 1,), (0,)])
def test_apply_refuses_a_wrong_dimension(engine: sona.Engine, shape: tuple[int, ...]) -> None:
    with refused(engine, sona.ShapeError, ValueError, str(shape), f"({DIM},)"):
        engine.apply(np.ones(shape, np.float32))


@pytest.mark.parametrize("shape", [(2, DIM - 1), (1, 1, DIM), ()])
def test_apply_names_the_shape_of_any_other_array(
    engine: sona.Engine, shape: tuple[int, ...]
) -> None:
    with refused(engine, sona.ShapeError, ValueError, str(shape), f"({DIM},)"):
        engine.apply(np.ones(shape, np.float32))


@pytest.mark.parametrize("shape", [(DIM - 1,), (DIM + 1,), (0,), (1, DIM)])
def test_route_refuses_a_wrong_shape(engine: sona.Engine, shape: tuple[int, ...]) -> None:
    with refused(engine, sona.ShapeError, ValueError, str(shape), f"({DIM},)"):
        engine.route(np.ones(shape, np.float32))


@pytest.mark.parametrize("part", ["embedding", "activations"])
@pytest.mark.parametrize("shape", [(DIM - 1,), (DIM + 1,), (0,), (1, DIM)])
def test_record_refuses_a_wrong_shape(
    engine: sona.Engine, part: str, shape: tuple[int, ...]
) -> None:
    wrong = np.ones(shape, np.float32)
    with refused(engine, sona.ShapeError, ValueError, part, str(shape), f"({DIM},)"):
        engine.record(trajectory(**{part: wrong}))


def test_record_refuses_attention_of_two_dimensions(engine: sona.Engine) -> None:
    with refused(engine, sona.ShapeError, ValueError, "attention_weights", "one dimension"):
        engine.record(trajectory(attention=np.ones((2, 2), np.float32)))


# ---- types ----

NOT_NUMBERS = [["a"] * DIM, [1j] * DIM, [None] * DIM, [[1.0], [1.0, 2.0]], ..., "x"]


@pytest.mark.parametrize("value", NOT_NUMBERS, ids=repr)
def test_apply_refuses_what_holds_no_real_numbers(engine: sona.Engine, value: object) -> None:
    with refused(engine, sona.DtypeError, TypeError, "x "):
        engine.apply(value)  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize("value", NOT_NUMBERS, ids=repr)
def test_route_refuses_what_holds_no_real_numbers(engine: sona.Engine, value: object) -> None:
    with refused(engine, sona.DtypeError, TypeError, "x "):
        engine.route(value)  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize("value", NOT_NUMBERS, ids=repr)
@pytest.mark.parametrize("part", ["embedding", "activations", "attention"])
def test_record_refuses_what_holds_no_real_numbers(
    engine: sona.Engine, part: str, value: object
) -> None:
    with refused(engine, sona.DtypeError, TypeError, part):
        engine.record(trajectory(**{part: value}))


def test_the_dtype_that_cannot_be_cast_is_named(engine: sona.Engine) -> None:
    with refused(engine, sona.DtypeError, TypeError, "complex128", "float32"):
        engine.apply(np.ones(DIM, np.complex128))


@pytest.mark.parametrize("part", ["reward", "quality"])
@pytest.mark.parametrize("value", ["0.5", None, [0.5], 1j], ids=repr)
def test_record_refuses_a_number_of_another_type(
    engine: sona.Engine, part: str, value: object
) -> None:
    with refused(engine, sona.DtypeError, TypeError, part, type(value).__name__):
        engine.record(trajectory(**{part: value}))


@pytest.mark.parametrize("value", ["0.5", None, [0.5], 1j], ids=repr)
def test_feedback_refuses_a_quality_of_another_type(engine: sona.Engine, value: object) -> None:
    decision_id = engine.route(X).id
    with refused(engine, sona.DtypeError, TypeError, "quality", type(value).__name__):
        engine.feedback(decision_id, value)  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize("id", ["7", None, 1.5], ids=repr)
def test_feedback_refuses_an_id_of_another_type(engine: sona.Engine, id: object) -> None:
    with refused(engine, sona.DtypeError, TypeError, "id", type(id).__name__):
        engine.feedback(id, 0.5)  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize("id", ["7", None, 1.5], ids=repr)
def test_record_refuses_an_id_of_another_type(engine: sona.Engine, id: object) -> None:
    with refused(engine, sona.DtypeError, TypeError, "id", type(id).__name__):
        engine.record(sona.QueryTrajectory(id, X).finalize(0.5))  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize("id", [-1, 2**64], ids=repr)
def test_record_refuses_an_impossible_trajectory_id(engine: sona.Engine, id: int) -> None:
    with refused(engine, sona.OutOfRangeError, ValueError, "id", str(id), "2**64 - 1"):
        engine.record(sona.QueryTrajectory(id, X).finalize(0.5))


# ---- out= ----


def read_only() -> NDArray[np.float32]:
    made = np.full(DIM, 7.0, np.float32)
    made.flags.writeable = False
    return made


IMPOSSIBLE_OUT = {
    "strided": np.full(2 * DIM, 7.0, np.float32)[::2],
    "reversed": np.full(DIM, 7.0, np.float32)[::-1],
    "transposed": np.full((DIM, DIM), 7.0, np.float32).T,
    "read-only": read_only(),
    "float64": np.full(DIM, 7.0),
    "float16": np.full(DIM, 7.0, np.float16),
    "integer": np.full(DIM, 7, np.int32),
    "big-endian": np.full(DIM, 7.0, ">f4"),
    "list": [7.0] * DIM,
    "read-only buffer": np.full(DIM, 7.0, np.float32).tobytes(),
    "three dimensions": np.full((1, 1, DIM), 7.0, np.float32),
}


@pytest.mark.parametrize("kind", IMPOSSIBLE_OUT)
def test_apply_refuses_an_out_that_cannot_be_written(engine: sona.Engine, kind: str) -> None:
    out = IMPOSSIBLE_OUT[kind]
    x = np.ones((DIM, DIM), np.float32) if kind == "transposed" else X
    before = np.array(out)
    with refused(engine, sona.DtypeError, TypeError, "out", "C-contiguous float32"):
        engine.apply(x, out=out)  # type: ignore[arg-type]  # wrong on purpose
    np.testing.assert_array_equal(np.array(out), before)


@pytest.mark.parametrize(
    ("given", "expected"),
    [((DIM - 1,), (DIM,)), ((1, DIM), (DIM,)), ((DIM,), (2, DIM)), ((3, DIM), (2, DIM))],
)
def test_apply_names_both_shapes_where_out_has_another(
    engine: sona.Engine, given: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    out = np.full(given, 7.0, np.float32)
    with refused(engine, sona.ShapeError, ValueError, "out", str(given), str(expected)):
        engine.apply(np.ones(expected, np.float32), out=out)
    assert np.all(out == 7.0)


@pytest.mark.parametrize("value", NOT_FINITE)
def test_apply_leaves_out_alone_where_x_is_refused(engine: sona.Engine, value: float) -> None:
    out = np.full((3, DIM), 7.0, np.float32)
    x = np.ones((3, DIM), np.float32)
    x[2, 3] = value
    with refused(engine, sona.NonFiniteError, ValueError, "x ", "NaN or infinity"):
        engine.apply(x, out=out)
    assert np.all(out == 7.0)


# ---- NaN and infinity ----


def spoiled(value: float, place: int) -> NDArray[np.float32]:
    made = X.copy()
    made[place] = value
    return made


@pytest.mark.parametrize("value", [*NOT_FINITE, 1e39], ids=repr)
@pytest.mark.parametrize("place", range(DIM))
def test_route_refuses_what_is_not_finite(engine: sona.Engine, place: int, value: float) -> None:
    x = X.tolist()
    x[place] = value
    with refused(engine, sona.NonFiniteError, ValueError, "x ", "NaN or infinity"):
        engine.route(x)


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("part", ["embedding", "activations", "attention"])
def test_record_refuses_an_array_that_is_not_finite(
    engine: sona.Engine, part: str, value: float
) -> None:
    with refused(engine, sona.NonFiniteError, ValueError, part, "NaN or infinity"):
        engine.record(trajectory(**{part: spoiled(value, 2)}))


@pytest.mark.parametrize("value", [*NOT_FINITE, 1e39], ids=repr)
def test_record_refuses_a_reward_that_is_not_finite(engine: sona.Engine, value: float) -> None:
    with refused(engine, sona.NonFiniteError, ValueError, "reward", repr(value)):
        engine.record(trajectory(reward=value))


@pytest.mark.parametrize("value", NOT_FINITE)
def test_record_refuses_a_quality_that_is_not_finite(engine: sona.Engine, value: float) -> None:
    with refused(engine, sona.NonFiniteError, ValueError, "quality", repr(value), "[0, 1]"):
        engine.record(trajectory(quality=value))


@pytest.mark.parametrize("value", NOT_FINITE)
def test_feedback_refuses_a_quality_that_is_not_finite(engine: sona.Engine, value: float) -> None:
    decision_id = engine.route(X).id
    with refused(engine, sona.NonFiniteError, ValueError, "quality", repr(value), "[0, 1]"):
        engine.feedback(decision_id, value)


def test_a_refused_record_leaves_the_next_one_whole(engine: sona.Engine) -> None:
    engine.instant.drain_trajectories()
    with refused(engine, sona.NonFiniteError, ValueError):
        engine.record(trajectory(activations=spoiled(math.nan, 0)))
    engine.record(trajectory(embedding=[1.0, 2.0, 3.0, 4.0]))
    (drained,) = engine.instant.drain_trajectories()
    np.testing.assert_array_equal(drained.query_embedding, [1.0, 2.0, 3.0, 4.0])


# ---- ranges and sizes ----

OUTSIDE = [-1e-9, 1.0000001, -1, 2, 1e300]


@pytest.mark.parametrize("value", OUTSIDE)
def test_record_refuses_a_quality_outside_its_range(engine: sona.Engine, value: float) -> None:
    with refused(engine, sona.OutOfRangeError, ValueError, "quality", repr(value), "[0, 1]"):
        engine.record(trajectory(quality=value))


@pytest.mark.parametrize("value", OUTSIDE)
def test_feedback_refuses_a_quality_outside_its_range(engine: sona.Engine, value: float) -> None:
    decision_id = engine.route(X).id
    with refused(engine, sona.OutOfRangeError, ValueError, "quality", repr(value), "[0, 1]"):
        engine.feedback(decision_id, value)


@pytest.mark.parametrize("value", [10**400, -(10**400)], ids=["10**400", "-10**400"])
@pytest.mark.parametrize("part", ["reward", "quality"])
def test_record_refuses_an_integer_beyond_floats(
    engine: sona.Engine, part: str, value: int
) -> None:
    with refused(engine, sona.OutOfRangeError, ValueError, part):
        engine.record(trajectory(**{part: value}))


@pytest.mark.parametrize("value", [0, 1, 0.0, 1.0, True])
def test_quality_may_be_either_end_of_its_range(engine: sona.Engine, value: float) -> None:
    before = engine.stats().recorded
    assert engine.record(trajectory(quality=value))
    assert engine.feedback(engine.route(X).id, value)
    assert engine.stats().recorded == before + 2


def length_of(steps: int) -> int:
    return -(-(64 + 4 * DIM + steps * (16 + 4 * DIM)) // 64) * 64


def test_a_record_larger_than_half_a_lane_is_refused_with_both_sizes(name: str) -> None:
    with make_engine(name, trajectory_capacity=1, max_workers=1) as engine:
        half = engine.config.geometry().lane_bytes // 2
        steps = next(n for n in range(1, half) if length_of(n) > half)
        too_large = trajectory()
        too_large.steps *= steps
        needed = str(length_of(steps))
        with refused(engine, sona.RecordTooLargeError, ValueError, needed, str(half)):
            engine.record(too_large)
        too_large.steps.pop()
        while length_of(len(too_large.steps)) > half:
            too_large.steps.pop()
        assert engine.record(too_large), "half a lane is not too large"


def test_an_engine_without_routes_says_so(name: str) -> None:
    with (
        sona.Engine.create(name, sona.SonaConfig(hidden_dim=DIM), learner="inline") as engine,
        refused(engine, sona.ConfigError, ValueError, "no route may be chosen"),
    ):
        engine.route(X)


def test_a_trajectory_of_an_unknown_route_is_refused(engine: sona.Engine) -> None:
    unknown = trajectory()
    unknown.model_route = "medium"
    with refused(engine, sona.ConfigError, ValueError, "'medium'", "small", "large"):
        engine.record(unknown)
