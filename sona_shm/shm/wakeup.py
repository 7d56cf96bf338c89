"""The learner's bell: a hint, never the truth.

The learner announces its sleep in a control word, looks at the lanes once more, and waits here
for a bounded time.  A producer that finds the announcement takes it back and rings.  A lost or a
superfluous ring costs at most one bounded wait or one look at empty lanes.
"""

from __future__ import annotations

import contextlib

import posix_ipc

from sona_shm.shm.access import give_access
from sona_shm.shm.names import Names


class Bell:
    """A POSIX semaphore that producers ring and the learner waits for."""

    def __init__(self, names: Names) -> None:
        self._semaphore = posix_ipc.Semaphore(names.semaphore)

    def ring(self) -> None:
        """Wake the learner, or the next one that waits."""
        self._semaphore.release()

    def wait(self, seconds: float) -> None:
        """Return after a ring, or after `seconds`."""
        with contextlib.suppress(posix_ipc.BusyError, posix_ipc.SignalError):
            self._semaphore.acquire(seconds)

    def release(self) -> None:
        """Let the semaphore go; nobody can ring through this object any more."""
        self._semaphore.close()


def create_bell(names: Names, group: int | None) -> None:
    """Make the semaphore, for this user and one group.

    It has no descriptor whose mode could be set, and its name is ours until we unlink it.
    """
    posix_ipc.Semaphore(names.semaphore, flags=posix_ipc.O_CREX, mode=0o600).close()
    give_access(names.semaphore_file, group)
