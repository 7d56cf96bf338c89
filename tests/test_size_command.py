"""`sona size` says what an engine really takes, and how long its capacities really last."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

import sona_shm as sona
from sona_shm.cli.size import parts, seconds_at
from tests.children import SMALL
from tests.test_cli import CONFIG, sona_command

CONFIGS = [
    sona.SonaConfig(),
    SMALL,
    sona.SonaConfig.edge_deployment(),
    sona.SonaConfig(hidden_dim=1, max_workers=1, pending_decisions=1, max_tasks=0),
    sona.SonaConfig(hidden_dim=385, max_workers=7, routes=[sona.Route("a")], max_routes=65),
]


def size_of(*arguments: str) -> dict[str, Any]:
    done = sona_command("size", *arguments, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("config", CONFIGS, ids=["default", "small", "edge", "least", "odd"])
def test_the_parts_add_up_to_nbytes(config: sona.SonaConfig) -> None:
    assert all(count >= 0 for count in parts(config).values())
    assert sum(parts(config).values()) == config.nbytes()


def test_a_file_and_settings_are_what_create_would_take(tmp_path: Path) -> None:
    for suffix, text in (("toml", CONFIG), ("json", '{"hidden_dim": 8, "max_workers": 2}')):
        file = tmp_path / f"engine.{suffix}"
        file.write_text(text)
        config = sona.SonaConfig.from_file(file)
        assert size_of(str(file))["bytes"] == config.nbytes()
        changed = sona.SonaConfig.from_mapping(config.to_mapping() | {"max_workers": 5})
        assert size_of(str(file), "--set", "max_workers=5")["bytes"] == changed.nbytes()
    assert size_of()["bytes"] == sona.SonaConfig().nbytes()


def test_docker_is_told_enough() -> None:
    assert size_of("--set", "hidden_dim=8")["shm_size_mib"] == 64
    larger = size_of("--set", "hidden_dim=1024")
    assert 1.25 * larger["bytes"] <= larger["shm_size_mib"] * 2**20 < 1.25 * larger["bytes"] + 2**24


def test_an_engine_for_which_there_is_no_room_is_told_so() -> None:
    settings = ("hidden_dim=65536", "reservoir=1048576", 'routes=[{name = "a"}]')
    arguments = [word for setting in settings for word in ("--set", setting)]
    assert not size_of(*arguments)["fits"]
    assert "it does not fit" in sona_command("size", *arguments).stdout
    assert "it fits" in sona_command("size", "--set", "hidden_dim=8").stdout


@pytest.mark.parametrize("pending", [64, 65_536], ids=["slots first", "lane first"])
def test_no_outcome_is_lost_without_a_learner_for_as_long_as_it_says(
    name: str, pending: int
) -> None:
    config = dataclasses.replace(SMALL, pending_decisions=pending)
    lasts = int(seconds_at(config, rate=1.0)["learner_away"])
    with sona.Engine.create(name, config) as engine:
        x = [0.1] * config.hidden_dim
        recorded = [engine.feedback(engine.route(x).id, 0.5) for _ in range(lasts + 1)]
        with sona.Engine.attach(name, learner="inline") as learner:
            learner.flush()
            counters = learner.stats().counters
    in_slots, in_lane = counters.feedback_expired, recorded.count(False)
    assert (in_slots, in_lane) == ((1, 0) if lasts == pending else (0, 1))
    assert counters.outcomes_learned == lasts


def test_a_lane_holds_trajectories_for_as_long_as_it_says(name: str) -> None:
    one_step = sona.QueryTrajectory(1, [0.1] * SMALL.hidden_dim)
    one_step.add_step(sona.TrajectoryStep([0.1] * SMALL.hidden_dim, [], 0.5))
    one_step.finalize(0.7)
    with sona.Engine.create(name, SMALL) as engine:
        recorded = 0
        while engine.record(one_step):
            recorded += 1
    # The end of the ring is left unused where a record does not fit into it.
    said = seconds_at(SMALL, rate=1.0)["learner_away_trajectories"]
    assert recorded in (int(said), int(said) - 1)


def test_a_decision_waits_for_as_long_as_it_says(name: str) -> None:
    wait = int(seconds_at(SMALL, rate=1.0)["feedback_wait"])
    with sona.Engine.create(name, SMALL, learner="inline") as engine:
        ids = [engine.route([0.1] * SMALL.hidden_dim).id for _ in range(wait + 1)]
        for decision in ids:
            assert engine.feedback(decision, 0.5)
        counters = engine.stats().counters
    assert (counters.feedback_expired, counters.outcomes_learned) == (1, wait)


def test_people_are_told_the_same() -> None:
    printed = sona_command("size", "--rate", "0.01").stdout
    for words in (f"{sona.SonaConfig().nbytes():,}", "--shm-size=64m", "28.4 h", "decision slots"):
        assert words in printed


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("nowhere.toml",), 1, "cannot read the configuration nowhere.toml"),
        (("--set", "colour=red"), 1, "unknown settings colour"),
        (("--set", "hidden_dim=0"), 1, "hidden_dim is 0"),
        (("--set", "hidden_dim"), 2, "is no KEY=VALUE"),
        (("--rate", "0"), 2, "0 is not above 0"),
        (("--rate", "many"), 2, "'many' is no number of requests a second"),
    ],
)
def test_wrong_input_is_refused(arguments: tuple[str, ...], code: int, message: str) -> None:
    done = sona_command("size", *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
