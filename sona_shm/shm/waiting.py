"""Bounded waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

_SHORTEST: Final = 20e-6
_LONGEST: Final = 2e-3


def wait_until(condition: Callable[[], bool], timeout: float) -> bool:
    """Look until the condition holds, ever less often, for at most `timeout` seconds.

    Examples
    --------
    >>> wait_until(lambda: True, 0.0)
    True
    """
    deadline = time.monotonic() + timeout
    pause = _SHORTEST
    while not condition():
        if not time.monotonic() < deadline:  # nor does anybody wait for NaN seconds
            return condition()
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST)
    return True
