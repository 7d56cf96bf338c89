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

The bytes lie far behind the end of the file: a lock needs no byte to exist.  All of them together
are the rest of the file, `LEASE_BYTE` and on, whatever the number of lanes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from typing import Final

from sona_shm.errors import CorruptSegment, EngineForbidden, EngineNotReady
from sona_shm.shm import fork
from sona_shm.shm.access import forbidden, give_access, user_name
from sona_shm.shm.names import Names, file_of

STANDBY_BYTE: Final = (1 << 40) - 1
LEASE_BYTE: Final = 1 << 40
LANE_BYTE: Final = LEASE_BYTE + 1
# struct flock of 64-bit Linux: type, whence, start, length, pid
_FLOCK: Final = struct.Struct("@hhqqi4x")
POLL_SECONDS: Final = 0.001
DEFAULT_TIMEOUT: Final = 5.0


def _flock(kind: int, byte: int, count: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, byte, count, 0)


def try_lock(descriptor: int, byte: int, count: int = 1) -> bool:
    """Lock bytes for this descriptor, all or none; False if another descriptor has one.

    A `count` of 0 means all bytes from `byte` on.
    """
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK, byte, count))
    except (BlockingIOError, PermissionError):
        return False
    return True


def is_locked(descriptor: int, byte: int, count: int = 1) -> bool:
    """Whether another descriptor holds a lock of these bytes; takes nothing."""
    answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK, byte, count))
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def open_descriptor(segment: str, *, create: bool = False) -> int:
    """A new descriptor of a shared-memory object, close-on-exec.

    Parameters
    ----------
    segment : str
    create : bool
        Make the object, for this user alone, instead of opening the one that is there.

    Raises
    ------
    FileNotFoundError, FileExistsError
        If it does not exist, or does and is to be created.
    EngineForbidden
        If it belongs to another user.
    CorruptSegment
        If it is a directory, a symbolic link or a socket.
    """
    file = file_of(segment)
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(file, flags | (os.O_CREAT | os.O_EXCL if create else 0), 0o600)
    except PermissionError:
        raise forbidden(file) from None
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.ELOOP, errno.ENXIO):
            raise
        raise CorruptSegment(f"{file} is no shared memory; remove it with rm -ri {file}") from None
    if create:
        give_access(descriptor, None)
    return descriptor


class LifecycleLock:
    """Serialises create, replace and destroy of one name.

    The lock is an empty shared-memory object that exists only while somebody works under it.
    After locking, the holder checks that the name still means the locked object: it may have been
    unlinked by the former holder in between.  One that another user has left behind cannot be
    locked nor removed by us, and is an error after the timeout.
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
                        f"{timeout:g} s; see what it does, or try again{self._left_by_another()}"
                    )
                time.sleep(POLL_SECONDS)
        except BaseException:
            fork.guard.release()
            raise
        self._descriptor = descriptor

    def _attempt(self) -> int | None:
        try:
            descriptor = self._open()
        except (FileExistsError, EngineForbidden):
            return None
        if try_lock(descriptor, 0) and self._is_current(descriptor):
            return descriptor
        os.close(descriptor)
        return None

    def _open(self) -> int:
        # Never O_CREAT for what may be there: the kernel refuses that for a file of another user
        # in a sticky directory (fs.protected_regular), even to root.
        try:
            return open_descriptor(self._name)
        except FileNotFoundError:
            return open_descriptor(self._name, create=True)

    def _is_current(self, descriptor: int) -> bool:
        try:
            current = file_of(self._name).lstat()
        except FileNotFoundError:
            return False
        return os.path.samestat(current, os.fstat(descriptor))

    def _left_by_another(self) -> str:
        """What to do about a lock that this user may not open; empty if it is our own."""
        file = file_of(self._name)
        try:
            owner = file.lstat().st_uid
        except FileNotFoundError:
            return ""
        if owner == os.geteuid():
            return ""
        return f"; it is {user_name(owner)}'s; was it killed, {user_name(owner)} may rm {file}"

    def __enter__(self) -> LifecycleLock:
        return self

    def __exit__(self, *exception: object) -> None:
        file_of(self._name).unlink(missing_ok=True)
        os.close(self._descriptor)
        fork.guard.release()


def lifecycle_is_locked(names: Names) -> bool:
    """Whether somebody is creating or destroying this engine at this moment.

    Another user's lock cannot be looked into: it counts as locked as long as it is there.
    """
    try:
        descriptor = open_descriptor(names.lifecycle)
    except FileNotFoundError:
        return False
    except EngineForbidden:
        return True
    try:
        return is_locked(descriptor, 0)
    finally:
        os.close(descriptor)
