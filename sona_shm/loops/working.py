"""The blocks that the next version will be, as Loop B changes them."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from sona_shm import _core
from sona_shm.learning.consolidation import Fold, fold
from sona_shm.learning.lora import initial_down_projection
from sona_shm.learning.snapshot import Patterns, Snapshot
from sona_shm.shm.layout import OFFSETS, Geometry


class WorkingBlocks:
    """Writable views of a learner's private blocks, for whoever holds its lock.

    Nothing here is visible to others before the learner publishes, and then all of it is.

    Parameters
    ----------
    core : _core.Learner
    geometry : Geometry
    """

    def __init__(self, core: _core.Learner, geometry: Geometry) -> None:
        self._core = core
        self._geometry = geometry
        blocks = memoryview(core)
        end = geometry.sizes()["snapshot_bytes"]
        self._slow = blocks[end:]
        self.snapshot = Snapshot(blocks[:end], geometry)
        self.patterns = Patterns(self._slow, geometry)

    @property
    def signals_since(self) -> int:
        """Signals learned since Loop B has last installed something."""
        learned: int = self.patterns.learned_signals
        return self.snapshot.counters["signals_accumulated"] - learned

    def consolidate(self) -> Fold | None:
        """Fold the MicroLoRA into the BaseLoRA and reset it; None if it has learned nothing."""
        snapshot, patterns = self.snapshot, self.patterns
        if not snapshot.micro_b.any():
            return None
        base = (patterns.base_a, patterns.base_b)
        folded = fold(base, (snapshot.micro_a, snapshot.micro_b), self._geometry.base_rank)
        self.set_base(folded.a, folded.b)
        rank, n = snapshot.micro_a.shape
        snapshot.micro_a[:] = initial_down_projection(rank, n)
        snapshot.micro_b[:] = 0.0
        return folded

    def set_base(self, a: NDArray[np.float32], b: NDArray[np.float32]) -> None:
        """Another BaseLoRA, to be published with the next version."""
        self._core.slow_changed()
        self.patterns.base_a[:], self.patterns.base_b[:] = a, b
        self._store("consolidations", self.patterns.consolidations + 1)

    def note_learned(self) -> None:
        """From here on signals count for the next cycle."""
        self._core.slow_changed()
        self._store("learned_signals", self.snapshot.counters["signals_accumulated"])

    def _store(self, field: str, value: int) -> None:
        struct.pack_into("<Q", self._slow, OFFSETS[f"slow_header.{field}"], value)
