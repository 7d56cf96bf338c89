"""Where things lie in the segments.

The layout is declared once, in ``_core/layout.h`` and ``_core/blocks.h``; the compiled module
exports its offsets and computes the sizes, so Python cannot disagree with C.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final, NamedTuple

from sona_shm import _core

OFFSETS: Final = _core.OFFSETS
LEARNER_COUNTERS: Final = _core.LEARNER_COUNTERS
MAGIC: Final = _core.MAGIC
LAYOUT_VERSION: Final = _core.SONA_LAYOUT_VERSION
NAME_BYTES: Final = _core.NAME_BYTES
LARGEST_ROUTES: Final = _core.LARGEST_ROUTES
TASKS: Final = _core.TASKS
PAGE: Final = _core.PAGE
CACHE_LINE: Final = _core.CACHE_LINE
RECORD_HEADER_BYTES: Final = _core.RECORD_HEADER_BYTES
STEP_HEADER_BYTES: Final = _core.STEP_HEADER_BYTES
SEGMENT_KINDS: Final = {"control": 1, "ring": 2, "weights": 3}


class Geometry(NamedTuple):
    """The ten numbers from which every size and offset follows."""

    hidden_dim: int
    rank: int
    routes: int
    max_workers: int
    pending_decisions: int
    lane_bytes: int
    patterns: int
    reservoir: int
    base_rank: int
    tasks: int

    def sizes(self) -> dict[str, int]:
        """Every derived size and offset, by its name in ``struct geometry``."""
        return _sizes(self)


@lru_cache(maxsize=64)
def _sizes(geometry: Geometry) -> dict[str, int]:
    return _core.geometry_sizes(tuple(geometry))


def typical_record_bytes(hidden_dim: int) -> int:
    """What a trajectory of one step takes in a lane.

    Examples
    --------
    >>> typical_record_bytes(256) % CACHE_LINE
    0
    """
    record = RECORD_HEADER_BYTES + STEP_HEADER_BYTES + 2 * 4 * hidden_dim
    return math.ceil(record / CACHE_LINE) * CACHE_LINE
