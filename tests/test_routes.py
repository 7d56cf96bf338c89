"""Routes that come, go, change their price, or are not allowed right now."""

from __future__ import annotations

import multiprocessing
from typing import Any

import numpy as np
import pytest

import sona_shm as sona
from tests.refusals import raises_exactly

DIM = 4
X = np.array([0.5, 0.5, 0.5, 0.5])


def create(name: str, learner: Any = "inline", **settings: Any) -> sona.Engine:
    routes = [sona.Route("small", 0.1), sona.Route("large", 1.0)]
    usual: dict[str, Any] = {"routes": routes, "cost_weight": 0.2, "max_routes": 4}
    config = sona.SonaConfig(hidden_dim=DIM, **usual | settings)
    return sona.Engine.create(name, config, learner)


def chosen(engine: sona.Engine, requests: int = 200, **arguments: Any) -> set[str]:
    return {engine.route(X, **arguments).route for _ in range(requests)}


def teach(engine: sona.Engine, quality: dict[str, float], requests: int = 300) -> None:
    for _ in range(requests):
        decision = engine.route(X)
        engine.feedback(decision.id, quality[decision.route])


def test_only_what_is_allowed_is_chosen(name: str) -> None:
    with create(name) as engine:
        assert chosen(engine) == {"small", "large"}
        assert chosen(engine, allowed=["large"]) == {"large"}
        assert chosen(engine, allowed=[0]) == {"small"}
        assert engine.route(X, allowed=["large"]).propensity == 1.0
        assert engine.predict(X, allowed=["large"]).probability.tolist() == [0.0, 1.0]
        assert np.isnan(engine.predict(X, allowed=["large"]).reward).tolist() == [True, False]


@pytest.mark.parametrize("allowed", [[], ["nobody"], [7], [-1], "small"], ids=repr)
def test_what_cannot_be_allowed_is_refused(name: str, allowed: Any) -> None:
    with create(name) as engine:
        with raises_exactly(sona.ConfigError, ValueError):
            engine.route(X, allowed=allowed)
        assert engine.stats().decisions == 0


def test_a_route_that_comes_is_chosen_by_every_process(name: str) -> None:
    with create(name, "process") as first, sona.Engine.attach(name) as second:
        assert first.add_route(sona.Route("middle", 0.5), timeout=10.0)
        for engine in (second, first):
            decision = engine.route(X, allowed=["middle"])
            assert (decision.route, decision.index) == ("middle", 2)
            assert engine.feedback(decision.id, 0.9)
        assert first.flush(10.0)
        assert [row.outcomes for row in second.stats().routes] == [0, 0, 2]


def test_a_trajectory_may_name_a_route_that_came_later(name: str) -> None:
    with create(name, "thread") as first, sona.Engine.attach(name) as second:
        second.route(X)
        assert first.add_route(sona.Route("middle"), timeout=10.0)
        t = second.begin_trajectory(X)
        t.set_model_route("middle")
        assert second.end_trajectory(t, 0.5)


def test_a_route_that_arrives_is_tried_and_kept_if_it_is_good(name: str) -> None:
    with create(name, seed=1) as engine:
        teach(engine, {"small": 0.5, "large": 0.5})
        assert engine.add_route(sona.Route("better", 0.1))
        teach(engine, {"small": 0.5, "large": 0.5, "better": 0.9})
        probability = engine.predict(X).probability
    assert probability[2] > 0.8, probability


def test_a_similar_route_lends_what_it_knows(name: str) -> None:
    with create(name, seed=1) as engine:
        teach(engine, {"small": 0.2, "large": 0.9})
        engine.add_route(sona.Route("twin", 0.1), like="large")
        engine.add_route(sona.Route("stated", 0.1), expected_quality=0.2)
        _, large, twin, stated = engine.predict(X).reward
    # The twin costs less, and both new ones have the bonus of what was not tried yet.
    assert twin > large + 0.1
    assert twin > stated + 0.3


def test_a_retired_route_is_not_chosen_and_comes_back_with_what_it_knew(name: str) -> None:
    with create(name) as engine:
        teach(engine, {"small": 0.9, "large": 0.1}, 100)
        before = engine.stats().routes[0]
        assert engine.retire_route("small")
        assert chosen(engine) == {"large"}
        assert [row.active for row in engine.stats().routes] == [False, True]
        assert engine.add_route(sona.Route("small", 0.3))
        after = engine.stats().routes[0]
        assert (after.active, after.cost) == (True, 0.3)
        assert after.outcomes == before.outcomes


def test_feedback_on_a_retired_route_is_still_learned(name: str) -> None:
    with create(name) as engine:
        decision = engine.route(X, allowed=["small"])
        engine.retire_route("small")
        engine.feedback(decision.id, 0.5)
        assert engine.stats().routes[0].outcomes == 1


def test_without_any_route_left_the_error_says_so(name: str) -> None:
    with create(name) as engine:
        for route in ("small", "large"):
            engine.retire_route(route)
        with raises_exactly(sona.ConfigError, ValueError, "retired"):
            engine.route(X)


def test_a_price_that_moves_moves_the_choice_at_once(name: str) -> None:
    with create(name, seed=2) as engine:
        teach(engine, {"small": 0.7, "large": 0.8}, 500)
        before = engine.predict(X).reward
        assert engine.set_cost("small", 5.0)
        after = engine.predict(X).reward
    assert before[0] > before[1]
    assert after[0] == pytest.approx(before[0] - 0.2 * 4.9, abs=1e-6)
    assert after[1] == before[1]


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda e: e.add_route(sona.Route("small")), "small"),
        (lambda e: e.add_route("new"), "expected a Route"),
        (lambda e: e.add_route(sona.Route("new"), like="nobody"), "nobody"),
        (lambda e: e.add_route(sona.Route("new"), expected_quality=2.0), "2.0"),
        (lambda e: e.add_route(sona.Route("new", 1e30)), "cost"),
        (lambda e: e.retire_route("nobody"), "nobody"),
        (lambda e: e.set_cost("nobody", 1.0), "nobody"),
        (lambda e: e.set_cost("small", -1.0), "-1"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(name: str, call: Any, named: str) -> None:
    with create(name) as engine:
        before = engine.stats().routes
        with raises_exactly(sona.ConfigError, ValueError, named):
            call(engine)
        assert engine.stats().routes == before


def test_a_full_table_says_what_to_do(name: str) -> None:
    with create(name) as engine:
        engine.add_route(sona.Route("third"))
        engine.add_route(sona.Route("fourth"))
        engine.retire_route("third")
        with raises_exactly(sona.ConfigError, ValueError, "max_routes", "4"):
            engine.add_route(sona.Route("fifth"))


def test_an_engine_may_begin_without_routes(name: str) -> None:
    with create(name, routes=[], max_routes=2) as engine:
        assert engine.add_route(sona.Route("first"))
        assert chosen(engine, 10) == {"first"}


def test_without_a_learner_the_request_stands(name: str) -> None:
    with create(name, None) as engine:
        assert not engine.add_route(sona.Route("later"), timeout=0.01)
        with sona.Learner(name):
            pass
        assert [row.name for row in engine.stats().routes] == ["small", "large", "later"]


def add_and_retire(name: str, number: int, barrier: Any) -> None:
    with sona.Engine.attach(name) as engine:
        barrier.wait()
        for turn in range(20):
            route = f"route {number} {turn % 2}"
            if turn < 2:
                assert engine.add_route(sona.Route(route), timeout=30.0)
            decision = engine.route(X, allowed=[route])
            engine.feedback(decision.id, 0.5)


def test_several_processes_change_routes_at_once(name: str) -> None:
    context = multiprocessing.get_context("spawn")
    with create(name, "thread", max_routes=16, max_workers=5) as engine:
        barrier = context.Barrier(4)
        children = [
            context.Process(target=add_and_retire, args=(name, i, barrier)) for i in range(4)
        ]
        for child in children:
            child.start()
        for child in children:
            child.join(60.0)
            assert child.exitcode == 0
        assert engine.flush(10.0)
        rows = engine.stats().routes
    assert len(rows) == 10
    assert sum(row.outcomes for row in rows) == 80
