"""The blocks that the next version will be, as Loop B changes them."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from sona_shm import _core
from sona_shm.errors import NonFiniteError
from sona_shm.learning.consolidation import LEAST_SHIFT, Fold, fold, largest_shift
from sona_shm.learning.snapshot import Snapshot
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
        blocks, sizes = memoryview(core), geometry.sizes()
        self._slow = blocks[sizes["snapshot_bytes"] :]
        self.snapshot = Snapshot(blocks[: sizes["snapshot_bytes"]], geometry)
        self.base_a, self.base_b = (self._base(sizes[f"slow_base_{part}"]) for part in "ab")

    def _base(self, start: int) -> NDArray[np.float32]:
        rank, n = self._geometry.base_rank, self._geometry.hidden_dim
        return np.frombuffer(self._slow, np.float32, rank * n, start).reshape(rank, n)

    @property
    def signals_since(self) -> int:
        """Signals learned since Loop B has last installed something."""
        return self.snapshot.counters["signals_accumulated"] - self._load("learned_signals")

    def consolidate(self) -> Fold | None:
        """Fold the MicroLoRA into the BaseLoRA and reset it; None if it has learned too little.

        Its B becomes zero, which makes it do nothing.  A stays: from a small A and a zero B an
        adapter takes long to learn anything, and that would begin anew with each consolidation.

        Raises
        ------
        NonFiniteError
            If it holds NaN or infinity; it stays as it is.
        """
        micro = (self.snapshot.micro_a, self.snapshot.micro_b)
        if not all(np.isfinite(factor).all() for factor in micro):
            raise NonFiniteError(
                "the MicroLoRA holds NaN or infinity; create the engine with a smaller "
                "micro_lora_lr"
            )
        if largest_shift(micro) < LEAST_SHIFT:
            return None
        folded = fold((self.base_a, self.base_b), micro, self._geometry.base_rank)
        self.set_base(folded.a, folded.b)
        self.snapshot.micro_b[:] = 0.0
        return folded

    def set_base(self, a: NDArray[np.float32], b: NDArray[np.float32]) -> None:
        """Another BaseLoRA, to be published with the next version."""
        self._core.slow_changed()
        self.base_a[:], self.base_b[:] = a, b
        self._store("consolidations", self._load("consolidations") + 1)

    def note_learned(self) -> None:
        """From here on signals count for the next cycle."""
        self._core.slow_changed()
        self._store("learned_signals", self.snapshot.counters["signals_accumulated"])

    def _load(self, field: str) -> int:
        (value,) = struct.unpack_from("<Q", self._slow, OFFSETS[f"slow_header.{field}"])
        return int(value)

    def _store(self, field: str, value: int) -> None:
        struct.pack_into("<Q", self._slow, OFFSETS[f"slow_header.{field}"], value)
