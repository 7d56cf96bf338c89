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
        remove_unfinished(path.parent)
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
        _sync_directory(path.parent)
    except OSError as error:
        raise CheckpointError(
            f"cannot write the checkpoint {path} of {len(data):,} bytes: {error.strerror}; make "
            "room or choose another directory"
        ) from None


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


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_unfinished(directory: Path) -> None:
    """Remove temporary files whose writer is dead."""
    for path in directory.glob(f"{_UNFINISHED}*"):
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            except BlockingIOError:
                pass  # its writer is alive
            finally:
                os.close(descriptor)
