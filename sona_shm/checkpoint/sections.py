"""Which parts of an engine's memory a checkpoint holds, as named and typed tensors.

One table tiles the fast block, the slow block and the reservoir's rows.  Names are those of the
offsets in ``struct geometry``; whoever adds a section there adds a line here, and a test finds
bytes that no line covers.  What is not saved is how far the lanes were learned (``lane_progress``):
a restored engine has lanes of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sona_shm import _core
from sona_shm.shm.layout import Geometry

Block = Literal["fast", "slow", "reservoir"]
Tensors = dict[str, NDArray[Any]]

_U8: Final = np.dtype("u1")
_U64: Final = np.dtype("<u8")
_F32: Final = np.dtype("<f4")


class Section(NamedTuple):
    """One tensor, and where it lies in its block.

    Attributes
    ----------
    name : str
    block : {"fast", "slow", "reservoir"}
    dtype : numpy.dtype
    offset : int
        Bytes from the start of the block.
    shape : tuple of int
    stride : int
        Bytes from one row to the next where something lies between them, else 0.
    """

    name: str
    block: Block
    dtype: np.dtype[Any]
    offset: int
    shape: tuple[int, ...]
    stride: int = 0

    def view(self, block: bytes | bytearray | memoryview) -> NDArray[Any]:
        """The tensor where it lies in a block."""
        steps = [self.dtype.itemsize]
        for length in reversed(self.shape[1:]):
            steps.append(steps[-1] * length)
        strides = tuple(reversed(steps))
        if self.stride:
            strides = (self.stride, *strides[1:])
        if 0 in self.shape:
            return np.zeros(self.shape, self.dtype)
        return np.ndarray(self.shape, self.dtype, block, self.offset, strides)


class Extent(NamedTuple):
    """How much of what there is room for is in use."""

    routes: int
    rows: int


def sections(geometry: Geometry, extent: Extent) -> list[Section]:
    """The table."""
    s = geometry.sizes()
    n, features = geometry.hidden_dim, _core.PROJECTED + 1
    routes, rows = extent

    def part(block: Block, name: str, dtype: np.dtype[Any], *shape: int) -> Section:
        return Section(name, block, dtype, s[name], shape)

    def of_routes(name: str, dtype: np.dtype[Any], *shape: int) -> Section:
        start = s["routes_offset"] + s[name]
        return Section(name, "fast", dtype, start, (routes, *shape), s["route_stride"])

    def of_rows(name: str, dtype: np.dtype[Any], start: int, *shape: int) -> Section:
        return Section(name, "reservoir", dtype, start, (rows, *shape), s["reservoir_stride"])

    return [
        Section("header", "fast", _U8, 0, (s["micro_a"],)),
        part("fast", "micro_a", _F32, geometry.rank, n),
        part("fast", "micro_b", _F32, geometry.rank, n),
        part("fast", "feature_mean", _F32, n),
        part("fast", "reference_sum", _F32, n),
        part("fast", "pattern_uses", _U64, geometry.patterns, 2),
        Section(
            "route_state",
            "fast",
            _U8,
            s["routes_offset"],
            (routes, s["route_head"]),
            s["route_stride"],
        ),
        of_routes("route_head", _F32, n),
        of_routes("route_squared", _F32, n),
        of_routes("route_ridge", _F32, features),
        of_routes("route_covariance", _F32, features, features),
        of_routes("route_bank", _F32, geometry.patterns, 4),
        Section("slow_header", "slow", _U8, 0, (s["slow_projection"],)),
        part("slow", "slow_projection", _F32, _core.PROJECTED, n),
        part("slow", "slow_offset", _F32, features),
        part("slow", "slow_centroids", _F32, features, s["pattern_stride"]),
        part("slow", "slow_full_centroids", _F32, geometry.patterns, n),
        part("slow", "slow_sizes", _U64, geometry.patterns),
        part("slow", "slow_base_a", _F32, geometry.base_rank, n),
        part("slow", "slow_base_b", _F32, geometry.base_rank, n),
        of_rows("reservoir_row", _U8, 0, _core.RESERVOIR_ROW_BYTES),
        of_rows("reservoir_embedding", _F32, _core.RESERVOIR_ROW_BYTES, n),
    ]


def block_bytes(geometry: Geometry, extent: Extent) -> dict[Block, int]:
    """How long each block is; the reservoir's without the rows that are not there."""
    s = geometry.sizes()
    return {
        "fast": s["snapshot_bytes"],
        "slow": s["slow_bytes"],
        "reservoir": extent.rows * s["reservoir_stride"],
    }


def gather(
    geometry: Geometry, extent: Extent, blocks: Mapping[Block, bytes | bytearray]
) -> Tensors:
    """Copies of all sections, contiguous."""
    return {
        section.name: section.view(blocks[section.block]).copy()
        for section in sections(geometry, extent)
    }


def scatter(geometry: Geometry, extent: Extent, tensors: Tensors) -> dict[Block, bytearray]:
    """The blocks that the tensors come from; what no section covers is zero."""
    blocks = {name: bytearray(size) for name, size in block_bytes(geometry, extent).items()}
    for section in sections(geometry, extent):
        section.view(blocks[section.block])[...] = tensors[section.name]
    return blocks
