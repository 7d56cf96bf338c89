"""JSON that every reader takes."""

from __future__ import annotations

import json
import math
from typing import Any


def to_json(value: Any) -> str:
    """A value as JSON, without what that has no word for: shared memory may hold any figure.

    Examples
    --------
    >>> to_json({"reward": float("nan"), "time": (1.5, float("inf"))})
    '{"reward": null, "time": [1.5, null]}'
    """
    return json.dumps(_plain(value), allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
