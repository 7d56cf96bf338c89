"""Shared-memory segments that are never tracked and only ever unlinked on purpose.

Until Python 3.13, ``SharedMemory`` reports every segment it opens to the resource tracker, which
unlinks it when the process that opened it ends, while others still use it (cpython gh-82300).
Unregistering afterwards is not enough: processes that share a tracker would unregister twice.  So
on 3.11 and 3.12 our segments are kept from the tracker by name; 3.13 has ``track=False``.
"""

from __future__ import annotations

import os
import stat
import sys
from multiprocessing import resource_tracker, shared_memory
from typing import Final

from sona_shm.errors import CorruptSegment, EngineClosed, SharedMemoryTooSmall
from sona_shm.shm.access import give_access
from sona_shm.shm.locks import open_descriptor
from sona_shm.shm.names import file_of

PREFIX: Final = "/sona-"
# Beyond what any address space has room for.
_LARGEST: Final = 1 << 46


class _Segment(shared_memory.SharedMemory):
    """What cannot be mapped, for want of address space, stays: others use it."""

    def unlink(self) -> None:
        """Nothing: the base class calls this where mapping fails."""


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

    def _map(name: str) -> shared_memory.SharedMemory:
        return _Segment(name.lstrip("/"))

else:

    def _map(name: str) -> shared_memory.SharedMemory:
        return _Segment(name.lstrip("/"), track=False)


def create_segment(name: str, size: int, group: int | None = None) -> shared_memory.SharedMemory:
    """Create a segment whose memory is there: a full ``/dev/shm`` is an error now, no SIGBUS later.

    Parameters
    ----------
    name : str
    size : int
        Bytes, 1 or more.
    group : int, optional
        Number of the group that may use it besides this user.

    Raises
    ------
    FileExistsError
        If the name is taken.
    SharedMemoryTooSmall, ConfigError
        With both sizes, or if the group cannot be given; nothing is left behind.
    """
    descriptor = open_descriptor(name, create=True)
    try:
        give_access(descriptor, group)
        _reserve(name, descriptor, size)
    except BaseException:
        file_of(name).unlink()
        raise
    finally:
        os.close(descriptor)
    return _map(name)


def _reserve(name: str, descriptor: int, size: int) -> None:
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        free = os.fstatvfs(descriptor)
        raise SharedMemoryTooSmall(
            error.errno,
            f"{name} needs {size:,} bytes of shared memory and {free.f_bavail * free.f_frsize:,} "
            "are free; lower trajectory_capacity, pending_decisions or max_workers "
            "(sona size tells what takes how much), or enlarge /dev/shm (docker run --shm-size)",
        ) from None


def attach_segment(name: str) -> shared_memory.SharedMemory:
    """Map an existing segment.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it has no bytes yet.
    EngineForbidden, CorruptSegment
        If it is another user's, or no file that can be mapped.
    """
    descriptor = open_descriptor(name)
    try:
        found = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_size > _LARGEST:
        file = file_of(name)
        raise CorruptSegment(f"{file} is no shared memory; remove it with rm -ri {file}")
    return _map(name)


def segment_bytes(segment: shared_memory.SharedMemory) -> memoryview:
    """The bytes of a segment that is not closed."""
    if segment.buf is None:
        raise EngineClosed("the engine is closed; attach to it again")
    return segment.buf
