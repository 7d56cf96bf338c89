"""Which parts of an engine's memory a checkpoint holds, as named and typed tensors.

One table tiles the fast block, the slow block and the reservoir's rows.  Names are those of the
offsets in ``struct geometry``, or of what lies there; whoever adds a section there adds a line
here, and a test finds bytes that no line covers.  What is not saved is how far the lanes were
learned (``lane_progress``): a restored engine has lanes of its own.
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
_F64: Final = np.dtype("<f8")
_LINE: Final = _core.CACHE_LINE
_WORDS: Final = _LINE // 8  # of one cache line
_MIXTURE_BYTES: Final = 2 * _LINE


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
    strides : tuple of int
        Bytes from one element to the next along the first dimensions, where something lies between
        them; the rest is contiguous.
    """

    name: str
    block: Block
    dtype: np.dtype[Any]
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...] = ()

    def view(self, block: bytes | bytearray | memoryview) -> NDArray[Any]:
        """The tensor where it lies in a block."""
        if 0 in self.shape:
            return np.zeros(self.shape, self.dtype)
        steps = [self.dtype.itemsize]
        for length in reversed(self.shape[1:]):
            steps.append(steps[-1] * length)
        contiguous = tuple(reversed(steps))
        strides = (*self.strides, *contiguous[len(self.strides) :])
        return np.ndarray(self.shape, self.dtype, block, self.offset, strides)


class Extent(NamedTuple):
    """How much of what there is room for is in use."""

    routes: int
    rows: int


def sections(geometry: Geometry, extent: Extent) -> list[Section]:
    """The table."""
    return [
        *_of_all(geometry),
        *_of_routes(geometry, extent.routes),
        *_of_the_slow_block(geometry),
        *_of_tasks(geometry, extent.routes),
        *_of_rows(geometry, extent.rows),
    ]


def _of_all(geometry: Geometry) -> list[Section]:
    s, n = geometry.sizes(), geometry.hidden_dim

    def part(name: str, dtype: np.dtype[Any], *shape: int) -> Section:
        return Section(name, "fast", dtype, s[name], shape)

    return [
        Section("header", "fast", _U8, 0, (s["micro_a"],)),
        part("micro_a", _F32, geometry.rank, n),
        part("micro_b", _F32, geometry.rank, n),
        part("feature_mean", _F32, n),
        part("reference_sum", _F32, n),
        part("pattern_uses", _U64, geometry.patterns, 2),
        part("task_detector", _U8, s["task_means"] - s["task_detector"]),
        part("task_means", _F32, _core.TASK_MEANS, n),
    ]


def _of_routes(geometry: Geometry, routes: int) -> list[Section]:
    s, n, features = geometry.sizes(), geometry.hidden_dim, _core.PROJECTED + 1

    def part(name: str, dtype: np.dtype[Any], *shape: int) -> Section:
        start = s["routes_offset"] + s.get(name, 0)
        return Section(name, "fast", dtype, start, (routes, *shape), (s["route_stride"],))

    return [
        part("route_state", _U8, s["route_head"]),
        part("route_head", _F32, n),
        part("route_squared", _F32, n),
        part("route_ridge", _F32, features),
        part("route_covariance", _F32, features, features),
        part("route_bank", _F32, geometry.patterns, 4),
    ]


def _of_the_slow_block(geometry: Geometry) -> list[Section]:
    s, n, features = geometry.sizes(), geometry.hidden_dim, _core.PROJECTED + 1

    def part(name: str, dtype: np.dtype[Any], *shape: int) -> Section:
        return Section(name, "slow", dtype, s[name], shape)

    return [
        Section("slow_header", "slow", _U8, 0, (s["slow_projection"],)),
        part("slow_projection", _F32, _core.PROJECTED, n),
        part("slow_offset", _F32, features),
        part("slow_centroids", _F32, features, s["pattern_stride"]),
        part("slow_full_centroids", _F32, geometry.patterns, n),
        part("slow_sizes", _U64, geometry.patterns),
        part("slow_base_a", _F32, geometry.base_rank, n),
        part("slow_base_b", _F32, geometry.base_rank, n),
    ]


def _of_tasks(geometry: Geometry, routes: int) -> list[Section]:
    """Remembered tasks, and what heads are held to."""
    s, n, tasks = geometry.sizes(), geometry.hidden_dim, geometry.tasks
    lag, task, anchor = s["task_state_bytes"], s["task_stride"], s["anchor_stride"]

    def lags(name: str, at: int, *shape: int, strides: tuple[int, ...] = ()) -> Section:
        start = s["task_lags"] + at
        return Section(f"task_lag_{name}", "fast", _F64, start, (2, *shape), (lag, *strides))

    def of_tasks(
        name: str, at: int, dtype: np.dtype[Any], *shape: int, strides: tuple[int, ...] = ()
    ) -> Section:
        start = s["slow_tasks"] + at
        return Section(f"task_{name}", "slow", dtype, start, (tasks, *shape), (task, *strides))

    def of_routes(name: str, start: int, dtype: np.dtype[Any], stride: int, *shape: int) -> Section:
        return Section(name, "slow", dtype, start, (routes, *shape), (stride,))

    state, heads = s["task_state"], s["task_heads"]
    anchors, begun = s["slow_anchors"], s["slow_begun"]
    return [
        lags("mixture", 0, _MIXTURE_BYTES // 8),
        lags("routes", _MIXTURE_BYTES, routes, _WORDS, strides=(_LINE,)),
        of_tasks("header", 0, _U64, _WORDS),
        of_tasks("centroid", _LINE, _F32, n),
        of_tasks("mixture", state, _F64, _MIXTURE_BYTES // 8),
        of_tasks("routes", state + _MIXTURE_BYTES, _F64, routes, _WORDS, strides=(_LINE,)),
        of_tasks("outcomes", heads, _F64, routes, _WORDS, strides=(anchor,)),
        of_tasks("heads", heads + _LINE, _F32, routes, 2, n, strides=(anchor,)),
        of_routes("anchor_outcomes", anchors, _F64, anchor, _WORDS),
        of_routes("anchor_heads", anchors + _LINE, _F32, anchor, 2, n),
        of_routes("begun_outcomes", begun, _U64, s["begun_stride"], _WORDS),
        of_routes("begun_squared", begun + _LINE, _F32, s["begun_stride"], n),
    ]


def _of_rows(geometry: Geometry, rows: int) -> list[Section]:
    stride, row = geometry.sizes()["reservoir_stride"], _core.RESERVOIR_ROW_BYTES

    def part(name: str, dtype: np.dtype[Any], start: int, length: int) -> Section:
        return Section(name, "reservoir", dtype, start, (rows, length), (stride,))

    return [
        part("reservoir_row", _U8, 0, row),
        part("reservoir_embedding", _F32, row, geometry.hidden_dim),
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
