"""A new engine from a state: its memory is made through the same life cycle as any other's."""

from __future__ import annotations

import msgpack
import numpy as np

from sona_shm import _core
from sona_shm.checkpoint.sections import scatter
from sona_shm.checkpoint.state import EngineState, get_field, set_field
from sona_shm.shm.layout import OFFSETS
from sona_shm.shm.life_cycle import Contents, create_memory
from sona_shm.shm.memory import EngineMemory


def restore_memory(name: str, state: EngineState, *, replace: bool = False) -> EngineMemory:
    """Make an engine that knows what a checked state holds.

    Raises
    ------
    EngineExists, SharedMemoryTooSmall, ConfigError
        Nothing is left behind, and an engine that is there is untouched.
    """
    config, contents = state.config, contents_of(state)
    return create_memory(name, config.geometry(), contents, group=config.group, replace=replace)


def contents_of(state: EngineState) -> Contents:
    """What the memory of the new engine begins with."""
    geometry, extent = state.config.geometry(), state.extent
    sizes = geometry.sizes()
    blocks = scatter(geometry, extent, state.tensors)
    fast, slow = blocks["fast"], blocks["slow"]
    trajectories = state.counter("trajectories_processed")
    # What is no trajectory is counted as feedback, and so is what was lost.
    feedbacks = state.counter("feedback_processed") + state.counter("records_lost")
    decisions = state.counts.decisions
    progress = {
        "records": trajectories + feedbacks,
        "trajectories": trajectories,
        "journaled": decisions,
        "settled": decisions,
    }
    _fill_first_progress(fast, sizes["lane_progress"], progress)
    return Contents(
        config=msgpack.packb(state.config.to_mapping()),
        fast=bytes(fast),
        slow=bytes(slow),
        version=state.version,
        slow_version=int(get_field(state.tensors["slow_header"], "slow_header.version")),
        rows=_ring(state, blocks["reservoir"]),
        trajectories=trajectories,
        feedbacks=feedbacks,
        decisions=decisions,
        dropped=state.counts.dropped,
        next_trajectory_id=state.counts.next_trajectory_id,
    )


def _fill_first_progress(fast: bytearray, start: int, progress: dict[str, int]) -> None:
    """Lane 0 stands for all former lanes: what they have recorded is learned."""
    record = np.frombuffer(fast, np.uint8, _core.LANE_PROGRESS_BYTES, start)
    for field, count in progress.items():
        set_field(record, f"lane_progress.{field}", count)


def _ring(state: EngineState, rows: bytearray) -> bytes:
    """The reservoir's ring with every row in its place, and told from those that are absent."""
    sizes = state.config.geometry().sizes()
    count, stride = sizes["reservoir_rows"], sizes["reservoir_stride"]
    ring = np.zeros((count, stride), np.uint8)
    at = OFFSETS["reservoir_row.sequence"]
    ring[:, at : at + 8].view("<u8")[:] = _core.ROW_ABSENT
    end = state.header("reservoir_position")
    places = np.arange(end - state.extent.rows, end) % max(count, 1)
    ring[places] = np.frombuffer(rows, np.uint8).reshape(-1, stride)
    return ring.tobytes()
