"""The update rules against independent double-precision implementations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import sona_shm as sona
from sona_shm.learning.snapshot import Snapshot

DIM = 6
BASELINE = 0.5  # of both populations before the first observation
ROUTES = (sona.Route("small", 0.1), sona.Route("large", 1.0))

Doubles = NDArray[np.float64]


def create(name: str, **settings: Any) -> sona.Engine:
    config = sona.SonaConfig(hidden_dim=DIM, routes=ROUTES, **settings)
    return sona.Engine.create(name, config, learner="inline")


def weights_of(engine: sona.Engine) -> Snapshot:
    engine.flush()
    return Snapshot(engine._snapshot(), engine.config.geometry())


def adapted(a: Doubles, b: Doubles, x: Doubles) -> Doubles:
    result: Doubles = x + (x @ a.T) @ b / math.sqrt(len(a))
    return result


def finite_differences(loss: Callable[[Doubles, Doubles], float], a: Doubles, b: Doubles) -> Any:
    """The gradient of a loss for both factors, by central differences."""
    step = 1e-5
    gradients = []
    for factor in (a, b):
        gradient = np.zeros_like(factor)
        for place in np.ndindex(factor.shape):
            kept = factor[place]
            factor[place] = kept + step
            above = loss(a, b)
            factor[place] = kept - step
            below = loss(a, b)
            factor[place] = kept
            gradient[place] = (above - below) / (2 * step)
        gradients.append(gradient)
    return gradients


def random_adapter(rng: np.random.Generator, rank: int) -> sona.MicroLoRA:
    a, b = rng.standard_normal((2, rank, DIM)).astype(np.float32)
    return sona.MicroLoRA.from_weights(0.3 * a, 0.3 * b)


@pytest.mark.parametrize("length", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("rank", [1, 2, 3, 7])
def test_the_exact_rule_descends_the_gradient_of_its_loss(
    rng: np.random.Generator, rank: int, length: float
) -> None:
    lora = random_adapter(rng, rank)
    a, b = lora.a.astype(np.float64), lora.b.astype(np.float64)
    x = rng.standard_normal(DIM)
    x *= length / np.linalg.norm(x)
    direction, target, rate = rng.standard_normal(DIM), float(rng.uniform(-1, 1)), 0.2
    unit = direction / np.linalg.norm(direction)

    def loss(a: Doubles, b: Doubles) -> float:
        return float(0.5 * (target - (adapted(a, b, x) - x) @ unit) ** 2)

    gradient_a, gradient_b = finite_differences(loss, a, b)
    signal = sona.LearningSignal(x.astype(np.float32), direction.astype(np.float32), target)
    lora.accumulate_gradient(signal, rate)
    assert lora.apply_accumulated() == 1
    step = rate / max(1.0, length**2)
    np.testing.assert_allclose(lora.a, a - step * gradient_a, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(lora.b, b - step * gradient_b, rtol=1e-4, atol=1e-6)


def train(engine: sona.Engine, rng: np.random.Generator, outcomes: int) -> None:
    """Outcomes that leave no weight at zero, and all predictions far from -1 and 1."""
    for _ in range(outcomes):
        x = rng.standard_normal(DIM)
        decision = engine.route(x / np.linalg.norm(x))
        engine.feedback(decision.id, 0.2 * rng.random())


@pytest.mark.parametrize("length", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("rank", [1, 2, 5])
def test_an_outcome_moves_the_adapter_down_the_gradient_of_its_loss(
    name: str, rng: np.random.Generator, rank: int, length: float
) -> None:
    with create(name, micro_lora_rank=rank, micro_lora_lr=1.0) as engine:
        train(engine, rng, 30)
        before = weights_of(engine)
        x = rng.standard_normal(DIM)
        x *= length / np.linalg.norm(x)
        decision = engine.route(x)
        x /= max(1.0, length)  # a longer embedding is routed and learned at unit length
        k, quality = decision.index, float(rng.random())
        w, bias = before.head(k).astype(np.float64), before.bias(k)
        a, b = before.micro_a.astype(np.float64), before.micro_b.astype(np.float64)
        mean, scale = before.feature_mean.astype(np.float64), 1.0 / math.sqrt(before.spread)

        def loss(a: Doubles, b: Doubles) -> float:
            return float(0.5 * (quality - (scale * w @ (adapted(a, b, x) - mean) + bias)) ** 2)

        linear = scale * w @ (adapted(a, b, x) - mean) + bias
        assert -1.0 < linear < 1.0, "a clipped prediction has another error"
        gradient_a, gradient_b = finite_differences(loss, a, b)
        engine.feedback(decision.id, quality)
        after = weights_of(engine)
        np.testing.assert_allclose(after.micro_a, a - gradient_a, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(after.micro_b, b - gradient_b, rtol=1e-3, atol=1e-5)
        np.testing.assert_array_equal(after.head(1 - k), before.head(1 - k))


def random_trajectory(rng: np.random.Generator, steps: int) -> sona.QueryTrajectory:
    t = sona.QueryTrajectory(1, rng.standard_normal(DIM).astype(np.float32))
    for _ in range(steps):
        t.add_step(sona.TrajectoryStep(rng.standard_normal(DIM), [], rng.random()))
    return t.finalize(rng.random())


def running_mean(values: list[float]) -> float:
    """A baseline begins at its start with the weight of one observation."""
    return (BASELINE + sum(values)) / (1 + len(values))


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_the_signal_of_a_trajectory_is_what_the_learner_learns(
    name: str, rng: np.random.Generator, steps: int
) -> None:
    with create(name, micro_lora_lr=0.5, flush_threshold=1) as engine:
        lora = engine.instant.micro_lora()
        qualities: list[float] = []
        rewards: list[float] = []
        for _ in range(20):
            t = random_trajectory(rng, steps)
            signal = sona.LearningSignal.from_trajectory(
                t, running_mean(qualities), running_mean(rewards)
            )
            lora.accumulate_gradient(signal, 0.5)
            assert lora.apply_accumulated() == 1
            engine.record(t)
            learned = engine.instant.micro_lora()
            np.testing.assert_allclose(learned.a, lora.a, rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(learned.b, lora.b, rtol=1e-4, atol=1e-6)
            qualities.append(t.final_quality)
            if steps:
                rewards.append(t.total_reward() / steps)
        assert np.linalg.norm(lora.b) > 1e-4


def moved_along(engine: sona.Engine, x: Doubles, direction: Doubles) -> float:
    """Cosine between a direction and where the published adapter moves an embedding."""
    weights = weights_of(engine)
    a, b = weights.micro_a.astype(np.float64), weights.micro_b.astype(np.float64)
    change = adapted(a, b, x) - x
    return float(change @ direction / np.linalg.norm(change) / np.linalg.norm(direction))


@pytest.mark.parametrize(
    ("reward", "quality", "sign"),
    [(0.9, 0.9, 1), (0.2, 0.1, -1), (0.8, 0.5, 1), (0.2, 0.5, -1), (0.5, 0.8, 1), (0.5, 0.2, -1)],
)
def test_one_step_moves_along_its_activation_by_the_sign_of_its_advantage(
    name: str, rng: np.random.Generator, reward: float, quality: float, sign: int
) -> None:
    x, activation = rng.standard_normal((2, DIM))
    with create(name, micro_lora_lr=1.0) as engine:
        t = sona.QueryTrajectory(1, x)
        t.add_step(sona.TrajectoryStep(activation, [], reward))
        engine.record(t.finalize(quality))
        assert moved_along(engine, x, activation) == pytest.approx(sign, abs=1e-4)


@pytest.mark.parametrize(("quality", "sign"), [(0.9, 1), (0.1, -1)])
def test_without_steps_the_embedding_is_the_direction(
    name: str, rng: np.random.Generator, quality: float, sign: int
) -> None:
    x = rng.standard_normal(DIM)
    with create(name, micro_lora_lr=1.0) as engine:
        engine.record(sona.QueryTrajectory(1, x).finalize(quality))
        assert moved_along(engine, x, x) == pytest.approx(sign, abs=1e-4)


def test_different_rewards_teach_differently(name: str) -> None:
    """What the published crate gets wrong: one step's reward must count."""
    learned = []
    for reward in (0.2, 0.8):
        with create(name) as engine:
            t = sona.QueryTrajectory(1, np.ones(DIM))
            t.add_step(sona.TrajectoryStep(np.ones(DIM), [], reward))
            engine.record(t.finalize(0.5))
            learned.append(weights_of(engine).micro_b.copy())
        sona.Engine.destroy(name)
    np.testing.assert_allclose(learned[0], -learned[1], rtol=1e-5)
    assert np.any(learned[0])


def test_rank_two_is_not_rank_one(name: str, rng: np.random.Generator) -> None:
    with create(name, micro_lora_rank=2, micro_lora_lr=0.5) as engine:
        # At right angles, so that what they teach has as many directions as there are pairs.
        inputs, activations = (np.linalg.qr(rng.standard_normal((DIM, DIM)))[0] for _ in range(2))
        for _ in range(100):
            for index, (x, activation) in enumerate(zip(inputs, activations, strict=True)):
                t = sona.QueryTrajectory(1, x)
                t.add_step(sona.TrajectoryStep(activation, [], index % 2))
                engine.record(t.finalize(index % 2))
        weights = weights_of(engine)
    for factor in (weights.micro_a, weights.micro_b):
        largest, smallest = np.linalg.svd(factor.astype(np.float64), compute_uv=False)
        assert smallest > 0.05 * largest


def test_accumulated_signals_take_effect_when_applied(rng: np.random.Generator) -> None:
    lora = random_adapter(rng, 2)
    x = rng.standard_normal(DIM).astype(np.float32)
    before = lora.forward(x)
    for _ in range(3):
        lora.accumulate_gradient(sona.LearningSignal(x, x, 1.0))
    np.testing.assert_array_equal(lora.forward(x), before)
    assert lora.pending_updates == 3
    assert lora.apply_accumulated() == 3
    assert lora.pending_updates == lora.apply_accumulated() == 0
    assert not np.array_equal(lora.forward(x), before)


@pytest.mark.parametrize("spoiled", ["query_embedding", "direction", "target"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_signal_that_is_not_finite_changes_nothing(
    rng: np.random.Generator, spoiled: str, value: float
) -> None:
    lora = random_adapter(rng, 2)
    a, b = lora.a.copy(), lora.b.copy()
    x = np.ones(DIM, np.float32)
    wrong: Any = value if spoiled == "target" else np.full(DIM, value, np.float32)
    signal = sona.LearningSignal(x, x, 1.0)._replace(**{spoiled: wrong})
    with pytest.raises(sona.NonFiniteError):
        lora.accumulate_gradient(signal)
    assert lora.apply_accumulated() == 0
    np.testing.assert_array_equal(lora.a, a)
    np.testing.assert_array_equal(lora.b, b)
