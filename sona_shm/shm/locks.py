"""Locks that the kernel releases when their owner dies.

An open-file-description lock on one byte of a segment's file belongs to the descriptor that took
it: it falls free when the last process that has this descriptor closes it or dies, by any signal,
and it works across pid namespaces.  Hence no heartbeat, no timeout, no pid taken for an identity.

Each lock has a descriptor of its own, close-on-exec.  After fork the child has it too, and must
close it (never unlock it, which would release the parent's); see fork.py.

======================  =========================================================
byte                    who holds it
======================  =========================================================
``STANDBY_BYTE``        one of those who wait for the lease, so that people see it
``LEASE_BYTE``          the learner
``LANE_BYTE + i``       the worker that records into lane i
======================  =========================================================

The bytes lie far behind the end of the file: a lock needs no byte to exist.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from typing import Final

import posix_ipc

from sona_shm.errors import EngineForbidden, EngineNotReady
from sona_shm.shm import fork
from sona_shm.shm.names import Names

STANDBY_BYTE: Final = (1 << 40) - 1
LEASE_BYTE: Final = 1 << 40
LANE_BYTE: Final = LEASE_BYTE + 1
# struct flock of 64-bit Linux: type, whence, start, length, pid
_FLOCK: Final = struct.Struct("@hhqqi4x")
POLL_SECONDS: Final = 0.001


def _flock(kind: int, byte: int, count: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, byte, count, 0)


def try_lock(descriptor: int, byte: int, count: int = 1) -> bool:
    """Lock bytes for this descriptor, all or none; False if another descriptor has one."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK, byte, count))
    except (BlockingIOError, PermissionError):
        return False
    return True


def is_locked(descriptor: int, byte: int) -> bool:
    """Whether another descriptor holds the byte's lock; takes nothing."""
    answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK, byte, 1))
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def open_descriptor(segment: str, *, create: bool = False) -> int:
    """A new descriptor of a shared-memory object, close-on-exec.

    Raises
    ------
    posix_ipc.ExistentialError
        If it does not exist and is not to be created.
    EngineForbidden
        If it belongs to another user.
    """
    flags = posix_ipc.O_CREAT if create else 0
    try:
        return int(posix_ipc.SharedMemory(segment, flags=flags, mode=0o600).fd)
    except (posix_ipc.PermissionsError, PermissionError):
        raise forbidden(segment) from None


def forbidden(segment: str) -> EngineForbidden:
    """The error for a segment of another user."""
    return EngineForbidden(
        f"{segment} belongs to another user; run as the user who created the engine"
    )


class LifecycleLock:
    """Serialises create, replace and destroy of one name.

    The lock is an empty shared-memory object that exists only while somebody works under it.
    After locking, the holder checks that the name still means the locked object: it may have been
    unlinked by the former holder in between.
    """

    def __init__(self, names: Names, timeout: float) -> None:
        self._name = names.lifecycle
        deadline = time.monotonic() + timeout
        fork.guard.acquire()  # a child must not inherit the descriptor
        try:
            while (descriptor := self._attempt()) is None:
                if time.monotonic() >= deadline:
                    raise EngineNotReady(
                        f"another process has been creating or destroying {names.engine!r} for "
                        f"{timeout:g} s; see what it does, or try again"
                    )
                time.sleep(POLL_SECONDS)
        except BaseException:
            fork.guard.release()
            raise
        self._descriptor = descriptor

    def _attempt(self) -> int | None:
        descriptor = open_descriptor(self._name, create=True)
        if try_lock(descriptor, 0) and self._is_current(descriptor):
            return descriptor
        os.close(descriptor)
        return None

    def _is_current(self, descriptor: int) -> bool:
        try:
            current = open_descriptor(self._name)
        except posix_ipc.ExistentialError:
            return False
        try:
            return os.path.samestat(os.fstat(current), os.fstat(descriptor))
        finally:
            os.close(current)

    def __enter__(self) -> LifecycleLock:
        return self

    def __exit__(self, *exception: object) -> None:
        posix_ipc.unlink_shared_memory(self._name)
        os.close(self._descriptor)
        fork.guard.release()


def lifecycle_is_locked(names: Names) -> bool:
    """Whether somebody is creating or destroying this engine at this moment."""
    try:
        descriptor = open_descriptor(names.lifecycle)
    except posix_ipc.ExistentialError:
        return False
    try:
        return is_locked(descriptor, 0)
    finally:
        os.close(descriptor)
