"""All that an engine knows at one published version, as plain arrays."""

from __future__ import annotations

import dataclasses
import struct
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sona_shm import _core
from sona_shm.checkpoint.sections import Block, Extent, Tensors, gather, scatter
from sona_shm.config import SonaConfig
from sona_shm.learning.snapshot import RouteRow, Snapshot
from sona_shm.loops.refit import needs_refits
from sona_shm.shm.layout import OFFSETS


class Counts(NamedTuple):
    """What the lanes have counted, beside what the learner has.

    Attributes
    ----------
    decisions, dropped : int
    next_trajectory_id : int
    """

    decisions: int
    dropped: int
    next_trajectory_id: int


def get_field(record: NDArray[np.uint8], field: str, form: str = "<Q") -> Any:
    """A field of a C structure, by the name that ``OFFSETS`` has for it."""
    values = struct.unpack_from(form, record.data, OFFSETS[field])
    return values[0] if len(values) == 1 else values


def set_field(record: NDArray[np.uint8], field: str, *values: Any, form: str = "<Q") -> None:
    """Change a field of a C structure in place."""
    struct.pack_into(form, record.data, OFFSETS[field], *values)


@dataclasses.dataclass(frozen=True, eq=False)
class EngineState:
    """What a checkpoint holds.

    Attributes
    ----------
    config : SonaConfig
        Of the engine; its routes are those at creation, the tensors tell those of now.
    tensors : dict of str to numpy.ndarray
        As `sections` describes them.
    counts : Counts
    """

    config: SonaConfig
    tensors: Tensors
    counts: Counts

    @property
    def version(self) -> int:
        """The published version that this was."""
        return int(self.header("version"))

    @property
    def extent(self) -> Extent:
        """Routes and rows in use."""
        return Extent(len(self.tensors["route_state"]), len(self.tensors["reservoir_row"]))

    @property
    def routes(self) -> list[RouteRow]:
        """All routes in the order of their indices, the retired ones too."""
        blocks = scatter(self.config.geometry(), self.extent, self.tensors)
        return Snapshot(blocks["fast"], self.config.geometry()).routes()

    def header(self, field: str, form: str = "<Q") -> Any:
        """A field of ``struct snapshot_header``."""
        return get_field(self.tensors["header"], f"snapshot_header.{field}", form)

    def counter(self, name: str) -> int:
        """One of the learner's counters."""
        start = OFFSETS["snapshot_header.counters"]
        index = _core.LEARNER_COUNTERS.index(name)
        return int(struct.unpack_from("<Q", self.tensors["header"].data, start + 8 * index)[0])

    def equals(self, other: EngineState) -> bool:
        """Whether both are the same bit for bit; what the lanes have counted may differ."""
        return self.config == other.config and all(
            tensor.shape == other.tensors[name].shape
            and tensor.tobytes() == other.tensors[name].tobytes()
            for name, tensor in self.tensors.items()
        )

    def knows_the_same_as(self, other: EngineState) -> bool:
        """Whether both are the same but for the number of the version.

        A learner publishes once more when it ends, whether or not it has learned anything.
        """
        header = other.tensors["header"].copy()
        set_field(header, "snapshot_header.version", self.version)
        return self.equals(dataclasses.replace(other, tensors=other.tensors | {"header": header}))


def first_row(config: SonaConfig, header: NDArray[np.uint8]) -> int:
    """The oldest row of the reservoir that is part of what the engine knows.

    The last `reservoir` rows, and those that a refit which has begun repeats.
    """
    position = int(get_field(header, "snapshot_header.reservoir_position"))
    refits = int(get_field(header, "snapshot_header.refits"))
    newest = position
    if needs_refits(config):
        newest = min(position, _core.refit_bounds(refits, config.reservoir)[0])
    return max(0, newest - config.reservoir)


def state_of_blocks(
    config: SonaConfig, fast: bytes, slow: bytes, rows: bytes | bytearray, counts: Counts
) -> EngineState:
    """From blocks whose counts are in bounds."""
    geometry = config.geometry()
    header = np.frombuffer(fast, np.uint8, geometry.sizes()["micro_a"])
    routes = int(get_field(header, "snapshot_header.routes"))
    extent = Extent(routes, len(rows) // geometry.sizes()["reservoir_stride"])
    blocks: dict[Block, bytes | bytearray] = {"fast": fast, "slow": slow, "reservoir": rows}
    return EngineState(config, gather(geometry, extent, blocks), counts)
