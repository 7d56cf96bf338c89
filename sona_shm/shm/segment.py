"""Shared-memory segments that are never tracked and only ever unlinked on purpose.

Until Python 3.13, ``SharedMemory`` reports every segment it opens to the resource tracker, which
unlinks it when the process that opened it ends, while others still use it (cpython gh-82300).
Unregistering afterwards is not enough: processes that share a tracker would unregister twice.  So
on 3.11 and 3.12 our segments are kept from the tracker by name; 3.13 has ``track=False``.
"""

from __future__ import annotations

import contextlib
import os
import sys
from multiprocessing import resource_tracker, shared_memory
from typing import Final

import posix_ipc

from sona_shm.errors import EngineClosed, SharedMemoryTooSmall
from sona_shm.shm.locks import open_descriptor

PREFIX: Final = "/sona-"

if sys.version_info < (3, 13):

    class _TrackerOfOthers:
        """The resource tracker, for every name but ours."""

        @staticmethod
        def register(name: str, kind: str) -> None:
            if not name.startswith(PREFIX):
                resource_tracker.register(name, kind)

        @staticmethod
        def unregister(name: str, kind: str) -> None:
            if not name.startswith(PREFIX):
                resource_tracker.unregister(name, kind)

    # The stubs do not show the module's own import of the tracker, which is what it calls.
    shared_memory.resource_tracker = _TrackerOfOthers  # type: ignore[attr-defined]  # not in the stubs

    def _open(name: str, size: int) -> shared_memory.SharedMemory:
        return shared_memory.SharedMemory(name.lstrip("/"), create=size > 0, size=size)

else:

    def _open(name: str, size: int) -> shared_memory.SharedMemory:
        return shared_memory.SharedMemory(name.lstrip("/"), create=size > 0, size=size, track=False)


def create_segment(name: str, size: int) -> shared_memory.SharedMemory:
    """Create a segment whose memory is there: a full ``/dev/shm`` is an error now, no SIGBUS later.

    Raises
    ------
    FileExistsError
        If the name is taken.
    SharedMemoryTooSmall
        With both sizes; nothing is left behind.
    """
    segment = _open(name, size)
    descriptor = open_descriptor(name)
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        free = os.fstatvfs(descriptor)
        segment.close()
        posix_ipc.unlink_shared_memory(name)
        raise SharedMemoryTooSmall(
            error.errno,
            f"{name} needs {size:,} bytes of shared memory and {free.f_bavail * free.f_frsize:,} "
            "are free; lower trajectory_capacity, pending_decisions or max_workers "
            "(sona size tells what takes how much), or enlarge /dev/shm (docker run --shm-size)",
        ) from None
    finally:
        os.close(descriptor)
    return segment


def attach_segment(name: str) -> shared_memory.SharedMemory:
    """Map an existing segment.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it has no bytes yet.
    """
    return _open(name, 0)


def segment_bytes(segment: shared_memory.SharedMemory) -> memoryview:
    """The bytes of a segment that is not closed."""
    if segment.buf is None:
        raise EngineClosed("the engine is closed; attach to it again")
    return segment.buf


def unlink_segment(name: str) -> bool:
    """Remove a name; processes that have it mapped keep their memory.  False if it was absent."""
    with contextlib.suppress(posix_ipc.ExistentialError):
        posix_ipc.unlink_shared_memory(name)
        return True
    return False
