"""Whether a state can be what an engine knows: everything, before anything is made of it.

What ``learner_load`` in ``_core/learner.c`` refuses is refused here, so a restored engine always
finds a learner.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sona_shm import _core
from sona_shm.checkpoint.sections import Extent, Tensors, sections
from sona_shm.checkpoint.state import EngineState, get_field
from sona_shm.config import LARGEST_PRICE
from sona_shm.learning.snapshot import expert_bits
from sona_shm.loops.refit import needs_refits
from sona_shm.shm.layout import NAME_BYTES, OFFSETS, Geometry

#: Counts beyond this are no counts; sums of a few of them do not overflow.
LARGEST_COUNT: Final = 1 << 60
_LARGEST_SEQUENCE: Final = 1 << 40
_ROUTE_FLAGS: Final = _core.ROUTE_ACTIVE | _core.ROUTE_ARRIVED


class Unsound(ValueError):
    """Why a state cannot be restored; whoever knows the file's name makes a CheckpointError."""


def _require(good: bool, reason: str) -> None:
    if not good:
        raise Unsound(reason)


def check_state(state: EngineState) -> None:
    """Check shapes, counts and numbers.

    Raises
    ------
    Unsound
        With what was found and what was expected.
    """
    geometry = state.config.geometry()
    check_shapes(geometry, state.tensors)
    _check_counts(state)
    _check_header(state)
    for index in range(state.extent.routes):
        _check_route(state.tensors["route_state"][index], index)
    _check_names(state)
    _check_tasks(state)
    _check_rows(state)
    for name, tensor in state.tensors.items():
        if tensor.dtype.kind == "f":
            _require(bool(np.isfinite(tensor).all()), f"{name} holds NaN or infinity")


def check_shapes(geometry: Geometry, tensors: Tensors) -> None:
    """Whether every section is there, with the type and shape that the geometry gives it."""
    extent = _extent(geometry, tensors)
    expected = sections(geometry, extent)
    names = {section.name for section in expected}
    _require(
        set(tensors) == names,
        f"it has the tensors {', '.join(sorted(set(tensors) ^ names))} too many or too few",
    )
    for section in expected:
        found = tensors[section.name]
        _require(
            found.shape == section.shape and found.dtype == section.dtype,
            f"{section.name} is {found.dtype} of shape {found.shape}, expected {section.dtype} of "
            f"shape {section.shape}",
        )


def _extent(geometry: Geometry, tensors: Tensors) -> Extent:
    counts = []
    limits = {
        "route_state": geometry.routes,
        "reservoir_row": geometry.sizes()["reservoir_rows"],
    }
    for name, most in limits.items():
        tensor = tensors.get(name)
        found = -1 if tensor is None or tensor.ndim == 0 else len(tensor)
        _require(0 <= found <= most, f"{name} has {found} rows, expected 0 to {most}")
        counts.append(found)
    return Extent(*counts)


def _check_counts(state: EngineState) -> None:
    counts = state.counts
    _require(0 <= counts.decisions < _LARGEST_SEQUENCE, f"{counts.decisions} decisions cannot be")
    _require(0 <= counts.dropped <= LARGEST_COUNT, f"{counts.dropped} dropped cannot be")
    _require(
        1 <= counts.next_trajectory_id <= LARGEST_COUNT,
        f"the next trajectory id is {counts.next_trajectory_id}, expected 1 to {LARGEST_COUNT}",
    )


def _check_header(state: EngineState) -> None:
    geometry, slow = state.config.geometry(), state.tensors["slow_header"]
    for name in ("version", "slow_version", "reservoir_position", "reference_pending"):
        _require(state.header(name) <= LARGEST_COUNT, f"{name} is {state.header(name)}")
    routes = state.header("routes")
    _require(
        routes == state.extent.routes,
        f"the header has {routes} routes, expected {state.extent.routes}",
    )
    experts = expert_bits(state.config)
    _require(
        state.header("experts") == experts,
        f"experts are {state.header('experts'):#x}, expected {experts:#x} as configured",
    )
    found, named = get_field(slow, "slow_header.version"), state.header("slow_version")
    _require(found == named, f"the slow block has version {found}, expected {named}")
    patterns = get_field(slow, "slow_header.patterns")
    _require(
        patterns <= geometry.patterns, f"{patterns} patterns, expected at most {geometry.patterns}"
    )
    _check_refits(state)
    _require(bool(np.isfinite(_header_numbers(state)).all()), "the header holds NaN or infinity")
    counters = _header_words(state)[OFFSETS["snapshot_header.counters"] // 8 :]
    _require(bool((counters <= LARGEST_COUNT).all()), "a counter cannot be")


def _check_refits(state: EngineState) -> None:
    refits, position = state.header("refits"), state.header("reservoir_position")
    _require(refits <= _core.MOST_REFITS, f"{refits} refits cannot be")
    if needs_refits(state.config):
        _, latest = _core.refit_bounds(refits, state.config.reservoir)
        _require(
            position <= latest,
            f"{position} outcomes with {refits} refits, expected at most {latest}",
        )


def _header_words(state: EngineState) -> NDArray[np.uint64]:
    return state.tensors["header"].view("<u8")


def _header_numbers(state: EngineState) -> NDArray[np.float64]:
    first = OFFSETS["snapshot_header.step_reward"] // 8
    end = OFFSETS["snapshot_header.counters"] // 8
    return _header_words(state)[first:end].view("<f8")


def _check_route(record: NDArray[np.uint8], index: int) -> None:
    flags = get_field(record, "route_state.flags")
    _require(flags & ~_ROUTE_FLAGS == 0, f"route {index} has flags {flags:#x}")
    cost, price = get_field(record, "route_state.cost", "<2d")
    _require(
        0.0 <= cost < float("inf") and 0.0 <= price <= LARGEST_PRICE,
        f"route {index} has cost {cost} and price {price}, expected 0 or more",
    )
    outcomes = get_field(record, "route_state.outcomes")
    _require(outcomes <= LARGEST_COUNT, f"route {index} has {outcomes} outcomes")
    first = OFFSETS["route_state.reward_mean"]
    numbers: NDArray[Any] = record[first : OFFSETS["route_state.bias"] + 8].view("<f8")
    _require(bool(np.isfinite(numbers).all()), f"route {index} holds NaN or infinity")


def _check_names(state: EngineState) -> None:
    names = [bytes(record[:NAME_BYTES]) for record in state.tensors["route_state"]]
    for index, name in enumerate(names):
        text, _, rest = name.partition(b"\0")
        try:
            sound = (
                bool(text.decode("utf-8")) and rest.strip(b"\0") == b"" and len(text) < NAME_BYTES
            )
        except UnicodeDecodeError:
            sound = False
        _require(sound, f"route {index} has the name {text!r}, expected UTF-8 ended by zeros")
    _require(len(set(names)) == len(names), "two routes have one name")


def _check_tasks(state: EngineState) -> None:
    detector, room = state.tensors["task_detector"], state.config.max_tasks
    known = get_field(detector, "task_detector.tasks")
    current = get_field(detector, "task_detector.current")
    _require(known <= room, f"{known} tasks, expected at most {room}")
    _require(current < max(known, 1), f"task {current} of {known}")
    words = detector.view("<u8")
    first = OFFSETS["task_detector.spread"] // 8
    counts = [*words[:first], *state.tensors["task_header"].ravel()]
    _require(all(count <= LARGEST_COUNT for count in counts), "a count of tasks cannot be")
    _require(bool(np.isfinite(words[first:].view("<f8")).all()), "tasks hold NaN or infinity")


def _check_rows(state: EngineState) -> None:
    rows, position = state.extent.rows, state.header("reservoir_position")
    _require(rows <= position, f"{rows} rows of the reservoir, expected at most {position}")
    at = OFFSETS["reservoir_row.sequence"]
    sequences = np.ascontiguousarray(state.tensors["reservoir_row"][:, at : at + 8]).view("<u8")
    expected = np.arange(position - rows + 1, position + 1, dtype=np.uint64)
    _require(
        bool((sequences.ravel() == expected).all()),
        f"the rows of the reservoir are not those before {position}",
    )
