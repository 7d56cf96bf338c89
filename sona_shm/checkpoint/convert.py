"""Another configuration for what an engine knows: how a live engine is moved and resized."""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sona_shm import _core
from sona_shm.checkpoint.lora import changed_rank
from sona_shm.checkpoint.patterns import changed_patterns
from sona_shm.checkpoint.sections import Tensors
from sona_shm.checkpoint.state import (
    EngineState,
    first_row,
    get_field,
    set_field,
    state_of_blocks,
)
from sona_shm.checkpoint.tasks import changed_tasks
from sona_shm.checkpoint.validate import check_state
from sona_shm.config import Route, SonaConfig
from sona_shm.errors import ConfigError
from sona_shm.learning.snapshot import expert_bits, first_block
from sona_shm.loops.refit import needs_refits
from sona_shm.shm.layout import LEARNER_COUNTERS, OFFSETS

# What of a route, and of all, does not depend on embeddings.
_OF_A_ROUTE: Final = ("flags", "outcomes", "bias")
_MEANS_OF_A_ROUTE: Final = ("latency_ms", "tokens", "quality")
_BASELINES: Final = ("step_reward", "quality", "outcome")


def changed_state(state: EngineState, changes: Mapping[str, Any]) -> EngineState:
    """What an engine with other settings begins with.

    Parameters
    ----------
    state : EngineState
    changes : mapping of str to value
        Settings of `SonaConfig`, but not ``routes``.

    Returns
    -------
    EngineState
        Capacities keep everything; ranks keep the function, within the error of a truncated
        singular value decomposition; another `hidden_dim` keeps routes, prices, means and counts.

    Raises
    ------
    ConfigError
        If a setting is unknown, out of range, or must be changed in the running engine.
    """
    if not changes:
        return state
    config = _changed_config(state, changes)
    if config.hidden_dim != state.config.hidden_dim:
        changed = _started_anew(state, config)
    else:
        changed = EngineState(config, _resized(state, config), state.counts)
    _price_routes(changed)
    _plan_refits(changed)
    _keep_newest_rows(changed)
    check_state(changed)
    return changed


def _changed_config(state: EngineState, changes: Mapping[str, Any]) -> SonaConfig:
    if "routes" in changes:
        raise ConfigError(
            "routes are part of what was learned and cannot be changed by a restore; restore, then "
            "use add_route, retire_route and set_cost of the engine"
        )
    config = SonaConfig.from_mapping(state.config.to_mapping() | dict(changes))
    known = state.extent.routes
    if config.route_capacity() < known:
        raise ConfigError(
            f"max_routes is {config.route_capacity()}, expected at least {known}: so many routes "
            "are known, the retired ones included"
        )
    return config


# ---- the same embeddings ----


def _resized(state: EngineState, config: SonaConfig) -> Tensors:
    tensors = {name: tensor.copy() for name, tensor in state.tensors.items()}
    for a, b, rank in (
        ("micro_a", "micro_b", config.micro_lora_rank),
        ("slow_base_a", "slow_base_b", config.base_lora_rank),
    ):
        tensors[a], tensors[b] = changed_rank(tensors[a], tensors[b], rank)
    if config.pattern_clusters != state.config.pattern_clusters:
        tensors |= changed_patterns(tensors, config.geometry())
    tensors |= changed_tasks(tensors, config.geometry())
    set_field(tensors["header"], "snapshot_header.experts", expert_bits(config))
    if config.update_rule != state.config.update_rule:
        tensors["reference_sum"][:] = 0.0
        set_field(tensors["header"], "snapshot_header.reference_pending", 0)
    return tensors


# ---- other embeddings ----


def _started_anew(state: EngineState, config: SonaConfig) -> EngineState:
    """The first state of such an engine, with all that does not depend on embeddings."""
    routes = tuple(Route(row.name, row.cost) for row in state.routes)
    as_created = dataclasses.replace(config, routes=routes, max_routes=config.route_capacity())
    slow = bytes(config.geometry().sizes()["slow_bytes"])
    new = state_of_blocks(config, first_block(as_created), slow, b"", state.counts)
    header, old = new.tensors["header"], state.tensors["header"]
    for field in ("version", "slow_version"):
        set_field(header, f"snapshot_header.{field}", state.header(field))
    set_field(new.tensors["slow_header"], "slow_header.version", state.header("slow_version"))
    for field in _BASELINES:
        _copy(header, old, f"snapshot_header.{field}", 16)
    _copy(header, old, "snapshot_header.counters", 8 * len(LEARNER_COUNTERS))
    for record, known in zip(new.tensors["route_state"], state.tensors["route_state"], strict=True):
        for field in _OF_A_ROUTE:
            _copy(record, known, f"route_state.{field}", 8)
        _copy(record, known, "route_state.reward_mean", 8)
        for field in _MEANS_OF_A_ROUTE:
            _copy(record, known, f"route_state.{field}", 16)
    return new


def _copy(to: NDArray[np.uint8], source: NDArray[np.uint8], field: str, length: int) -> None:
    start = OFFSETS[field]
    to[start : start + length] = source[start : start + length]


# ---- what follows from other settings ----


def _price_routes(state: EngineState) -> None:
    for record, row in zip(state.tensors["route_state"], state.routes, strict=True):
        price = state.config.price(Route(row.name, row.cost))
        set_field(record, "route_state.price", price, form="<d")


def _plan_refits(state: EngineState) -> None:
    """Give up the refits that should have been installed before now.

    A smaller reservoir has no room to wait for the one that has begun; where no expert needed
    them, none was ever made.
    """
    if not needs_refits(state.config):
        return
    header, position = state.tensors["header"], state.header("reservoir_position")
    refits = state.header("refits")
    later = range(refits, _core.MOST_REFITS)
    given_up = bisect_left(later, position, key=_installs_at(state.config.reservoir))
    set_field(header, "snapshot_header.refits", refits + given_up)
    counters = header[OFFSETS["snapshot_header.counters"] :].view("<u8")
    counters[LEARNER_COUNTERS.index("refits_failed")] += np.uint64(given_up)


def _installs_at(reservoir: int) -> Callable[[int], int]:
    """At how many outcomes the refit of a number is installed at the latest."""
    return lambda number: _core.refit_bounds(number, reservoir)[1]


def _keep_newest_rows(state: EngineState) -> None:
    header = state.tensors["header"]
    position = int(get_field(header, "snapshot_header.reservoir_position"))
    first = max(position - state.extent.rows, first_row(state.config, header))
    for name in ("reservoir_row", "reservoir_embedding"):
        rows = state.tensors[name]
        state.tensors[name] = rows[len(rows) - (position - first) :]
