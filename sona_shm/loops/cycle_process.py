"""The learner's end of the pipes to the process in which a cycle of Loop B computes."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from typing import IO, Final

from sona_shm.loops.cycle import Findings
from sona_shm.loops.findings import HEADER, BadFindings, body_length, decode
from sona_shm.shm.layout import Geometry

#: Nobody waits for a process that was stopped, or that gets no time at all.
LONGEST_SECONDS: Final = 600.0
# The lowest priority from the beginning: importing takes longer than many a cycle.
_START: Final = """
import contextlib, os, sys
os.nice(19)
with contextlib.suppress(OSError):  # not permitted everywhere; the nice value is enough
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
from sona_shm.loops.cycle_main import main
main(sys.argv[1], frozenset(sys.argv[2:]))
"""


class CycleProcess:
    """A process that computes one cycle.

    Parameters
    ----------
    name : str
        Of the engine.
    parts : frozenset of str
    """

    def __init__(self, name: str, parts: frozenset[str]) -> None:
        # -P: modules of this package and those it needs, whatever lies in the working directory.
        # One thread of BLAS: its own would wait in tight loops.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START, name, *sorted(parts)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        )
        self.pid = self._process.pid

    def findings(self, geometry: Geometry) -> Findings:
        """Wait for its answer, for at most `LONGEST_SECONDS`; then it is gone.

        Raises
        ------
        BadFindings
            If it ends or takes too long without one, or the answer cannot be.
        """
        pipe = self._process.stdout
        assert pipe is not None
        deadline = time.monotonic() + LONGEST_SECONDS
        try:
            header = _read(pipe, HEADER.size, deadline)
            body = _read(pipe, body_length(header, geometry), deadline)
            return decode(header, body, geometry)
        finally:
            self.kill()
            self._process.wait()
            self._close_pipes()

    def kill(self) -> None:
        """End it, whatever it does; whoever waits for its findings gets an error."""
        self._process.kill()

    def abandon(self) -> None:
        """In a forked child: the process is the parent's, and so are its pipes."""
        self._close_pipes()
        self._process.returncode = 0  # or it would be waited for

    def _close_pipes(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


def _read(pipe: IO[bytes], count: int, deadline: float) -> bytes:
    """So many bytes, fewer where the pipe ends."""
    chunks = []
    poll = select.poll()  # unlike select(), for descriptors of any number
    poll.register(pipe, select.POLLIN)
    while count:
        if not poll.poll(1000.0 * max(0.0, deadline - time.monotonic())):
            raise BadFindings(f"it took longer than {LONGEST_SECONDS:g} s")
        chunk = os.read(pipe.fileno(), min(count, 1 << 16))
        if not chunk:
            break
        chunks.append(chunk)
        count -= len(chunk)
    return b"".join(chunks)
