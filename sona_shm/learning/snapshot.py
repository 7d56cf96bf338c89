"""The published block as named arrays: weights, optimiser, statistics, counters."""

from __future__ import annotations

import struct
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sona_shm.config import SonaConfig
from sona_shm.learning.lora import initial_down_projection
from sona_shm.shm.layout import LEARNER_COUNTERS, OFFSETS, Geometry

# A baseline starts at the middle of [0, 1] with the weight of one observation.
_BASELINE: Final = struct.pack("<dd", 0.5, 1.0)


class Snapshot:
    """Named views of one block; of a copy, never of shared memory."""

    def __init__(self, block: bytes | bytearray | memoryview, geometry: Geometry) -> None:
        self._block = block
        self._sizes = geometry.sizes()
        self._max_workers = geometry.max_workers
        rank, n, routes = geometry.rank, geometry.hidden_dim, geometry.routes
        self.micro_a = self._floats("micro_a", rank, n)
        self.micro_b = self._floats("micro_b", rank, n)
        self.heads = self._floats("heads", routes, n)
        self.heads_squared = self._floats("heads_squared", routes, n)
        self.head_bias = self._floats("head_bias", routes)
        self.bias_squared = self._floats("bias_squared", routes)
        self.price = self._floats("price", routes)

    def _floats(self, name: str, *shape: int) -> NDArray[np.float32]:
        count = int(np.prod(shape))
        flat = np.frombuffer(self._block, np.float32, count, self._sizes[name])
        return flat.reshape(shape)

    @property
    def counters(self) -> dict[str, int]:
        """What the learner has counted, by name."""
        start = OFFSETS["snapshot_header.counters"]
        values = np.frombuffer(self._block, np.uint64, len(LEARNER_COUNTERS), start)
        return dict(zip(LEARNER_COUNTERS, map(int, values), strict=True))

    @property
    def version(self) -> int:
        """The version this block was published as."""
        return int(np.frombuffer(self._block, np.uint64, 1, OFFSETS["snapshot_header.version"])[0])

    def lane_positions(self) -> list[int]:
        """How far each lane is learned in this version."""
        progress = np.dtype([("epoch", "<u8"), ("position", "<u8"), ("counts", "<u8", 2)])
        start = self._sizes["lane_progress"]
        table = np.frombuffer(self._block, progress, self._max_workers, start)
        return [int(row["position"]) for row in table]

    def route_statistics(self, routes: int) -> list[tuple[int, float]]:
        """Per route: outcomes learned and their mean reward."""
        start = self._sizes["route_statistics"]
        table = np.frombuffer(
            self._block, np.dtype([("outcomes", "<u8"), ("mean", "<f8")]), routes, start
        )
        return [(int(row["outcomes"]), float(row["mean"])) for row in table]


def first_block(config: SonaConfig) -> bytes:
    """What a new engine publishes as version 0: the identity adapter and heads of zero."""
    geometry = config.geometry()
    block = bytearray(geometry.sizes()["snapshot_bytes"])
    for baseline in ("step_reward", "quality"):
        start = OFFSETS[f"snapshot_header.{baseline}"]
        block[start : start + len(_BASELINE)] = _BASELINE
    snapshot = Snapshot(block, geometry)
    snapshot.micro_a[:] = initial_down_projection(geometry.rank, geometry.hidden_dim)
    snapshot.price[:] = [config.cost_weight * route.cost for route in config.routes]
    return bytes(block)
