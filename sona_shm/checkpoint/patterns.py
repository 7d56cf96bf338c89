"""Room for another number of patterns."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sona_shm import _core
from sona_shm.checkpoint.sections import Tensors
from sona_shm.checkpoint.state import get_field, set_field
from sona_shm.shm.layout import Geometry

#: Nothing is nearest to a column without a pattern; `transpose_centroids` in ``_core/refit.c``.
_NOWHERE: Final = np.float32(-1e30)


def changed_patterns(tensors: Tensors, geometry: Geometry) -> Tensors:
    """The tensors that have a row or a column for each pattern, with room for those of `geometry`.

    Where there is no room for all patterns, those with most members stay; what was seen in the
    others is lost to the bank until the next refit.
    """
    slow_header = tensors["slow_header"].copy()
    used = int(get_field(slow_header, "slow_header.patterns"))
    sizes = tensors["slow_sizes"][:used]
    room = geometry.patterns
    kept = np.sort(np.argsort(sizes, kind="stable")[::-1][:room])
    set_field(slow_header, "slow_header.patterns", len(kept))
    columns = tensors["slow_centroids"]
    stride = geometry.sizes()["pattern_stride"]
    centroids = np.zeros((len(columns), stride), np.float32)
    centroids[_core.PROJECTED, len(kept) :] = _NOWHERE if used else 0.0
    centroids[:, : len(kept)] = columns[:, kept]
    return {
        "slow_header": slow_header,
        "slow_centroids": centroids,
        "slow_full_centroids": _kept_rows(tensors["slow_full_centroids"], kept, room),
        "slow_sizes": _kept_rows(tensors["slow_sizes"], kept, room),
        "pattern_uses": _kept_rows(tensors["pattern_uses"], kept, room),
        "route_bank": _kept_rows(tensors["route_bank"].swapaxes(0, 1), kept, room).swapaxes(0, 1),
    }


def _kept_rows(rows: NDArray[Any], kept: NDArray[np.intp], room: int) -> NDArray[Any]:
    """The kept rows in their order, then zeros."""
    resized = np.zeros((room, *rows.shape[1:]), rows.dtype)
    resized[: len(kept)] = rows[kept]
    return resized
