"""The process in which a cycle of Loop B computes.

It attaches to the engine, writes its findings to standard output, and ends; or ends at once when
its standard input closes, since then the learner is gone.  `cycle_process` starts it, at the lowest
priority, so that it takes no time from workers or learner.
"""

from __future__ import annotations

import os
import threading

from sona_shm.loops.cycle import find
from sona_shm.loops.engine_memory import config_of
from sona_shm.loops.findings import encode
from sona_shm.shm.life_cycle import attach_memory


def _end_with_the_learner() -> None:
    """The learner holds the other end and never writes: an end means that it is gone."""
    while os.read(0, 1):
        pass
    os._exit(1)


def main(name: str, parts: frozenset[str]) -> None:
    """Compute one cycle of an engine, and write it to standard output."""
    threading.Thread(target=_end_with_the_learner, daemon=True).start()
    memory = attach_memory(name)
    answer = memoryview(encode(find(memory, config_of(memory), parts)))
    while answer:
        answer = answer[os.write(1, answer) :]
    # The thread above is still reading, and there is nothing to tidy.
    os._exit(0)
