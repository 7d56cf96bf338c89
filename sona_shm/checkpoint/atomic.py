"""Files that are there whole or not at all, whatever happens to the writer or to the machine."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from pathlib import Path
from typing import Final

from sona_shm.errors import CheckpointError

_UNFINISHED: Final = ".unfinished-"


def write_file(path: Path, data: bytes) -> None:
    """Write to a temporary file of the same directory, sync, rename, sync the directory.

    What killed writers have left in the directory is removed.

    Raises
    ------
    CheckpointError
        If it could not be written; nothing is left behind, and what was there is as it was.
    """
    try:
        # Opened before anything is written: where it cannot be, nothing could be made durable.
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            remove_unfinished(path.parent)
            _write_beside(path, data)
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise CheckpointError(
            f"cannot write the checkpoint {path} of {len(data):,} bytes: {error.strerror}; make "
            "room or choose another directory"
        ) from None


def _write_beside(path: Path, data: bytes) -> None:
    temporary, descriptor = _begin(path.parent)
    try:
        _fill(descriptor, data)
        temporary.rename(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
    finally:
        os.close(descriptor)


def _begin(directory: Path) -> tuple[Path, int]:
    """A new file under a lock that the kernel releases with its writer."""
    while True:
        path = directory / f"{_UNFINISHED}{secrets.token_hex(8)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Before it was locked, another writer may have taken it for a dead one's.
        if os.fstat(descriptor).st_nlink:
            return path, descriptor
        os.close(descriptor)


def _fill(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]
    os.fsync(descriptor)


def remove_unfinished(directory: Path) -> None:
    """Remove temporary files whose writer is dead; what cannot be removed stays."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    for path in directory.glob(f"{_UNFINISHED}*"):
        # Its writer is alive, or it is another user's, or no file: all no reason not to write.
        with contextlib.suppress(OSError):
            descriptor = os.open(path, flags)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(descriptor)
