"""How an engine's shared memory goes: in one way, whoever removes it and why.

Under the `LifecycleLock` of the name, and, unless it is to go even while it is in use, with every
lock of the engine taken.  So nobody begins to use what was looked at and found unused.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from sona_shm.errors import CorruptSegment, EngineInUse, EngineNotFound, LayoutMismatch
from sona_shm.shm.access import not_the_owner
from sona_shm.shm.layout import OFFSETS
from sona_shm.shm.locks import (
    DEFAULT_TIMEOUT,
    LEASE_BYTE,
    LifecycleLock,
    open_descriptor,
    try_lock,
)
from sona_shm.shm.memory import EngineMemory, Unready
from sona_shm.shm.names import Names, file_of, names_of


def destroy_memory(engine: str, *, force: bool = True) -> None:
    """Unlink everything that has this engine's name, whatever state it is in.

    Processes that are attached keep their memory, are told by a word in it, and learn nothing
    from one another any more.

    Parameters
    ----------
    engine : str
    force : bool
        Also while workers or a learner use it.

    Raises
    ------
    EngineNotFound
        If there was nothing.
    EngineInUse, EngineForbidden, EngineNotReady
        Nothing was changed.
    """
    names = names_of(engine)
    with LifecycleLock(names, DEFAULT_TIMEOUT):
        if not remove(names, force=force):
            raise EngineNotFound(f"no engine {engine!r} on this host; there is nothing to destroy")


def control_inode(names: Names) -> int | None:
    """Which object the control segment is: no other one ever has its number.  None if absent."""
    try:
        return file_of(names.control).lstat().st_ino
    except FileNotFoundError:
        return None


def remove_as_seen(engine: str, seen: int | None) -> bool:
    """Remove what nobody uses, if it still is what `control_inode` told when it was looked at.

    Returns
    -------
    bool
        False if it was removed, replaced or made meanwhile.

    Raises
    ------
    EngineInUse, EngineForbidden, EngineNotReady, CorruptSegment
        Nothing was changed.
    """
    names = names_of(engine)
    left_lock = file_of(names.lifecycle).exists()  # ours from now on, and gone at the end
    with LifecycleLock(names, DEFAULT_TIMEOUT):
        return control_inode(names) == seen and (remove(names) or left_lock)


def remove(names: Names, *, force: bool = False) -> bool:
    """Unlink what has this name, unless it is in use; the life-cycle lock is held.

    Returns
    -------
    bool
        False if there was nothing.

    Raises
    ------
    EngineInUse, EngineForbidden, CorruptSegment
        If it may not or cannot be removed; nothing was changed.
    """
    try:
        descriptor = open_descriptor(names.control)
    except FileNotFoundError:
        return unlink_all(names)
    memory = None
    try:
        memory = _mapped(names)
        if not try_lock(descriptor, LEASE_BYTE, 0) and not force:
            raise in_use(names, memory)
        _unlink(names.files[0])  # who may not do this has changed nothing
        if memory is not None:
            # Before the locks fall free, so that no claim overlooks it.
            memory.control.store(OFFSETS["control_header.destroyed"], 1)
            memory.wake_learner()
    finally:
        if memory is not None:
            memory.close()
        os.close(descriptor)
    unlink_all(names)
    return True


def _mapped(names: Names) -> EngineMemory | None:
    """The engine, if it is a ready one of this layout."""
    with contextlib.suppress(OSError, ValueError, Unready, LayoutMismatch, CorruptSegment):
        return EngineMemory(names)
    return None


def in_use(names: Names, memory: EngineMemory | None) -> EngineInUse:
    """The error for an engine that living processes use; names those it can tell."""
    users = [] if memory is None else memory.users()
    return EngineInUse(
        f"the engine {names.engine!r} is in use by {', '.join(users) or 'a living process'}; "
        "attach to it, or stop them first"
    )


def unlink_all(names: Names) -> bool:
    """Remove every part; False if there was none."""
    removed = [_unlink(file) for file in names.files]
    return any(removed)


def _unlink(file: Path) -> bool:
    try:
        file.unlink()
    except FileNotFoundError:
        return False
    except IsADirectoryError:
        raise CorruptSegment(f"{file} is no shared memory; remove it with rm -ri {file}") from None
    except PermissionError:
        raise not_the_owner(file) from None
    return True
