"""Room for another number of tasks."""

from __future__ import annotations

from typing import Final

import numpy as np

from sona_shm.checkpoint.sections import Tensors
from sona_shm.checkpoint.state import get_field
from sona_shm.shm.layout import Geometry

_OF_THE_STREAM: Final = (
    "task_detector",
    "task_means",
    "task_lag_mixture",
    "task_lag_routes",
    "anchor_outcomes",
    "anchor_heads",
    "begun_outcomes",
    "begun_squared",
)
_OF_EACH_TASK: Final = (
    "task_header",
    "task_centroid",
    "task_mixture",
    "task_routes",
    "task_outcomes",
    "task_heads",
)


def changed_tasks(tensors: Tensors, geometry: Geometry) -> Tensors:
    """The tensors of tasks with room for those of `geometry`.

    Where there is no room for all that are known, all are forgotten: the stream begins its first
    task anew, with everything learned as it is.
    """
    known = int(get_field(tensors["task_detector"], "task_detector.tasks"))
    forgets = known > geometry.tasks
    changed: Tensors = {}
    for name in _OF_THE_STREAM:
        changed[name] = np.zeros_like(tensors[name]) if forgets else tensors[name]
    for name in _OF_EACH_TASK:
        old = tensors[name]
        changed[name] = np.zeros((geometry.tasks, *old.shape[1:]), old.dtype)
        if not forgets:
            kept = min(len(old), geometry.tasks)
            changed[name][:kept] = old[:kept]
    return changed
