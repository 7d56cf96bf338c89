"""Directories of checkpoints: names that sort by time, so many are kept, the newest valid first."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from pathlib import Path
from typing import Final

from sona_shm.checkpoint.atomic import write_file
from sona_shm.checkpoint.format import Checkpoint, encode, read_checkpoint
from sona_shm.checkpoint.state import EngineState
from sona_shm.errors import CheckpointError
from sona_shm.shm.layout import LAYOUT_VERSION

logger = logging.getLogger("sona_shm.checkpoint")
_NAME: Final = re.compile(r"checkpoint-(\d{20})-v\d{20}-layout(\d+)\.safetensors")


def name_of(time_ns: int, version: int) -> str:
    """The name of a file in a directory of checkpoints.

    Examples
    --------
    >>> name_of(1, 2)[:54]
    'checkpoint-00000000000000000001-v00000000000000000002-'
    """
    return f"checkpoint-{time_ns:020d}-v{version:020d}-layout{LAYOUT_VERSION}.safetensors"


def list_checkpoints(directory: Path) -> list[Path]:
    """The files of a directory that have such a name, newest first.

    Raises
    ------
    CheckpointError
        If the directory cannot be read.
    """
    try:
        found = [path for path in directory.iterdir() if _NAME.fullmatch(path.name)]
    except OSError as error:
        raise CheckpointError(
            f"cannot read the directory {directory} of checkpoints: {error.strerror}"
        ) from None
    return sorted(found, reverse=True)


def new_path(directory: Path, version: int) -> Path:
    """The name of the next file: newer than all, also where the clock was set back.

    Raises
    ------
    CheckpointError
        If the directory cannot be read.
    """
    now = time.time_ns()
    for newest in list_checkpoints(directory)[:1]:
        match = _NAME.fullmatch(newest.name)
        now = max(now, int(match[1]) + 1 if match else 0)
    return directory / name_of(now, version)


def save_state(state: EngineState, path: Path, engine: str) -> None:
    """Write a state to a file.

    Raises
    ------
    CheckpointError
        If it could not be written; nothing is left behind.
    """
    write_file(path, encode(state, engine, time.time_ns()))


def remove_old(directory: Path, keep: int) -> None:
    """Remove all but the newest; what cannot be removed stays, and the next one tries again.

    Files of another layout stay, too: another version of this package can read them.
    """
    mine = [path for path in list_checkpoints(directory) if _layout_of(path) == LAYOUT_VERSION]
    for path in mine[keep:]:
        with contextlib.suppress(OSError):
            path.unlink()


def _layout_of(path: Path) -> int:
    match = _NAME.fullmatch(path.name)
    return int(match[2]) if match else -1


def newest_valid(directory: Path) -> Checkpoint | None:
    """The newest file that can be restored; why newer ones cannot be is logged."""
    for path in list_checkpoints(directory):
        try:
            return read_checkpoint(path)
        except CheckpointError as error:
            logger.warning("%s", error)
    return None


def load_checkpoint(path: Path) -> Checkpoint:
    """A file, or the newest valid one of a directory.

    Raises
    ------
    CheckpointError
        If there is none.
    """
    if not os.path.exists(path):  # noqa: PTH110  # unlike Path.exists, never an error
        raise CheckpointError(
            f"there is no checkpoint at {path}; expected a file that sona save or Engine.save has "
            "written, or a directory of them"
        )
    if not path.is_dir():
        return read_checkpoint(path)
    found = newest_valid(path)
    if found is None:
        count = len(list_checkpoints(path))
        raise CheckpointError(
            f"none of the {count} checkpoints in {path} can be restored; the log says why each is "
            "refused"
            if count
            else f"there is no checkpoint in {path}; expected files checkpoint-*.safetensors"
        )
    return found
