"""The learner's end of the pipes to the process in which cycles of Loop B compute."""

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
#: Of whatever computes beside a learner.  Loop A and the workers go first, and yet it ends on a
#: host whose cores are never idle: at 19, its share of one is a hundredth and less.
NICENESS: Final = 10
# From the beginning: importing takes longer than many a cycle.
_START: Final = f"""
import contextlib, os, sys
os.nice({NICENESS})
with contextlib.suppress(OSError):  # not permitted everywhere; the nice value is enough
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
from sona_shm.loops.cycle_main import main
main(sys.argv[1], frozenset(sys.argv[2:]))
"""


class CycleProcess:
    """A process that computes cycles, one when asked for it.

    Starting one takes the interpreter's lock for milliseconds, in which Loop A stands still; so it
    stays for the next cycle, and ends by itself when none comes soon.

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

    @property
    def has_ended(self) -> bool:
        """Whether it cannot be asked any more."""
        return self._process.poll() is not None

    def findings(self, geometry: Geometry) -> Findings:
        """Ask for a cycle and wait for its answer, for at most `LONGEST_SECONDS`.

        Raises
        ------
        BadFindings
            If it ends or takes too long without one, or the answer cannot be; then it is gone.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        deadline = time.monotonic() + LONGEST_SECONDS
        try:
            os.write(stdin.fileno(), b"\n")
            header = _read(stdout, HEADER.size, deadline)
            body = _read(stdout, body_length(header, geometry), deadline)
            return decode(header, body, geometry)
        except OSError as error:
            self.end()
            raise BadFindings(f"it has ended: {error.strerror}") from None
        except BaseException:
            self.end()
            raise

    def kill(self) -> None:
        """End it, whatever it does; whoever waits for its findings gets an error."""
        self._process.kill()

    def end(self) -> None:
        """The same, and let go of it; only where nobody waits for its findings."""
        self.kill()
        self._process.wait()
        self._close_pipes()

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
