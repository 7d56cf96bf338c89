"""What people are shown: everything that matters, in the width there is, and nothing to obey."""

from __future__ import annotations

import dataclasses
import re

import pytest
from rich.console import Console

import sona_shm as sona
from sona_shm.monitor import tables
from sona_shm.monitor.losses import LOSSES
from sona_shm.monitor.rates import Rates
from sona_shm.shm.layout import OFFSETS

NAMES = ("claude-haiku-4-5-20251001", "claude-haiku-4-5-20260701")
CONFIG = sona.SonaConfig(
    hidden_dim=4, routes=tuple(sona.Route(name, 0.1) for name in NAMES), max_workers=2
)
X = [0.5, 0.5, 0.5, 0.5]


def drawn(table: object, width: int = 80) -> str:
    console = Console(width=width, highlight=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_every_loss_has_a_meaning(name: str) -> None:
    with sona.Engine.create(name, CONFIG) as engine:
        assert list(LOSSES) == list(engine.stats().losses)


@pytest.mark.parametrize("width", [80, 90, 110])
def test_routes_show_whole_names_and_then_what_fits(name: str, width: int) -> None:
    with sona.Engine.create(name, CONFIG, learner="inline") as engine:
        for quality in (0.25, 0.75):
            engine.feedback(engine.route(X).id, quality, latency_ms=1234.0, tokens=56)
        stats = engine.stats()
    text = drawn(tables.routes(stats), width)
    assert all(route in text for route in NAMES)
    assert ("1,234 ms" in text) == (width >= 90)
    assert ("█" in text) == (width >= 110)
    assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize("width", [1, 20, 80])
def test_nothing_is_wider_than_the_console(name: str, width: int) -> None:
    with sona.Engine.create(name, CONFIG, learner="inline") as engine:
        engine.feedback(engine.route(X).id, 0.5)
        engine.feedback(1, 0.5)
        with pytest.raises(sona.OutOfRangeError):
            engine.feedback(1, 2.0)
        before, after = engine.stats(), engine.stats()
    text = drawn(tables.everything(after, Rates.between(before, after, 1.0)), width)
    assert max(map(len, text.splitlines())) <= width


def test_losses_are_shown_with_their_meaning_and_only_those_that_happened(name: str) -> None:
    with sona.Engine.create(name, CONFIG, learner="inline") as engine:
        assert "nothing lost" in drawn(tables.losses(engine.stats()))
        engine.feedback(1, 0.5)
        text = drawn(tables.losses(engine.stats()))
    assert LOSSES["feedback_unknown"].meaning in text
    assert "dropped" not in text


def test_losses_are_red_while_they_grow_unless_clients_cause_them(name: str) -> None:
    config = dataclasses.replace(CONFIG, trajectory_capacity=1)
    with sona.Engine.create(name, config) as engine:
        before = engine.stats()
        while engine.feedback(engine.route(X).id, 0.5):
            pass
        after = engine.stats()
    console = Console(width=80, force_terminal=True, color_system="standard")
    for then, red in ((before, True), (after, False)):
        with console.capture() as capture:
            console.print(tables.losses(after, Rates.between(then, after, 1.0)))
        assert ("\x1b[1;31m1.0/s" in capture.get()) == red


def test_errors_are_shown_with_their_text_and_count(name: str) -> None:
    with sona.Engine.create(name, CONFIG) as engine:
        for _ in range(3):
            with pytest.raises(sona.OutOfRangeError):
                engine.feedback(1, 2.0)
        engine._memory.errors.note("refit", "a \x1b[31mred\nerror \x07")
        text = drawn(tables.errors(engine.stats()), 120)
    assert "feedback OutOfRangeError: quality is 2.0, expected a number in [0, 1]      3" in text
    assert "refit a ?[31mred?error ?" in text
    assert "\x1b" not in text


def test_errors_without_an_entry_are_counted(name: str) -> None:
    with sona.Engine.create(name, CONFIG) as engine:
        for number in range(200):
            engine._memory.errors.note("test", f"error {number}")
        unlisted = engine.stats().errors_unlisted
        assert unlisted > 0
        text = drawn(tables.errors(engine.stats()))
    assert re.search(rf"of kinds for which there was no room +{unlisted}", text)


def test_a_quarantined_lane_is_marked(name: str) -> None:
    with sona.Engine.create(name, CONFIG, learner="inline") as engine:
        engine.route(X)
        (lane,) = engine.stats().lanes
        start = engine._memory.sizes["lanes_offset"]
        epoch = engine._memory.lane_words(0, "epoch")["epoch"]
        engine._memory.lanes.store(start + OFFSETS["lane_header.quarantined"], epoch + 1)
        text = drawn(tables.lanes(engine.stats()))
    assert f"{lane.pid}  quarantined " in text


def test_the_retired_row_stays_last_however_lanes_are_sorted(name: str) -> None:
    with sona.Engine.create(name, CONFIG) as engine:
        engine.route(X)
        stats = engine.stats()
    for column in tables.LANE_COLUMNS:
        for reverse in (False, True):
            text = drawn(tables.lanes(stats, column, reverse))
            assert f"{column} {'▼' if reverse else '▲'}" in text
            assert "retired" in text.splitlines()[-1]
