"""How an engine's shared memory comes and goes.

Life of a name::

    absent ──create──► half-made ──ready──► ready ──destroy──► absent
                          │ creator killed     │ replace=True, nobody attached
                          └──create──► ready   └──create──► ready (a new engine)

Creating, replacing and destroying (removal.py) happen under the `LifecycleLock` of the name, so
that they never meet.  Attaching takes no lock: the creator writes everything, then the ready word
with release; an attacher reads it with acquire and sees everything, or waits for a bounded time.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator
from typing import NamedTuple

from sona_shm import _core
from sona_shm.errors import (
    ConfigError,
    CorruptSegment,
    EngineExists,
    EngineForbidden,
    EngineNotFound,
    EngineNotReady,
    LayoutMismatch,
)
from sona_shm.shm.access import group_id
from sona_shm.shm.layout import LAYOUT_VERSION, MAGIC, OFFSETS, SEGMENT_KINDS, Geometry
from sona_shm.shm.locks import (
    DEFAULT_TIMEOUT,
    POLL_SECONDS,
    LifecycleLock,
    lifecycle_is_locked,
)
from sona_shm.shm.memory import IDENTITY, READY, EngineMemory, Unready, config_checksum
from sona_shm.shm.names import Names, names_of
from sona_shm.shm.removal import in_use, remove, unlink_all
from sona_shm.shm.segment import create_segment, segment_bytes
from sona_shm.shm.wakeup import create_bell


def attach_memory(engine: str, timeout: float = DEFAULT_TIMEOUT) -> EngineMemory:
    """Map the engine of that name, waiting at most `timeout` seconds while it is being made.

    Raises
    ------
    EngineNotFound, EngineNotReady, EngineForbidden, LayoutMismatch, CorruptSegment
        For the state the name is in.
    """
    names = names_of(engine)
    deadline = time.monotonic() + timeout
    closed = False
    while True:
        in_progress = lifecycle_is_locked(names)  # before looking: it may finish meanwhile
        try:
            return EngineMemory(names)
        except FileNotFoundError:
            if not in_progress or time.monotonic() >= deadline:
                raise EngineNotFound(
                    f"no engine {engine!r} on this host; create it with Engine.create or "
                    "sona learner --create"
                ) from None
        except EngineForbidden:
            # A segment of a group is its creator's alone for the moment before it is the group's.
            if time.monotonic() >= deadline or (closed and not in_progress):
                raise
            closed = True
        except Unready:
            if _is_half_made(names):
                raise EngineNotReady(
                    f"the engine {engine!r} is half-made: its creator died before it was ready; "
                    "create it again, which replaces it, or destroy it"
                ) from None
            if time.monotonic() >= deadline:
                raise EngineNotReady(
                    f"the engine {engine!r} was not ready after {timeout:g} s, its creator is "
                    f"still at work; wait longer, or look with sona doctor {engine}"
                ) from None
        time.sleep(POLL_SECONDS)


def _is_half_made(names: Names) -> bool:
    """Whether nobody is at work on it and it is not ready all the same.

    Only who holds the life-cycle lock can tell: whoever was at work when the engine looked
    half-made may have finished since.
    """
    try:
        with LifecycleLock(names, 0.0):
            EngineMemory(names).close()
    except Unready:
        return True
    except (EngineNotReady, EngineForbidden, FileNotFoundError):
        return False
    return False


# ---- create ----


class Contents(NamedTuple):
    """What the memory of an engine begins with.

    Attributes
    ----------
    config : bytes
        The configuration as every attacher will read it.
    fast : bytes, length ``sizes()["snapshot_bytes"]``
        What is published as `version`.
    slow : bytes
        The slow block of `slow_version`, which the fast one names; empty is all bytes zero.
    version, slow_version : int
    rows : bytes
        The reservoir's ring; empty is all bytes zero.
    trajectories, feedbacks, decisions, dropped : int
        What former lives of this engine have recorded, for its books.
    next_trajectory_id : int
    """

    config: bytes
    fast: bytes
    slow: bytes = b""
    version: int = 0
    slow_version: int = 0
    rows: bytes = b""
    trajectories: int = 0
    feedbacks: int = 0
    decisions: int = 0
    dropped: int = 0
    next_trajectory_id: int = 1


def create_memory(
    engine: str,
    geometry: Geometry,
    contents: Contents,
    *,
    group: str = "",
    replace: bool = False,
) -> EngineMemory:
    """Make the segments of a new engine and map them.

    Parameters
    ----------
    engine : str
    geometry : Geometry
    contents : Contents
        What it begins with; nothing of it is seen before all of it is there.
    group : str
        Unix group whose members may use it; empty is this user alone.
    replace : bool
        Whether an engine of that name that nobody uses may be replaced.

    Raises
    ------
    EngineExists, EngineInUse, EngineForbidden, SharedMemoryTooSmall, ConfigError
        Nothing is left behind.
    """
    names, group_number = names_of(engine), group_id(group)
    if len(contents.config) > geometry.sizes()["config_capacity"]:
        raise ConfigError(
            f"the configuration takes {len(contents.config)} bytes, expected at most "
            f"{geometry.sizes()['config_capacity']}; use fewer or shorter route names"
        )
    with LifecycleLock(names, DEFAULT_TIMEOUT):
        if not replace:
            _require_free(names)
        remove(names)
        try:
            _build(names, geometry, contents, group_number)
            return EngineMemory(names)
        except BaseException:
            unlink_all(names)
            raise


def _require_free(names: Names) -> None:
    """Whether the name is free, or what has it was left half-made or half-destroyed.

    Raises
    ------
    EngineExists, EngineInUse
    """
    try:
        existing = EngineMemory(names)
    except (FileNotFoundError, Unready):
        # Nothing there, or half-made by a creator that is dead, since we hold its lock.
        return
    except (LayoutMismatch, CorruptSegment) as error:
        raise EngineExists(
            f"the name {names.engine!r} is taken ({error}); "
            "pass replace=True to create a new engine in its place"
        ) from None
    try:
        if existing.is_destroyed:
            return
        if existing.users():
            raise in_use(names, existing)
        raise EngineExists(
            f"the engine {names.engine!r} exists and nobody uses it; attach to it to go on "
            "learning, or pass replace=True to start anew"
        )
    finally:
        existing.close()


@contextlib.contextmanager
def _new_segment(
    name: str, kind: str, size: int, creation_id: int, group: int | None
) -> Iterator[tuple[memoryview, _core.Words]]:
    segment = create_segment(name, size, group)
    buffer = segment_bytes(segment)
    words = _core.Words(buffer)
    try:
        IDENTITY.pack_into(buffer, 0, MAGIC, LAYOUT_VERSION, SEGMENT_KINDS[kind], creation_id, size)
        yield buffer, words
    finally:
        words.release()
        segment.close()


def _build(names: Names, geometry: Geometry, contents: Contents, group: int | None) -> None:
    sizes = geometry.sizes()
    creation_id = secrets.randbits(63)
    config = contents.config

    def new(kind: str) -> contextlib.AbstractContextManager[tuple[memoryview, _core.Words]]:
        return _new_segment(getattr(names, kind), kind, sizes[f"{kind}_bytes"], creation_id, group)

    with new("control") as (control, words):
        for i, value in enumerate(geometry):
            words.store(OFFSETS["control_header.hidden_dim"] + 8 * i, value)
        words.store(OFFSETS["control_header.created_ns"], time.time_ns())
        words.store(OFFSETS["control_header.next_trajectory_id"], contents.next_trajectory_id)
        words.store(OFFSETS["control_header.config_length"], len(config))
        words.store(OFFSETS["control_header.config_checksum"], config_checksum(geometry, config))
        start = sizes["config_offset"]
        control[start : start + len(config)] = config
        with new("ring") as (_, lanes):
            _fill_first_lane(lanes, sizes, contents)
        with new("weights") as made:
            _fill_cell(*made, sizes, "", contents.version, contents.fast)
            _fill_cell(*made, sizes, "slow_", contents.slow_version, contents.slow)
            start = sizes["reservoir_offset"]
            made[0][start : start + len(contents.rows)] = contents.rows
        create_bell(names, group)
        words.store(READY, 1)


def _fill_first_lane(words: _core.Words, sizes: dict[str, int], contents: Contents) -> None:
    """All lanes empty is all bytes zero; the first has also counted what former lives recorded."""
    for count in ("trajectories", "feedbacks", "decisions", "dropped"):
        for field in (count, f"base_{count}"):
            at = sizes["lanes_offset"] + OFFSETS[f"lane_header.{field}"]
            words.store(at, getattr(contents, count))
    at = sizes["lanes_offset"] + OFFSETS["lane_header.released_trajectories"]
    words.store(at, contents.trajectories)


def _fill_cell(
    segment: memoryview,
    words: _core.Words,
    sizes: dict[str, int],
    cell: str,
    version: int,
    block: bytes,
) -> None:
    start = sizes[f"{cell}buffers_offset"]
    start += version % _core.CELL_BUFFERS * sizes[f"{cell}buffer_stride"]
    segment[start : start + len(block)] = block
    for word in ("begun", "version"):
        words.store(sizes[f"{cell}cell_offset"] + OFFSETS[f"cell_header.{word}"], version)
