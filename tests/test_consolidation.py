"""Folding adapters: what the fold computes is the sum, but for the error that it reports."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

import sona_shm as sona
from sona_shm.learning.consolidation import Factors, fold
from sona_shm.learning.lora import initial_down_projection
from sona_shm.loops.working import WorkingBlocks


def drawn(rng: np.random.Generator, rank: int, dim: int, size: float = 1.0) -> Factors:
    a, b = (size * rng.standard_normal((rank, dim)) for _ in range(2))
    return a.astype(np.float32), b.astype(np.float32)


def shift(factors: Factors) -> NDArray[np.float64]:
    """The matrix M of x -> x M."""
    a, b = (factor.astype(np.float64) for factor in factors)
    matrix: NDArray[np.float64] = a.T @ b / np.sqrt(len(a))
    return matrix


@pytest.mark.parametrize(("base", "micro", "dim"), [(8, 2, 64), (4, 1, 5), (16, 2, 10), (1, 3, 1)])
def test_the_error_is_what_the_fold_reports_and_the_least_possible(
    rng: np.random.Generator, base: int, micro: int, dim: int
) -> None:
    first, second = drawn(rng, base, dim), drawn(rng, micro, dim, 0.3)
    folded = fold(first, second, base)
    exact = shift(first) + shift(second)
    difference = shift((folded.a, folded.b)) - exact
    values = np.append(np.linalg.svd(exact, compute_uv=False), np.zeros(base + 1))
    size = float(values[0])
    assert np.linalg.norm(difference, 2) == pytest.approx(folded.spectral_error, abs=1e-5 * size)
    assert folded.spectral_error == pytest.approx(float(values[base]), abs=1e-5 * size)
    relative = float(np.linalg.norm(difference) / np.linalg.norm(exact))
    assert folded.relative_error == pytest.approx(relative, abs=1e-5)


def test_a_sum_of_low_rank_is_kept_exactly(rng: np.random.Generator) -> None:
    first, second = drawn(rng, 2, 32), drawn(rng, 2, 32)
    padded = tuple(np.concatenate([part, np.zeros_like(part)]) for part in first)
    folded = fold((padded[0], padded[1]), second, 4)
    assert folded.spectral_error == folded.relative_error == 0.0
    exact = shift((padded[0], padded[1])) + shift(second)
    np.testing.assert_allclose(shift((folded.a, folded.b)), exact, atol=1e-5)


def test_the_factors_are_balanced(rng: np.random.Generator) -> None:
    folded = fold(drawn(rng, 4, 16, 100.0), drawn(rng, 2, 16, 0.01), 4)
    lengths = [np.linalg.norm(part, axis=1) for part in (folded.a, folded.b)]
    np.testing.assert_allclose(lengths[0], lengths[1], rtol=1e-4)


def test_a_micro_lora_that_has_learned_nothing_changes_nothing(rng: np.random.Generator) -> None:
    fresh = initial_down_projection(2, 16)
    zero = np.zeros((4, 16), np.float32)
    folded = fold((zero, zero), (fresh, np.zeros_like(fresh)), 4)
    assert not folded.a.any()
    assert not folded.b.any()
    assert folded.spectral_error == folded.relative_error == 0.0
    base = drawn(rng, 4, 16)
    folded = fold(base, (fresh, np.zeros_like(fresh)), 4)
    np.testing.assert_allclose(shift((folded.a, folded.b)), shift(base), atol=1e-5)


def teach(engine: sona.Engine, rng: np.random.Generator, count: int = 200) -> None:
    dim = engine.config.hidden_dim
    for i in range(count):
        t = sona.QueryTrajectory(i, rng.standard_normal(dim).astype(np.float32) / dim**0.5)
        t.add_step(sona.TrajectoryStep(rng.standard_normal(dim).astype(np.float32), [], 1.0, 0))
        engine.record(t.finalize(1.0))


@pytest.mark.parametrize("dim", [5, 33, 64])
@pytest.mark.parametrize(("micro_rank", "base_rank"), [(1, 4), (2, 8), (3, 5)])
def test_apply_computes_both_adapters(
    name: str, rng: np.random.Generator, dim: int, micro_rank: int, base_rank: int
) -> None:
    config = sona.SonaConfig(
        hidden_dim=dim, micro_lora_rank=micro_rank, base_lora_rank=base_rank, micro_lora_lr=1.0
    )
    with sona.Engine.create(name, config, learner="inline") as engine:
        base = drawn(rng, base_rank, dim, 0.3)
        install_base(engine, base)
        teach(engine, rng)
        micro = engine.instant.micro_lora()
        matrix = np.eye(dim) + shift((micro.a, micro.b)) + shift(base)
        x = rng.standard_normal((7, dim)).astype(np.float32)
        np.testing.assert_allclose(engine.apply(x), x @ matrix, atol=1e-4)
        np.testing.assert_allclose(engine.apply(x[0]), x[0] @ matrix, atol=1e-4)
        out = x.copy()
        assert engine.apply(out, out=out) is out
        np.testing.assert_allclose(out, x @ matrix, atol=1e-4)
        x[3, 0] = np.nan
        with pytest.raises(sona.NonFiniteError):
            engine.apply(x)
        with pytest.raises(sona.NonFiniteError):
            engine.apply(x[3])


def install_base(engine: sona.Engine, base: Factors) -> None:
    """Publish a BaseLoRA without a cycle."""
    drain = engine.instant._drain
    assert drain is not None
    WorkingBlocks(drain._core, engine.config.geometry()).set_base(*base)
    drain.flush()
