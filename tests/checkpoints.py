"""Engines that have learned a bit of everything, and their states."""

from __future__ import annotations

import dataclasses
from typing import Any, Final

import numpy as np

import sona_shm as sona
from sona_shm.checkpoint.state import EngineState, set_field
from sona_shm.checkpoint.take import take_state
from sona_shm.shm.layout import OFFSETS

DIM: Final = 12
_TIME: Final = OFFSETS["reservoir_row.time_ns"]


def small_config(**settings: Any) -> sona.SonaConfig:
    """Ten patterns, two routes, little memory."""
    usual: dict[str, Any] = {
        "hidden_dim": DIM,
        "routes": (sona.Route("small", 0.1), sona.Route("large", 1.0)),
        "cost_weight": 0.2,
        "pattern_clusters": 10,
        "reservoir": 128,
        "trajectory_capacity": 200,
        "max_workers": 3,
        "pending_decisions": 64,
        "seed": 5,
    }
    return sona.SonaConfig(**usual | settings)


def learn_something(engine: sona.Engine, rng: np.random.Generator, requests: int = 700) -> None:
    """Outcomes of every route, refits, trajectories, duplicates; routes come, go and move."""
    for number in range(requests):
        if number == requests // 3:
            assert engine.add_route(sona.Route("middle", 0.4), like="small")
        if number == requests // 2:
            assert engine.retire_route("large")
            assert engine.set_cost("small", 0.15)
        decision = engine.route(embedding(rng, engine.config.hidden_dim))
        assert engine.feedback(decision.id, float(rng.random()), latency_ms=3.0, tokens=7)
        if number % 9 == 0:
            assert engine.feedback(decision.id, 1.0)
            trajectory = sona.QueryTrajectory(number, embedding(rng, engine.config.hidden_dim))
            trajectory.add_step(
                sona.TrajectoryStep(embedding(rng, engine.config.hidden_dim), [], 0.3, 0)
            )
            assert engine.record(trajectory.finalize(float(rng.random())))
    assert engine.flush(10.0)


def embedding(rng: np.random.Generator, dim: int = DIM) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Of unit length."""
    x = rng.standard_normal(dim)
    return (x / np.linalg.norm(x)).astype(np.float32)


def state_of(engine: sona.Engine) -> EngineState:
    """What the engine knows."""
    return take_state(engine._memory, engine)


def blank_times(state: EngineState) -> None:
    """Leave what is a function of the records alone."""
    state.tensors["pattern_uses"][:, 1] = 0
    set_field(state.tensors["slow_header"], "slow_header.fitted_ns", 0)
    state.tensors["reservoir_row"][:, _TIME : _TIME + 8] = 0


def assert_books_agree(stats: sona.EngineStats) -> None:
    """Everything recorded, in this life or a former one, was learned or has a reason."""
    assert stats.recorded == stats.retired.recorded + sum(lane.recorded for lane in stats.lanes)
    counters = stats.counters
    consumed = counters.trajectories_processed + counters.feedback_processed
    assert stats.recorded == consumed
    assert consumed == (
        counters.signals_accumulated
        + counters.feedback_duplicate
        + counters.feedback_expired
        + counters.feedback_unknown
        + counters.nonfinite_skipped
        + counters.routes_changed
        + counters.routes_refused
    )
    assert counters.outcomes_learned == sum(route.outcomes for route in stats.routes)


def learned(routes: list[sona.RouteStats]) -> list[sona.RouteStats]:
    """What was learned about routes, without the workers' recent decisions."""
    return [dataclasses.replace(route, share=0.0, propensity=None) for route in routes]
