"""How an engine's shared memory comes and goes.

Life of a name::

    absent ──create──► half-made ──ready──► ready ──destroy──► absent
                          │ creator killed     │ replace=True, nobody attached
                          └──create──► ready   └──create──► ready (a new engine)

Creating, replacing and destroying happen under the `LifecycleLock` of the name, so that they
never meet.  Attaching takes no lock: the creator writes everything, then the ready word with
release; an attacher reads it with acquire and sees everything, or waits for a bounded time.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator
from typing import Final, NamedTuple

from sona_shm import _core
from sona_shm.errors import (
    ConfigError,
    CorruptSegment,
    EngineExists,
    EngineNotFound,
    EngineNotReady,
    LayoutMismatch,
)
from sona_shm.shm.layout import LAYOUT_VERSION, MAGIC, OFFSETS, SEGMENT_KINDS, Geometry
from sona_shm.shm.locks import POLL_SECONDS, LifecycleLock, lifecycle_is_locked
from sona_shm.shm.memory import IDENTITY, READY, EngineMemory, Unready, config_checksum
from sona_shm.shm.names import Names, names_of
from sona_shm.shm.segment import create_segment, segment_bytes, unlink_segment
from sona_shm.shm.wakeup import Bell, unlink_bell

DEFAULT_TIMEOUT: Final = 5.0


def attach_memory(engine: str, timeout: float = DEFAULT_TIMEOUT) -> EngineMemory:
    """Map the engine of that name, waiting at most `timeout` seconds while it is being made.

    Raises
    ------
    EngineNotFound, EngineNotReady, LayoutMismatch, CorruptSegment
        For the state the name is in.
    """
    names = names_of(engine)
    deadline = time.monotonic() + timeout
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
        except Unready:
            if _is_half_made(names):
                raise EngineNotReady(
                    f"the engine {engine!r} is half-made: its creator died before it was ready; "
                    "create it again, which replaces it, or destroy it"
                ) from None
            if time.monotonic() >= deadline:
                raise EngineNotReady(
                    f"the engine {engine!r} was not ready after {timeout:g} s, its creator is "
                    "still at work; wait longer"
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
    except (EngineNotReady, FileNotFoundError):
        return False
    return False


# ---- create and destroy ----


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
    engine: str, geometry: Geometry, contents: Contents, *, replace: bool = False
) -> EngineMemory:
    """Make the segments of a new engine and map them.

    Parameters
    ----------
    engine : str
    geometry : Geometry
    contents : Contents
        What it begins with; nothing of it is seen before all of it is there.
    replace : bool
        Whether an engine of that name that nobody uses may be replaced.

    Raises
    ------
    EngineExists, SharedMemoryTooSmall, ConfigError
        Nothing is left behind.
    """
    names = names_of(engine)
    if len(contents.config) > geometry.sizes()["config_capacity"]:
        raise ConfigError(
            f"the configuration takes {len(contents.config)} bytes, expected at most "
            f"{geometry.sizes()['config_capacity']}; use fewer or shorter route names"
        )
    with LifecycleLock(names, DEFAULT_TIMEOUT):
        _make_way(names, replace)
        try:
            _build(names, geometry, contents)
            return EngineMemory(names)
        except BaseException:
            _unlink_all(names)
            raise


def _make_way(names: Names, replace: bool) -> None:
    """Remove what may be removed; the lifecycle lock is held."""
    try:
        existing = EngineMemory(names)
    except (FileNotFoundError, Unready):
        # Nothing there, or half-made by a creator that is dead, since we hold its lock.
        _unlink_all(names)
        return
    except (LayoutMismatch, CorruptSegment) as error:
        if not replace:
            raise EngineExists(
                f"the name {names.engine!r} is taken ({error}); "
                "pass replace=True to create a new engine in its place"
            ) from None
        _unlink_all(names)
        return
    try:
        lease, lanes = existing.lock_states()
        if not (lease or any(lanes) or replace):
            raise EngineExists(
                f"the engine {names.engine!r} exists and nobody uses it; attach to it to go on "
                "learning, or pass replace=True to start anew"
            )
        # With every lock taken, nobody begins to use it between this look and its end.
        if not (replace and existing.try_everything()):
            raise EngineExists(
                f"the engine {names.engine!r} exists and {sum(lanes)} workers"
                f"{' and a learner' if lease else ''} use it; attach to it, or stop them first"
            )
        existing.control.store(OFFSETS["control_header.destroyed"], 1)
    finally:
        existing.close()
    _unlink_all(names)


@contextlib.contextmanager
def _new_segment(
    name: str, kind: str, size: int, creation_id: int
) -> Iterator[tuple[memoryview, _core.Words]]:
    segment = create_segment(name, size)
    buffer = segment_bytes(segment)
    words = _core.Words(buffer)
    try:
        IDENTITY.pack_into(buffer, 0, MAGIC, LAYOUT_VERSION, SEGMENT_KINDS[kind], creation_id, size)
        yield buffer, words
    finally:
        words.release()
        segment.close()


def _build(names: Names, geometry: Geometry, contents: Contents) -> None:
    sizes = geometry.sizes()
    creation_id = secrets.randbits(63)
    config = contents.config
    with _new_segment(names.control, "control", sizes["control_bytes"], creation_id) as made:
        control, words = made
        for i, value in enumerate(geometry):
            words.store(OFFSETS["control_header.hidden_dim"] + 8 * i, value)
        words.store(OFFSETS["control_header.next_trajectory_id"], contents.next_trajectory_id)
        words.store(OFFSETS["control_header.config_length"], len(config))
        words.store(OFFSETS["control_header.config_checksum"], config_checksum(geometry, config))
        start = sizes["config_offset"]
        control[start : start + len(config)] = config
        with _new_segment(names.ring, "ring", sizes["ring_bytes"], creation_id) as made:
            _fill_first_lane(made[1], sizes, contents)
        with _new_segment(names.weights, "weights", sizes["weights_bytes"], creation_id) as made:
            _fill_cell(*made, sizes, "", contents.version, contents.fast)
            _fill_cell(*made, sizes, "slow_", contents.slow_version, contents.slow)
            start = sizes["reservoir_offset"]
            made[0][start : start + len(contents.rows)] = contents.rows
        Bell(names, create=True).release()
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


def _unlink_all(names: Names) -> bool:
    unlink_bell(names)
    removed = [unlink_segment(name) for name in names.segments]
    return any(removed)


def destroy_memory(engine: str) -> None:
    """Unlink everything that has this engine's name, whatever state it is in.

    Processes that are attached keep their memory, are told by a word in it, and learn nothing
    from one another any more.

    Raises
    ------
    EngineNotFound
        If there was nothing.
    """
    names = names_of(engine)
    with LifecycleLock(names, DEFAULT_TIMEOUT):
        with contextlib.suppress(OSError, ValueError, Unready, LayoutMismatch, CorruptSegment):
            existing = EngineMemory(names)
            existing.control.store(OFFSETS["control_header.destroyed"], 1)
            existing.wake_learner()
            existing.close()
        if not _unlink_all(names):
            raise EngineNotFound(f"no engine {engine!r} on this host; there is nothing to destroy")
