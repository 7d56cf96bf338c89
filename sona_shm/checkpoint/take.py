"""A consistent copy of what a live engine knows, from any process, without stopping anybody."""

from __future__ import annotations

from typing import Final

import numpy as np

from sona_shm import _core
from sona_shm.checkpoint.state import Counts, EngineState, first_row, get_field, state_of_blocks
from sona_shm.checkpoint.validate import Unsound, check_state
from sona_shm.errors import CheckpointError
from sona_shm.loops.engine_memory import config_of
from sona_shm.shm.layout import OFFSETS
from sona_shm.shm.memory import EngineMemory
from sona_shm.shm.waiting import wait_until

#: Rows are overwritten under a copy only if the learner publishes rarely and learns very fast.
_PATIENCE_SECONDS: Final = 10.0


def take_state(memory: EngineMemory, reader: _core.Reader) -> EngineState:
    """What the engine knows at its published version.

    Parameters
    ----------
    memory : EngineMemory
    reader : _core.Reader
        Of the same engine.

    Raises
    ------
    CheckpointError
        If the published weights cannot be right, or were overwritten while they were copied, again
        and again.
    """
    taken: list[EngineState] = []

    def attempt() -> bool:
        taken.extend(_attempt(memory, reader))
        return bool(taken)

    try:
        if wait_until(attempt, _PATIENCE_SECONDS):
            check_state(taken[0])
            return taken[0]
    except Unsound as reason:
        raise CheckpointError(
            f"the engine {memory.names.engine!r} has published what cannot be restored: {reason}; "
            "restore an older checkpoint of it"
        ) from None
    raise CheckpointError(
        f"the reservoir of {memory.names.engine!r} was overwritten under every copy for "
        f"{_PATIENCE_SECONDS:g} s; give it a smaller flush_threshold or a larger reservoir"
    )


def _attempt(memory: EngineMemory, reader: _core.Reader) -> list[EngineState]:
    """One state, or none: rows were overwritten meanwhile."""
    config, sizes = config_of(memory), memory.sizes
    counts = _counts(memory)
    fast, slow = reader._patterns()
    header = np.frombuffer(fast, np.uint8, sizes["micro_a"])
    position = int(get_field(header, "snapshot_header.reservoir_position"))
    try:
        first = first_row(config, header)
        rows = reader._rows(first, position, whole=True)
    except ValueError:
        raise Unsound(f"the reservoir cannot hold what lies before row {position}") from None
    routes = get_field(header, "snapshot_header.routes")
    if routes > memory.geometry.routes:
        raise Unsound(f"{routes} routes, expected at most {memory.geometry.routes}")
    return [] if rows is None else [state_of_blocks(config, fast, slow, rows, counts)]


def _counts(memory: EngineMemory) -> Counts:
    lanes = [
        memory.lane_words(index, "decisions", "dropped")
        for index in range(memory.geometry.max_workers)
    ]
    return Counts(
        decisions=sum(lane["decisions"] for lane in lanes),
        dropped=sum(lane["dropped"] for lane in lanes),
        next_trajectory_id=memory.control.load(OFFSETS["control_header.next_trajectory_id"]),
    )
