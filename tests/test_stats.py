"""What the engine says about itself: sums that add up, across processes and their deaths."""

from __future__ import annotations

import dataclasses
import json
import math
import signal
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sona_shm as sona
from sona_shm import _core
from tests.processes import line_of, run_worker, worker
from tests.test_cli import sona_command

DIM = 8
ROUTES = (sona.Route("small", 0.1), sona.Route("large", 1.0))
X = np.ones(DIM, np.float32) / 3.0

RECORD = """
for index in range(int(sys.argv[2])):
    engine.record(sona.QueryTrajectory(index, np.ones(8)).finalize(0.5))
"""
DECIDE = """
for _ in range(int(sys.argv[2])):
    print(engine.route(np.ones(8) / 3.0).id)
"""
WAIT = "print('ready', flush=True); sys.stdin.read()"


def create(name: str, learner: Any = None, **settings: Any) -> sona.Engine:
    config = sona.SonaConfig(hidden_dim=DIM, routes=ROUTES, cost_weight=0.2, **settings)
    return sona.Engine.create(name, config, learner)


def assert_adds_up(stats: sona.EngineStats) -> None:
    """Sums over lanes, and what became of every record that was consumed."""
    rows = [stats.retired, *stats.lanes]
    assert stats.recorded == sum(row.recorded for row in rows)
    assert stats.dropped == sum(row.dropped for row in rows)
    assert stats.decisions == sum(row.decisions for row in rows)
    counters = stats.counters
    consumed = counters.trajectories_processed + counters.feedback_processed
    assert consumed == (
        counters.signals_accumulated
        + counters.feedback_duplicate
        + counters.feedback_expired
        + counters.feedback_unknown
        + counters.nonfinite_skipped
        + counters.records_corrupt
    )
    assert stats.recorded == consumed
    assert counters.updates_applied == counters.signals_accumulated
    assert counters.outcomes_learned == sum(route.outcomes for route in stats.routes)


def test_a_new_engine_has_done_nothing(name: str) -> None:
    with create(name) as engine:
        stats = engine.stats()
        assert_adds_up(stats)
        assert (stats.name, stats.bytes, stats.version) == (name, engine.config.nbytes(), 0)
        assert (stats.recorded, stats.dropped, stats.decisions) == (0, 0, 0)
        assert (stats.lanes, stats.learner_alive) == ([], False)
        assert stats.seconds_since_publish is None
        assert set(dataclasses.asdict(stats.counters).values()) == {0}


@pytest.mark.parametrize("later", [False, True])
def test_mixed_records_add_up(name: str, rng: np.random.Generator, later: bool) -> None:
    pending = 16
    with create(name, None if later else "inline", pending_decisions=pending) as engine:
        ids = [engine.route(rng.standard_normal(DIM)).id for _ in range(3 * pending)]
        expired, usable = ids[: 2 * pending], ids[2 * pending :]
        unknown = [2**63 - 1, 2**64 - 1, -1, usable[-1] + 1]
        for decision_id in [*usable, *usable[:5], *expired, *unknown]:
            assert engine.feedback(decision_id, rng.random())
        for index in range(7):
            t = sona.QueryTrajectory(index, rng.standard_normal(DIM))
            t.model_route = "large" if index < 3 else None
            assert engine.record(t.finalize(rng.random()))
        if later:
            sona.Learner(name).close()
        engine.flush(timeout=0.0)
        stats = engine.stats()
    assert_adds_up(stats)
    counters = stats.counters
    assert stats.decisions == 3 * pending
    assert stats.recorded == pending + 5 + 2 * pending + 4 + 7
    assert counters.trajectories_processed == 7
    assert counters.feedback_duplicate == 5
    assert counters.feedback_expired == 2 * pending
    assert counters.feedback_unknown == 4
    assert counters.outcomes_learned == pending + 3


@pytest.mark.parametrize("nonsense", [0, 1, 12345])
def test_an_id_that_never_was_is_unknown_however_many_decisions_there_were(
    name: str, nonsense: int
) -> None:
    with create(name, "inline", pending_decisions=4) as engine:
        for _ in range(20_000):
            engine.route(X)
        engine.feedback(nonsense, 0.5)
        counters = engine.instant.metrics
        assert (counters.feedback_unknown, counters.feedback_expired) == (1, 0)


def test_an_id_of_another_generation_of_the_lane_is_unknown(name: str) -> None:
    generation = 1 << 40
    with create(name, "inline") as engine:
        decision_id = engine.route(X).id
        engine.feedback(decision_id ^ generation, 0.5)
        counters = engine.instant.metrics
        assert (counters.feedback_unknown, counters.feedback_expired) == (1, 0)


def test_drops_are_counted_and_nothing_else_changes(name: str) -> None:
    with create(name, trajectory_capacity=1, max_workers=1) as engine:
        results = [engine.record(sona.QueryTrajectory(i, X).finalize(0.5)) for i in range(200)]
        stats = engine.stats()
        assert stats.recorded == sum(results) > 0
        assert stats.dropped == 200 - sum(results) > 0
        buffered = engine.instant.buffer_stats()
        assert buffered.pending == sum(results)
        assert buffered.dropped == engine.instant.buffer().dropped_count == stats.dropped
        assert buffered.success_rate == sum(results) / 200


def test_route_rows_hold_the_mean_of_what_was_learned(name: str, rng: np.random.Generator) -> None:
    earned: dict[str, list[float]] = {route.name: [] for route in ROUTES}
    with create(name, "inline") as engine:
        for _ in range(300):
            decision = engine.route(rng.standard_normal(DIM))
            quality = float(np.float32(rng.random()))
            engine.feedback(decision.id, quality)
            earned[decision.route].append(quality - 0.2 * ROUTES[decision.index].cost)
        engine.flush()
        for row in engine.stats().routes:
            assert row.outcomes == len(earned[row.name])
            assert row.mean_reward == pytest.approx(np.mean(earned[row.name]), abs=1e-6)


# ---- processes ----


def test_the_row_of_a_lane_names_its_living_owner(name: str) -> None:
    with create(name) as engine, worker("engine.route(np.ones(8))\n" + WAIT, name) as process:
        assert line_of(process) == "ready"
        (row,) = engine.stats().lanes
        assert (row.alive, row.pid, row.decisions) == (True, process.pid, 1)
        words = Path(f"/proc/{process.pid}/cmdline").read_text().split("\0")
        label = " ".join(Path(word).name for word in words if word)
        assert row.label == label.encode()[: _core.LABEL_BYTES].decode()


def test_the_retired_row_takes_over_what_a_finished_worker_did(name: str) -> None:
    with create(name) as engine:
        run_worker(RECORD + DECIDE, name, "12")
        engine.record(sona.QueryTrajectory(1, X).finalize(0.5))
        stats = engine.stats()
        assert (stats.retired.recorded, stats.retired.decisions) == (12, 12)
        assert (stats.recorded, stats.decisions) == (13, 12)
        assert [row.recorded for row in stats.lanes if row.alive] == [1]
        sona.Learner(name).close()
        assert_adds_up(engine.stats())


def test_the_retired_row_takes_over_what_a_killed_worker_did(name: str) -> None:
    with create(name, max_workers=1) as engine:
        with worker(RECORD + WAIT, name, "12") as process:
            assert line_of(process) == "ready"
            assert engine.stats().retired.recorded == 0
            process.send_signal(signal.SIGKILL)
            process.wait()
            stats = engine.stats()
            assert (stats.retired.recorded, stats.recorded) == (12, 12)
        engine.record(sona.QueryTrajectory(1, X).finalize(0.5))
        stats = engine.stats()
        assert (stats.retired.recorded, stats.recorded) == (12, 13)


def test_a_lane_with_a_backlog_is_shown_after_its_owner(name: str) -> None:
    with create(name) as engine:
        run_worker(RECORD, name, "3")
        (row,) = engine.stats().lanes
        assert not row.alive
        assert row.backlog_bytes > 0


def test_many_workers_add_up(name: str) -> None:
    body = RECORD + "ids = [engine.route(np.ones(8)).id for _ in range(int(sys.argv[2]))]\n"
    body += "for id in ids: engine.feedback(id, 0.5)\n"
    with create(name, max_workers=2) as engine:
        for number in (5, 10, 15):
            run_worker(body, name, str(number))
        sona.Learner(name).close()
        stats = engine.stats()
    assert_adds_up(stats)
    assert (stats.recorded, stats.decisions) == (60, 30)
    assert stats.counters.outcomes_learned == 30


def test_feedback_may_come_from_another_process(name: str) -> None:
    with create(name) as engine:
        decision = engine.route(X)
        answered = run_worker(
            "print(engine.feedback(int(sys.argv[2]), 0.9))", name, str(decision.id)
        )
        assert answered == ["True"]
        sona.Learner(name).close()
        stats = engine.stats()
        assert_adds_up(stats)
        rows = {row.name: row for row in stats.routes}
        assert rows[decision.route].outcomes == 1
        cost = ROUTES[decision.index].cost
        assert rows[decision.route].mean_reward == pytest.approx(0.9 - 0.2 * cost, abs=1e-6)


@pytest.mark.parametrize("killed", [False, True])
def test_feedback_may_come_after_the_decider_is_gone(name: str, killed: bool) -> None:
    with create(name) as engine:
        if killed:
            with worker(DECIDE + WAIT, name, "1") as process:
                decision_id = int(line_of(process))
                assert line_of(process) == "ready"
        else:
            (line,) = run_worker(DECIDE, name, "1")
            decision_id = int(line)
        assert engine.feedback(decision_id, 0.9)
        sona.Learner(name).close()
        stats = engine.stats()
        assert_adds_up(stats)
        assert stats.counters.outcomes_learned == 1


def test_feedback_survives_that_another_worker_has_the_lane_now(name: str) -> None:
    with create(name, max_workers=1) as engine:
        (line,) = run_worker(DECIDE, name, "1")
        assert engine.route(X).id != int(line)
        assert engine.feedback(int(line), 0.9)
        sona.Learner(name).close()
        assert engine.stats().counters.outcomes_learned == 1


# ---- learner and publication ----


def test_the_learner_is_shown_while_it_holds_the_lease(name: str) -> None:
    with create(name) as engine:
        with worker("learner = sona.Learner(sys.argv[1])\n" + WAIT, name) as process:
            assert line_of(process) == "ready"
            stats = engine.stats()
            assert (stats.learner_alive, stats.learner_pid) == (True, process.pid)
        assert not engine.stats().learner_alive


def test_a_publication_raises_the_version(name: str) -> None:
    with create(name, "inline", flush_threshold=1) as engine:
        versions = []
        for index in range(3):
            engine.record(sona.QueryTrajectory(index, X).finalize(0.5))
            versions.append(engine.stats().version)
        since = engine.stats().seconds_since_publish
    assert versions == [1, 2, 3]
    assert since is not None
    assert since >= 0.0


def test_stats_survive_json(name: str, rng: np.random.Generator) -> None:
    with create(name, "inline") as engine:
        for _ in range(10):
            engine.feedback(engine.route(rng.standard_normal(DIM)).id, 0.5)
        mapping = engine.stats().to_mapping()
    assert json.loads(json.dumps(mapping, allow_nan=False)) == mapping
    fields = {field.name for field in dataclasses.fields(sona.EngineStats)}
    assert set(mapping) == fields | {"losses"}
    assert mapping["counters"]["outcomes_learned"] == 10
    assert [row["name"] for row in mapping["routes"]] == ["small", "large"]


def test_a_stray_figure_is_still_json(name: str) -> None:
    """Every reader of what programs are given takes it, whatever is in shared memory."""
    with create(name, "inline") as engine:
        engine.feedback(engine.route(X).id, 0.5)
        reward = max(route.mean_reward for route in engine.stats().routes)
        weights = engine._memory.buffer("weights")
        stray = bytes(weights).replace(struct.pack("<d", reward), struct.pack("<d", math.nan))
        weights[:] = stray
        assert any(math.isnan(route.mean_reward) for route in engine.stats().routes)
        for command in (("stats",), ("top", "--once", "--interval", "0.01")):
            printed = sona_command(*command, name, "--json").stdout
            rows = json.loads(printed, parse_constant=pytest.fail)["routes"]
            assert None in [row["mean_reward"] for row in rows]


def test_shares_come_from_lanes_that_have_decided(name: str) -> None:
    """However many lanes are empty, a thousand decisions or so are looked at."""
    with create(name, "inline", max_workers=64) as engine:
        for _ in range(301):
            engine.route(X)
    with sona.Engine.attach(name) as monitor:
        chosen = [301 * route.share for route in monitor.stats().routes]
    assert sum(chosen) == pytest.approx(301)
    assert chosen == [pytest.approx(round(count)) for count in chosen]


def test_looking_changes_nothing(name: str) -> None:
    with create(name) as engine, sona.Engine.attach(name) as monitor:
        engine.feedback(engine.route(X).id, 0.5)
        before = [bytes(engine._memory.buffer(kind)) for kind in ("control", "ring", "weights")]
        monitor.stats()
        monitor.instant.buffer_stats()
        assert monitor.instant.metrics.feedback_processed == 0
        monitor.instant.micro_lora()
        monitor.apply(X)
        after = [bytes(engine._memory.buffer(kind)) for kind in ("control", "ring", "weights")]
        assert before == after
