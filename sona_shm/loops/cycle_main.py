"""The process in which a cycle of Loop B computes.

``python -m sona_shm.loops.cycle_main NAME PART ...`` attaches to the engine, writes its findings to
standard output, and ends; or ends at once when its standard input closes, since then the learner
is gone.  It runs at the lowest priority, so that it takes no time from workers or learner.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from typing import Final

from sona_shm.loops.cycle import find
from sona_shm.loops.engine_memory import config_of
from sona_shm.loops.findings import encode
from sona_shm.shm.life_cycle import attach_memory

_LOWEST_PRIORITY: Final = 19


def _yield_to_everybody() -> None:
    """Run only where nobody else wants to."""
    os.nice(_LOWEST_PRIORITY)
    with contextlib.suppress(OSError):  # not everywhere permitted; the nice value is enough
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _end_with_the_learner() -> None:
    """The learner holds the other end and never writes: an end means that it is gone."""
    while os.read(0, 1):
        pass
    os._exit(1)


def main(name: str, parts: frozenset[str]) -> None:
    """Compute one cycle of an engine, and write it to standard output."""
    threading.Thread(target=_end_with_the_learner, daemon=True).start()
    _yield_to_everybody()
    memory = attach_memory(name)
    answer = memoryview(encode(find(memory, config_of(memory), parts)))
    while answer:
        answer = answer[os.write(1, answer) :]
    # The thread above is still reading, and there is nothing to tidy.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], frozenset(sys.argv[2:]))
