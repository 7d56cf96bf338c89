"""The process in which cycles of Loop B compute.

It attaches to the engine, computes a cycle for each byte of its standard input, and writes what it
finds to standard output.  It ends at once when its input closes, since then the learner is gone,
and when it was not asked for a while.  `cycle_process` starts it, at a low priority, so that
workers and learner go first.
"""

from __future__ import annotations

import os
import queue
import threading
from typing import Final

from sona_shm.loops.cycle import find
from sona_shm.loops.engine_memory import config_of
from sona_shm.loops.findings import encode
from sona_shm.shm.life_cycle import attach_memory

#: Between two cycles; whoever has them more seldom can wait for a new process.
_IDLE_SECONDS: Final = 60.0


def _listen(requests: queue.SimpleQueue[None]) -> None:
    """The learner holds the other end: an end of it means that the learner is gone."""
    while os.read(0, 1):
        requests.put(None)
    os._exit(1)


def main(name: str, parts: frozenset[str]) -> None:
    """Compute cycles of an engine, and write them to standard output."""
    requests: queue.SimpleQueue[None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    memory = attach_memory(name)
    config = config_of(memory)
    while True:
        try:
            requests.get(timeout=_IDLE_SECONDS)
        except queue.Empty:
            # The thread above is still reading, and there is nothing to tidy.
            os._exit(0)
        answer = memoryview(encode(find(memory, config, parts)))
        while answer:
            answer = answer[os.write(1, answer) :]
