"""Restoring with other settings: each keeps what it can keep, and an engine learns on."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sona_shm as sona
from sona_shm.checkpoint.convert import changed_state
from sona_shm.checkpoint.format import read_checkpoint
from sona_shm.checkpoint.lora import changed_rank
from sona_shm.checkpoint.state import EngineState
from tests.checkpoints import (
    DIM,
    assert_books_agree,
    embedding,
    learn_something,
    learned,
    small_config,
    state_of,
)
from tests.conftest import leftovers, remove_everything


@pytest.fixture
def engine(name: str, rng: np.random.Generator) -> Iterator[sona.Engine]:
    """One that has learned a bit of everything; its MicroLoRA moves embeddings visibly."""
    with sona.Engine.create(name, small_config(micro_lora_lr=1.0), "inline") as made:
        learn_something(made, rng)
        yield made


@contextmanager
def restored(engine: sona.Engine, path: Path, **changes: Any) -> Iterator[sona.Engine]:
    """Another engine that knows the same."""
    other = f"t-{secrets.token_hex(6)}"
    file = engine.save(path / "saved.safetensors")
    try:
        with sona.Engine.restore(other, file, "inline", changes=changes) as made:
            yield made
    finally:
        remove_everything(other)


def assert_learns_on(engine: sona.Engine, rng: np.random.Generator, requests: int = 300) -> None:
    before = engine.stats().counters
    for _ in range(requests):
        decision = engine.route(embedding(rng, engine.config.hidden_dim))
        assert engine.feedback(decision.id, float(rng.random()))
    after = engine.stats()
    assert after.counters.outcomes_learned == before.outcomes_learned + requests
    assert after.counters.nonfinite_skipped == before.nonfinite_skipped
    assert after.counters.reservoir_corrupt == 0
    assert_books_agree(after)


def predictions(engine: sona.Engine, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    queries = np.random.default_rng(int(rng.bit_generator.seed_seq.entropy[0]))  # type: ignore[attr-defined]  # of a seeded one
    return np.stack([engine.predict(embedding(queries)).reward for _ in range(50)])


@pytest.mark.parametrize(
    "changes",
    [
        {"max_workers": 1},
        {"max_workers": 40},
        {"trajectory_capacity": 5000},
        {"pending_decisions": 7},
        {"max_routes": 3},
        {"max_tasks": 0},
        {"max_tasks": 8},
        {"max_routes": 200},
        {"pattern_clusters": 33},
        {"reservoir": 64},
        {"reservoir": 3000},
        {"flush_threshold": 3, "seed": None, "policy": "squarecb", "head_lr": 0.01},
        {"update_rule": "reference"},
        {"max_workers": 2, "reservoir": 500, "pattern_clusters": 64, "max_routes": 5},
    ],
)
def test_capacities_keep_every_prediction(
    engine: sona.Engine, rng: np.random.Generator, tmp_path: Path, changes: dict[str, Any]
) -> None:
    with restored(engine, tmp_path, **changes) as other:
        for key, value in changes.items():
            assert getattr(other.config, key) == value
        np.testing.assert_array_equal(predictions(other, rng), predictions(engine, rng))
        x = embedding(rng)
        np.testing.assert_array_equal(other.apply(x), engine.apply(x))
        assert other.stats().counters == engine.stats().counters
        changed = state_of(other)
        with restored(other, tmp_path) as again:  # also one that has not all the rows it could
            assert state_of(again).equals(changed)
        assert_learns_on(other, rng, 450)
        assert state_of(other).extent.rows <= other.config.reservoir + other.config.reservoir // 4
        assert other.stats().counters.refits_installed > engine.stats().counters.refits_installed


def test_changing_nothing_changes_nothing(engine: sona.Engine, tmp_path: Path) -> None:
    with restored(engine, tmp_path, max_workers=3, cost_weight=0.2, pattern_clusters=10) as other:
        assert state_of(other).equals(state_of(engine))


@pytest.mark.parametrize("rank", [1, 3, 8, 64])
def test_a_higher_rank_keeps_the_function_a_lower_one_its_largest_part(
    engine: sona.Engine, rng: np.random.Generator, tmp_path: Path, rank: int
) -> None:
    x = np.stack([embedding(rng) for _ in range(50)])
    before = engine.apply(x)
    with restored(engine, tmp_path, micro_lora_rank=rank, base_lora_rank=rank) as other:
        after = other.apply(x)
        adapter = engine.instant.micro_lora()
        lost = np.linalg.svd(adapter.a.T @ adapter.b / np.sqrt(2))[1][rank:]
        allowed = (lost[0] if len(lost) else 0.0) + 1e-6
        assert np.linalg.norm(after - before, axis=1).max() <= allowed
        if rank > 2:
            np.testing.assert_allclose(predictions(other, rng), predictions(engine, rng), atol=1e-4)
        assert_learns_on(other, rng)


def test_ranks_go_up_and_down_again(rng: np.random.Generator) -> None:
    a, b = (rng.standard_normal((3, 10)).astype("f4") for _ in range(2))
    # In double precision: rounding turns singular vectors whose values lie close together.
    product = a.T.astype("f8") @ b / np.sqrt(3)
    wide = changed_rank(a, b, 7)
    np.testing.assert_allclose(wide[0].T @ wide[1] / np.sqrt(7), product, atol=1e-5)
    again = changed_rank(*wide, 3)
    np.testing.assert_allclose(again[0].T @ again[1] / np.sqrt(3), product, atol=1e-5)
    left, values, right = np.linalg.svd(product)
    best = left[:, :2] * values[:2] @ right[:2]
    narrow = changed_rank(a, b, 2)
    np.testing.assert_allclose(narrow[0].T @ narrow[1] / np.sqrt(2), best, atol=1e-5)


def test_a_new_adapter_can_still_learn_with_a_lower_rank() -> None:
    a, b = changed_rank(sona.MicroLoRA(6, 4).a, np.zeros((4, 6), "f4"), 2)
    assert not b.any()
    assert np.linalg.matrix_rank(a) == 2


@pytest.mark.parametrize("rank", [2, 9])
def test_an_adapter_of_zeros_stays_one(rank: int) -> None:
    unused = np.zeros((4, 6), "f4")
    for factor in changed_rank(unused, unused, rank):
        assert factor.shape == (rank, 6)
        assert not factor.any()


def test_fewer_patterns_than_are_in_use(
    engine: sona.Engine, rng: np.random.Generator, tmp_path: Path
) -> None:
    bank = engine.reasoning_bank()
    sizes = sorted((pattern.cluster_size for pattern in bank.patterns), reverse=True)
    with restored(engine, tmp_path, pattern_clusters=4) as other:
        kept = other.reasoning_bank().patterns
        assert sorted((pattern.cluster_size for pattern in kept), reverse=True) == sizes[:4]
        known = {pattern.centroid.tobytes(): pattern for pattern in bank.patterns}
        for pattern in kept:
            before = known[pattern.centroid.tobytes()]
            np.testing.assert_array_equal(pattern.route_weight, before.route_weight)
            assert pattern.access_count == before.access_count
        assert_learns_on(other, rng, 500)


def test_another_embedding_keeps_what_does_not_depend_on_it(
    engine: sona.Engine, rng: np.random.Generator, tmp_path: Path
) -> None:
    before = engine.stats()
    with restored(engine, tmp_path, hidden_dim=5) as other:
        after = other.stats()
        assert learned(after.routes) == learned(before.routes)
        assert after.counters == before.counters
        assert (after.recorded, after.version) == (before.recorded, before.version)
        assert after.patterns == 0
        x = embedding(rng, 5)
        np.testing.assert_array_equal(other.apply(x), x)
        assert other.config.hidden_dim == 5
        assert_learns_on(other, rng, 500)
        assert other.stats().patterns > 1


def test_prices_follow_another_cost_weight(engine: sona.Engine, tmp_path: Path) -> None:
    with restored(engine, tmp_path, cost_weight=2.0) as other:
        state = state_of(other)
        assert [row.price for row in state.routes] == [2.0 * row.cost for row in state.routes]
        assert [row.cost for row in state.routes] == [0.15, 1.0, 0.4]
    with (
        pytest.raises(sona.ConfigError, match="expected at most"),
        restored(engine, tmp_path, cost_weight=1e9),
    ):
        pass


@pytest.mark.parametrize("experts", [["linear"], ["ridge"], ["linear", "bank"]])
def test_other_experts(
    engine: sona.Engine, rng: np.random.Generator, tmp_path: Path, experts: list[str]
) -> None:
    with restored(engine, tmp_path, experts=experts) as other:
        weights = other.stats().expert_weights
        assert {name for name, weight in weights.items() if weight} <= set(experts)
        assert_learns_on(other, rng)


def test_an_engine_that_never_refitted_gets_experts_that_need_it(
    name: str, rng: np.random.Generator, tmp_path: Path
) -> None:
    config = small_config(experts=("linear",))
    with sona.Engine.create(name, config, "inline") as engine:
        learn_something(engine, rng)
        assert engine.stats().counters.refits_installed == 0
        with restored(engine, tmp_path, experts=["linear", "ridge", "bank"]) as other:
            counters = other.stats().counters
            assert counters.refits_failed == state_of(other).header("refits") > 0
            assert_learns_on(other, rng, 600)
            assert other.stats().counters.refits_installed > 0


@pytest.mark.parametrize("requests", [500, 520, 540, 560, 700])
def test_a_reservoir_that_shrinks_in_the_midst_of_a_refit(
    name: str, rng: np.random.Generator, tmp_path: Path, requests: int
) -> None:
    with sona.Engine.create(name, small_config(reservoir=2048), "inline") as engine:
        learn_something(engine, rng, requests)
        with restored(engine, tmp_path, reservoir=64) as other:
            np.testing.assert_array_equal(predictions(other, rng), predictions(engine, rng))
            assert_learns_on(other, rng, 700)
            counters = other.stats().counters
            assert counters.refits_installed > engine.stats().counters.refits_installed


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"routes": []}, "add_route"),
        ({"max_routes": 2}, "max_routes is 2, expected at least 3"),
        ({"nonsense": 1}, "unknown settings nonsense"),
        ({"hidden_dim": 0}, "hidden_dim is 0"),
        ({"max_workers": "many"}, "max_workers is 'many'"),
    ],
)
def test_impossible_changes_are_refused(
    engine: sona.Engine, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    other = f"{engine.name[:18]}-two"
    with pytest.raises(sona.ConfigError, match=reason):
        sona.Engine.restore(other, engine.save(tmp_path), changes=changes)
    assert leftovers(other) == []


def test_a_state_is_not_changed_by_what_is_made_of_it(engine: sona.Engine, tmp_path: Path) -> None:
    state = state_of(engine)
    file = engine.save(tmp_path / "a")
    wanted = {"hidden_dim": DIM + 1, "reservoir": 64, "micro_lora_rank": 5, "cost_weight": 0.0}
    for key, value in wanted.items():
        changed: EngineState = changed_state(state, {key: value})
        assert not changed.equals(state)
    assert read_checkpoint(file).state.equals(state)
