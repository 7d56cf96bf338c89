"""Distinct errors in shared memory: counted by any process, read after all of them are dead."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import sona_shm as sona
from sona_shm import _core
from sona_shm.shm.layout import OFFSETS
from sona_shm.shm.life_cycle import attach_memory
from sona_shm.shm.waiting import wait_until
from tests.children import PATIENCE, SMALL, end, hear, start, tell
from tests.test_cli import sona_command


def test_an_error_is_counted_and_keeps_its_first_message(name: str) -> None:
    with sona.Engine.create(name, SMALL) as engine:
        for quality in (2.0, 3.0, -1.0):
            with pytest.raises(sona.OutOfRangeError):
                engine.feedback(1, quality)
        with pytest.raises(sona.ShapeError):
            engine.route([0.5, 0.5])
        latest, first = engine.stats().errors
    assert (latest.where, latest.count) == ("route", 1)
    assert latest.what.startswith("ShapeError: ")
    assert (first.where, first.count, first.pid) == ("feedback", 3, os.getpid())
    assert first.what == "OutOfRangeError: quality is 2.0, expected a number in [0, 1]"
    assert 0 < first.first_ns < first.last_ns <= latest.first_ns == latest.last_ns


@pytest.mark.parametrize("call", ["route", "observe", "record"])
def test_every_call_of_a_worker_that_is_refused_is_noted(name: str, call: str) -> None:
    with sona.Engine.create(name, SMALL) as engine:
        calls: dict[str, Callable[[], object]] = {
            "route": lambda: engine.route([np.nan] * 8),
            "observe": lambda: engine.observe([0.1] * 8, "nowhere", 0.5),
            "record": lambda: engine.record(sona.QueryTrajectory(1, [0.1] * 3).finalize(0.5)),
        }
        with pytest.raises(sona.SonaError) as raised:
            calls[call]()
        (noted,) = engine.stats().errors
        assert engine.stats().recorded == 0
    assert (noted.where, noted.what) == (call, f"{raised.type.__name__}: {raised.value}")


def test_errors_outlive_the_processes_that_had_them(name: str) -> None:
    sona.Engine.create(name, SMALL).close()
    worker = start(
        """
        engine = sona.Engine.attach(name)
        try:
            engine.feedback(1, 7.0)
        except sona.OutOfRangeError:
            say("refused"); hear()
        """,
        name,
    )
    try:
        assert hear(worker) == "refused"
        os.kill(worker.pid, signal.SIGKILL)
        worker.wait(PATIENCE)
    finally:
        end(worker)
    stats = json.loads(sona_command("stats", name, "--json").stdout)
    (noted,) = stats["errors"]
    assert (noted["where"], noted["pid"], noted["count"]) == ("feedback", worker.pid, 1)


def test_processes_that_note_at_once_lose_no_count(name: str) -> None:
    code = """
    engine = sona.Engine.attach(name)
    say("up"); hear()
    for i in range(500):
        engine._memory.errors.note("many", f"kind {i % 5}")
    say("done")
    """
    with sona.Engine.create(name, SMALL) as engine:
        workers = [start(code, name) for _ in range(4)]
        try:
            for worker in workers:
                assert hear(worker) == "up"
            for worker in workers:
                tell(worker)
            for worker in workers:
                assert hear(worker) == "done"
        finally:
            for worker in workers:
                end(worker)
        noted = engine.stats().errors
    assert {(e.where, e.what, e.count) for e in noted} == {
        ("many", f"kind {kind}", 400) for kind in range(5)
    }


def test_what_finds_no_room_is_counted(name: str) -> None:
    with sona.Engine.create(name, SMALL) as engine:
        for i in range(_core.ERROR_ENTRIES + 7):
            engine._memory.errors.note("everywhere", f"kind {i}")
        engine._memory.errors.note("everywhere", "kind 0")
        stats = engine.stats()
    assert (len(stats.errors), stats.errors_unlisted) == (_core.ERROR_ENTRIES, 7)
    assert (stats.errors[0].what, stats.errors[0].count) == ("kind 0", 2)


def test_a_long_message_is_cut_off(name: str) -> None:
    with sona.Engine.create(name, SMALL) as engine:
        engine._memory.errors.note("a", "é" * 10_000)
        (noted,) = engine.stats().errors
    assert noted.what.startswith("é" * 200)
    assert len(noted.what.encode()) <= _core.ERROR_TEXT_BYTES


def test_an_entry_whose_writer_died_half_way_is_completed_by_the_next(name: str) -> None:
    with sona.Engine.create(name, SMALL) as engine:
        table = engine._memory.errors
        table.note("a", "something")
        start_of = next(
            start
            for i in range(_core.ERROR_ENTRIES)
            if engine._memory.control.load(start := table._entry(i))
        )
        engine._memory.control.store(start_of + OFFSETS["error_entry.text_mark"], 0)
        (torn,) = engine.stats().errors
        assert (torn.what, torn.count) == ("", 1)
        table.note("a", "something")
        (whole,) = engine.stats().errors
    assert (whole.where, whole.what, whole.count) == ("a", "something", 2)


def test_nonsense_in_the_table_is_no_harm(name: str, rng: np.random.Generator) -> None:
    with sona.Engine.create(name, SMALL) as engine:
        memory = engine._memory
        begin = memory.sizes["errors_offset"]
        for _ in range(50):
            junk = rng.bytes(_core.ERROR_ENTRIES * _core.ERROR_ENTRY_BYTES)
            memory.buffer("control")[begin : begin + len(junk)] = junk
            memory.errors.note("a", "b")
            assert len(engine.stats().errors) <= _core.ERROR_ENTRIES


# ---- what a learner notes ----


def test_a_reward_that_fails_is_noted(name: str) -> None:
    def reward(outcome: sona.Outcome) -> float:
        raise KeyError("price list")

    with sona.Engine.create(name, SMALL, "inline", reward=reward) as engine:
        for _ in range(3):
            engine.feedback(engine.route([0.1] * 8).id, 0.5)
        (noted,) = engine.stats().errors
    assert (noted.where, noted.what, noted.count) == ("reward", "KeyError: 'price list'", 3)


def test_a_journal_that_cannot_be_written_is_noted(name: str, tmp_path: Path) -> None:
    """A limit on the size of files answers like a full disk."""
    with sona.Engine.create(name, SMALL) as engine:
        child = os.fork()
        if child == 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
            learner = sona.Engine.attach(name, "inline", journal=tmp_path)
            for _ in range(100):
                learner.feedback(learner.route([0.1] * 8).id, 0.5)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        (noted,) = engine.stats().errors
    assert noted.where == "journal"
    assert os.strerror(errno.EFBIG) in noted.what


def test_more_workers_than_lanes_are_noted(name: str) -> None:
    config = sona.SonaConfig(hidden_dim=8, max_workers=1)
    with sona.Engine.create(name, config) as engine, sona.Engine.attach(name) as second:
        assert engine.record(sona.QueryTrajectory(1, [0.1] * 8).finalize(0.5))
        with pytest.raises(sona.NoFreeLaneError):
            second.record(sona.QueryTrajectory(1, [0.1] * 8).finalize(0.5))
        (noted,) = engine.stats().errors
    assert (noted.where, noted.count) == ("claim a lane", 1)
    assert noted.what.startswith("NoFreeLaneError: all 1 lanes")


# ---- what the monitor sees beside ----


def test_a_standby_is_seen(name: str) -> None:
    code = """
    from sona_shm.learner import Learner
    say("up"); hear()
    with Learner(name, timeout=60.0):
        say("learns"); hear()
    """
    with sona.Engine.create(name, SMALL) as engine:
        assert not engine.stats().standby_alive
        first, second = start(code, name), None
        try:
            assert hear(first) == "up"
            tell(first)
            assert hear(first) == "learns"
            assert (engine.stats().learner_alive, engine.stats().standby_alive) == (True, False)
            second = start(code, name)
            assert hear(second) == "up"
            tell(second)
            assert sona_waits(engine, lambda stats: stats.standby_alive)
            os.kill(first.pid, signal.SIGKILL)
            assert hear(second) == "learns"
            assert sona_waits(engine, lambda stats: not stats.standby_alive)
            assert engine.stats().learner_terms == 2
        finally:
            end(first)
            if second is not None:
                end(second)


def sona_waits(engine: sona.Engine, condition: Callable[[sona.EngineStats], bool]) -> bool:
    return wait_until(lambda: condition(engine.stats()), PATIENCE)


def test_shares_and_propensities_are_those_of_recent_decisions(name: str) -> None:
    with sona.Engine.create(name, SMALL) as engine:
        decisions = [engine.route([0.1] * 8) for _ in range(50)]
        decisions += [engine.route([0.1] * 8, allowed=["b"]) for _ in range(10)]
        routes = engine.stats().routes
        for index, route in enumerate(routes):
            chosen = [d.propensity for d in decisions if d.index == index]
            assert route.share == pytest.approx(len(chosen) / 60)
            assert route.propensity == pytest.approx(np.mean(chosen))
    with sona.Engine.attach(name) as other:
        assert sum(route.share for route in other.stats().routes) == pytest.approx(1.0)


def test_a_corrupt_decision_slot_is_left_out(name: str) -> None:
    with sona.Engine.create(name, SMALL) as engine:
        engine.route([0.1] * 8)
        memory = attach_memory(name)
        at = memory.sizes["lanes_offset"] + memory.sizes["lane_slots_offset"]
        at += OFFSETS["decision_slot.decision"] + OFFSETS["decision.route"]
        memory.buffer("ring")[at : at + 8] = struct.pack("<If", 12345, np.nan)
        memory.close()
        assert [route.share for route in engine.stats().routes] == [0.0, 0.0]
