"""Settings: their borders, presets, routes and files."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sona_shm as sona
from sona_shm import _core
from tests.refusals import raises_exactly

# field: lowest, highest
INTEGERS = {
    "hidden_dim": (1, 65536),
    "micro_lora_rank": (1, 64),
    "base_lora_rank": (1, 64),
    "pattern_clusters": (1, 4096),
    "trajectory_capacity": (1, 10**7),
    "background_interval_ms": (1, 10**10),
    "flush_threshold": (1, 10**6),
    "max_workers": (1, 1024),
    "pending_decisions": (1, 1 << 24),
    "reservoir": (64, 1 << 20),
    "max_routes": (0, 1024),
    "seed": (0, 2**63 - 1),
    "max_tasks": (0, 8),
}
NUMBERS = {
    "micro_lora_lr": (0.0, 1.0),
    "base_lora_lr": (0.0, 1.0),
    "ewc_lambda": (0.0, 1e6),
    "quality_threshold": (0.0, 1.0),
    "cost_weight": (0.0, 1e12),
    "exploration": (1e-6, 1e6),
    "head_lr": (0.0, 10.0),
    "forgetting": (0.0, 10.0),
    "default_quality": (0.0, 1.0),
    "feedback_timeout_s": (0.0, 1e9),
    "flush_interval_ms": (0.0, 1e7),
}
CHOICES = {"policy": _core.POLICIES, "update_rule": ("exact", "reference")}


def short(value: object) -> str:
    return repr(value)[:24]


def make(field: str, value: object) -> sona.SonaConfig:
    return sona.SonaConfig.from_mapping({field: value})


def test_every_field_is_covered_here() -> None:
    fields = {field.name for field in dataclasses.fields(sona.SonaConfig)}
    assert fields == {*INTEGERS, *NUMBERS, *CHOICES, "routes", "experts", "group"}


@pytest.mark.parametrize("field", INTEGERS)
def test_an_integer_field_accepts_its_borders(field: str) -> None:
    for value in INTEGERS[field]:
        assert getattr(make(field, value), field) == value


INTEGER_REFUSALS = [
    (field, value)
    for field, (low, high) in INTEGERS.items()
    for value in (low - 1, high + 1, True, 1.0, "1")
]


@pytest.mark.parametrize(("field", "value"), INTEGER_REFUSALS, ids=short)
def test_an_integer_field_refuses(field: str, value: object) -> None:
    low, high = INTEGERS[field]
    named = (field, f"is {value!r}", f"from {low} to {high}")
    with raises_exactly(sona.ConfigError, ValueError, *named):
        make(field, value)


@pytest.mark.parametrize("value", [None, 7, b"staff", "a\0b", "x" * 257], ids=short)
def test_a_group_that_is_no_name_is_refused(value: object) -> None:
    with raises_exactly(sona.ConfigError, ValueError, "group is", "the name of a Unix group"):
        make("group", value)


@pytest.mark.parametrize("field", NUMBERS)
def test_a_number_field_accepts_its_borders(field: str) -> None:
    low, high = NUMBERS[field]
    for value in (low, int(high), min(high, 1e300)):
        assert getattr(make(field, value), field) == value


NUMBER_REFUSALS = [
    (field, value)
    for field, (low, high) in NUMBERS.items()
    for value in (low - 1e-9, 1.01 * high, math.nan, math.inf, -math.inf, True, "1", 10**400)
]


@pytest.mark.parametrize(("field", "value"), NUMBER_REFUSALS, ids=short)
def test_a_number_field_refuses(field: str, value: object) -> None:
    with raises_exactly(sona.ConfigError, ValueError, field, f"is {value!r}", "expected a number"):
        make(field, value)


@pytest.mark.parametrize("field", CHOICES)
def test_a_choice_field_accepts_its_choices_only(field: str) -> None:
    for value in CHOICES[field]:
        assert getattr(make(field, value), field) == value
    for wrong in ("", "Exact", None, 1, ["exact"]):
        with raises_exactly(sona.ConfigError, ValueError, field, repr(wrong), *CHOICES[field]):
            make(field, wrong)


@pytest.mark.parametrize("field", [*INTEGERS, *NUMBERS])
def test_none_is_refused_but_where_it_has_a_meaning(field: str) -> None:
    if field in {"seed", "flush_interval_ms", "max_routes", "exploration", "default_quality"}:
        assert getattr(make(field, None), field) is None
        return
    with raises_exactly(sona.ConfigError, ValueError, field, "None"):
        make(field, None)


def test_an_unknown_setting_is_named_beside_the_known_ones() -> None:
    with raises_exactly(sona.ConfigError, ValueError, "hidden_dimm", "hidden_dim,", "routes"):
        sona.SonaConfig.from_mapping({"hidden_dimm": 8})


@pytest.mark.parametrize("values", [None, [], "hidden_dim", 1])
def test_what_is_no_table_is_refused(values: Any) -> None:
    with raises_exactly(sona.ConfigError, ValueError, repr(values)):
        sona.SonaConfig.from_mapping(values)


def test_the_defaults_of_the_crate_are_kept() -> None:
    config = sona.SonaConfig()
    kept = {
        "hidden_dim": 256,
        "micro_lora_rank": 2,
        "base_lora_rank": 8,
        "micro_lora_lr": 0.002,
        "base_lora_lr": 0.0001,
        "pattern_clusters": 100,
        "trajectory_capacity": 10000,
        "background_interval_ms": 3600000,
        "quality_threshold": 0.3,
        "flush_threshold": 100,
    }
    assert {field: getattr(config, field) for field in kept} == kept
    loop = sona.InstantLoopConfig()
    assert dataclasses.astuple(loop) == (1, 0.001, 10000, 100)


PRESETS: dict[str, tuple[Callable[..., sona.SonaConfig], dict[str, object]]] = {
    "max_throughput": (
        sona.SonaConfig.max_throughput,
        {"base_lora_rank": 4, "micro_lora_lr": 0.0005, "trajectory_capacity": 5000},
    ),
    "max_quality": (
        sona.SonaConfig.max_quality,
        {"base_lora_rank": 16, "base_lora_lr": 0.001, "quality_threshold": 0.2},
    ),
    "edge_deployment": (
        sona.SonaConfig.edge_deployment,
        {"micro_lora_rank": 1, "trajectory_capacity": 200},
    ),
    "batch_processing": (sona.SonaConfig.batch_processing, {"micro_lora_lr": 0.001}),
}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_sets_its_fields_and_takes_changes(preset: str) -> None:
    make_preset, fields = PRESETS[preset]
    config = make_preset(hidden_dim=8, micro_lora_lr=0.5)
    wanted = fields | {"hidden_dim": 8, "micro_lora_lr": 0.5}
    assert {field: getattr(config, field) for field in wanted} == wanted
    with raises_exactly(sona.ConfigError, ValueError, "hidden_dim"):
        make_preset(hidden_dim=0)


# ---- routes ----


@pytest.mark.parametrize("routes", ["ab", ["a"], [None], None, 1, [("a", 1.0)]], ids=repr)
def test_routes_that_are_no_routes_are_refused(routes: Any) -> None:
    with raises_exactly(sona.ConfigError, ValueError, "routes"):
        sona.SonaConfig(routes=routes)


@pytest.mark.parametrize("routes", ["ab", ["a"], [{}], [{"name": "a", "price": 1}], None, 1])
def test_tables_that_are_no_routes_are_refused(routes: object) -> None:
    with raises_exactly(sona.ConfigError, ValueError, "route"):
        make("routes", routes)


@pytest.mark.parametrize("sequence", [list, tuple, iter])
def test_routes_may_be_any_sequence(sequence: Callable[[list[sona.Route]], Any]) -> None:
    routes = [sona.Route("a"), sona.Route("b")]
    assert sona.SonaConfig(routes=sequence(routes)).routes == tuple(routes)


def test_each_route_name_may_occur_once() -> None:
    with raises_exactly(sona.ConfigError, ValueError, "'a'", "once"):
        sona.SonaConfig(routes=(sona.Route("a"), sona.Route("a", 1.0)))


@pytest.mark.parametrize("route_name", ["", None, 7, b"a"])
def test_a_route_needs_a_name(route_name: Any) -> None:
    with raises_exactly(sona.ConfigError, ValueError, repr(route_name), "non-empty string"):
        sona.Route(route_name)


@pytest.mark.parametrize("cost", [-1e-9, math.nan, math.inf, "1", None, True])
def test_a_route_needs_a_cost_that_is_not_negative(cost: Any) -> None:
    with raises_exactly(sona.ConfigError, ValueError, "'a'", repr(cost)):
        sona.Route("a", cost)


def test_the_number_of_routes_is_bounded() -> None:
    routes = tuple(sona.Route(str(i)) for i in range(1025))
    assert len(sona.SonaConfig(routes=routes[:1024]).routes) == 1024
    with raises_exactly(sona.ConfigError, ValueError, "1025", "1024"):
        sona.SonaConfig(routes=routes)


def test_names_of_routes_may_hold_any_characters(name: str) -> None:
    names = ["modèle", "模型", "a b/c", "x" * 63, "\t"]
    config = sona.SonaConfig(hidden_dim=2, routes=tuple(map(sona.Route, names)))
    with sona.Engine.create(name, config), sona.Engine.attach(name) as engine:
        assert [row.name for row in engine.stats().routes] == names
        assert engine.route([1.0, 0.0]).route in names


@pytest.mark.parametrize("route", ["x" * 64, "é" * 32, "a\0b"], ids=ascii)
def test_names_that_do_not_fit_are_refused(route: str) -> None:
    with raises_exactly(sona.ConfigError, ValueError, "name of a route", "63"):
        sona.Route(route)


@pytest.mark.parametrize("experts", ["bank", ("bank", "committee"), None, 3], ids=repr)
def test_experts_that_are_none_are_refused(experts: Any) -> None:
    with raises_exactly(sona.ConfigError, ValueError, "expert"):
        sona.SonaConfig(experts=experts)


def test_there_is_room_for_the_routes_there_are() -> None:
    with raises_exactly(sona.ConfigError, ValueError, "max_routes", "2"):
        sona.SonaConfig(routes=[sona.Route("a"), sona.Route("b")], max_routes=1)


def test_a_price_beyond_float32_is_refused(name: str) -> None:
    routes = (sona.Route("a", 1e30), sona.Route("b", 1e30))
    with raises_exactly(sona.ConfigError, ValueError, "cost"):
        sona.Engine.create(name, sona.SonaConfig(hidden_dim=2, routes=routes, cost_weight=1e30))


# ---- files ----

SAMPLE = sona.SonaConfig(
    hidden_dim=8,
    routes=(sona.Route("small", 0.01), sona.Route("large", 1.0)),
    cost_weight=0.2,
    policy="epsilon_greedy",
    flush_interval_ms=None,
    seed=2**63 - 1,
)


def test_a_configuration_survives_a_json_file(tmp_path: Path) -> None:
    path = tmp_path / "engine.json"
    path.write_text(json.dumps(SAMPLE.to_mapping()))
    assert sona.SonaConfig.from_file(path) == SAMPLE
    assert sona.SonaConfig.from_file(str(path)) == SAMPLE


def test_a_toml_file_gives_the_same_configuration(tmp_path: Path) -> None:
    path = tmp_path / "engine.toml"
    path.write_text(
        'hidden_dim = 8\ncost_weight = 0.2\npolicy = "epsilon_greedy"\nseed = 9223372036854775807\n'
        '[[routes]]\nname = "small"\ncost = 0.01\n[[routes]]\nname = "large"\ncost = 1.0\n'
    )
    loaded = sona.SonaConfig.from_file(path)
    assert dataclasses.replace(loaded, flush_interval_ms=None) == SAMPLE


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("absent.toml", None),
        ("bad.toml", b"hidden_dim ="),
        ("bad.json", b"{"),
        ("latin.toml", b"# \xe9"),
        ("list.json", b"[1]"),
        ("range.toml", b"hidden_dim = 0"),
        ("nan.toml", b"epsilon = nan"),
    ],
)
def test_a_file_that_gives_no_configuration_is_refused(
    tmp_path: Path, file: str, content: bytes | None
) -> None:
    path = tmp_path / file
    if content is not None:
        path.write_bytes(content)
    with raises_exactly(sona.ConfigError, ValueError):
        sona.SonaConfig.from_file(path)


def test_an_attached_engine_has_the_configuration_of_its_creator(name: str) -> None:
    with sona.Engine.create(name, SAMPLE), sona.Engine.attach(name) as attached:
        assert attached.config == SAMPLE
