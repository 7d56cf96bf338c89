"""The shared memory of one engine: made, found, claimed, removed.

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
import os
import secrets
import struct
import threading
import time
import weakref
import zlib
from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory
from typing import Final, Protocol, TypeVar

import posix_ipc

from sona_shm import _core
from sona_shm.errors import (
    ConfigError,
    CorruptSegment,
    EngineClosed,
    EngineExists,
    EngineNotFound,
    EngineNotReady,
    LayoutMismatch,
    NoFreeLaneError,
)
from sona_shm.shm import fork
from sona_shm.shm.layout import LAYOUT_VERSION, MAGIC, OFFSETS, SEGMENT_KINDS, Geometry
from sona_shm.shm.locks import (
    LANE_BYTE,
    LEASE_BYTE,
    LifecycleLock,
    is_locked,
    lifecycle_is_locked,
    open_descriptor,
    try_lock,
)
from sona_shm.shm.names import Names, names_of
from sona_shm.shm.segment import attach_segment, create_segment, unlink_segment
from sona_shm.shm.wakeup import Bell, unlink_bell

DEFAULT_TIMEOUT: Final = 5.0
_IDENTITY: Final = struct.Struct("<5Q")
_READY: Final = OFFSETS["control_header.ready"]
_POLL_SECONDS: Final = 0.001
_H = TypeVar("_H", bound="_Holder")


class _Unready(Exception):
    """The name is there, but not (yet) an engine."""


class _Holder(Protocol):
    """An object of the C core that holds segments."""

    def release(self) -> None:
        """Let the segments go."""


class EngineMemory:
    """The three segments of an engine, mapped, with the locks this process holds on them.

    Made by `create_memory` and `attach_memory`.
    """

    def __init__(self, names: Names) -> None:
        """Map a ready engine; raises `_Unready` where there is none yet."""
        self.names = names
        self._held: dict[int, int] = {}  # lock byte -> descriptor
        self._claiming = threading.Lock()
        self._segments: dict[str, SharedMemory] = {}
        self._holders: list[_Holder] = []
        self._finalizer = weakref.finalize(
            self, _let_go, self._held, self._holders, self._segments
        )
        try:
            self._map()
        except BaseException:
            self.close()
            raise
        fork.register(self)

    def _map(self) -> None:
        control = self._attach("control", self.names.control)
        self.control = self.hold(_core.Words(control.buf))
        check_identity(control, "control", None)
        if not self.control.load(_READY):
            raise _Unready
        self.creation_id: int = self.control.load(OFFSETS["segment_identity.creation_id"])
        start = OFFSETS["control_header.hidden_dim"]
        self.geometry = Geometry(*(self.control.load(start + 8 * i) for i in range(6)))
        self.sizes = self._checked_sizes()
        self.config = self._checked_config(control)
        ring = self._attach("ring", self.names.ring)
        weights = self._attach("weights", self.names.weights)
        for kind, segment in (("ring", ring), ("weights", weights)):
            check_identity(segment, kind, self.creation_id)
            if segment.size < self.sizes[f"{kind}_bytes"]:
                raise CorruptSegment(
                    f"the {kind} segment of {self.names.engine!r} has {segment.size} bytes, its "
                    f"configuration needs {self.sizes[f'{kind}_bytes']}; destroy and create it"
                )
        self.lanes = self.hold(_core.Words(ring.buf))
        try:
            self.bell = self.hold(Bell(self.names))
        except posix_ipc.ExistentialError:
            raise _Unready from None

    def _attach(self, kind: str, name: str) -> SharedMemory:
        try:
            segment = attach_segment(name)
        except FileNotFoundError:
            if kind == "control":
                raise
            raise _Unready from None
        except ValueError:
            raise _Unready from None
        if segment.size < 4096:
            segment.close()
            raise _Unready
        self._segments[kind] = segment
        return segment

    def _checked_sizes(self) -> dict[str, int]:
        try:
            sizes = self.geometry.sizes()
        except ValueError as error:
            raise CorruptSegment(
                f"the geometry in {self.names.control} cannot be: {error}; destroy the engine"
            ) from None
        if self._segments["control"].size < sizes["control_bytes"]:
            raise CorruptSegment(
                f"{self.names.control} is smaller than its geometry needs; destroy the engine"
            )
        return sizes

    def _checked_config(self, control: SharedMemory) -> bytes:
        length = self.control.load(OFFSETS["control_header.config_length"])
        if length > self.sizes["config_capacity"]:
            raise CorruptSegment(f"{self.names.control} has no configuration; destroy the engine")
        start = self.sizes["config_offset"]
        config = bytes(control.buf[start : start + length])
        if zlib.crc32(config) != self.control.load(OFFSETS["control_header.config_checksum"]):
            raise CorruptSegment(
                f"the configuration in {self.names.control} fails its checksum; destroy the engine"
            )
        return config

    def buffer(self, kind: str) -> memoryview:
        """The bytes of a segment."""
        try:
            return self._segments[kind].buf
        except KeyError:
            raise EngineClosed("the engine is closed; attach to it again") from None

    def hold(self, holder: _H) -> _H:
        """Note an object that maps these segments, so that `close` can make it let go first."""
        self._holders.append(holder)
        return holder

    def drop(self, holder: _Holder) -> None:
        """Release one such object before the end."""
        holder.release()
        self._holders.remove(holder)

    @property
    def is_destroyed(self) -> bool:
        """Whether the name was given up since this process attached."""
        return bool(self.control.load(OFFSETS["control_header.destroyed"]))

    # ---- locks ----

    def _open_control(self) -> int:
        """A new descriptor of the very segment that is mapped here."""
        try:
            descriptor = open_descriptor(self.names.control)
        except posix_ipc.ExistentialError:
            descriptor = -1
        if descriptor >= 0:
            offset = OFFSETS["segment_identity.creation_id"]
            if os.pread(descriptor, 8, offset) == self.creation_id.to_bytes(8, "little"):
                return descriptor
            os.close(descriptor)
        raise EngineNotFound(
            f"the engine {self.names.engine!r} was destroyed or replaced; attach again"
        )

    def _try_hold(self, descriptor: int, byte: int) -> bool:
        if byte in self._held or not try_lock(descriptor, byte):
            return False
        self._held[byte] = descriptor
        return True

    def _release(self, byte: int) -> None:
        os.close(self._held.pop(byte))

    def try_lease(self) -> bool:
        """Become the learner, unless another process (or this one already) is."""
        descriptor = self._open_control()
        if self._try_hold(descriptor, LEASE_BYTE):
            return True
        os.close(descriptor)
        return False

    def release_lease(self) -> None:
        """Cease to be the learner."""
        if LEASE_BYTE in self._held:
            self._release(LEASE_BYTE)

    def claim_lane(self) -> int:
        """Take a lane for this process: one whose backlog is small, and no other's.

        Raises
        ------
        NoFreeLaneError
            If every lane has a living owner.
        """
        with self._claiming:
            for index in sorted(range(self.geometry.max_workers), key=self._backlog):
                descriptor = self._open_control()
                if self._try_hold(descriptor, LANE_BYTE + index):
                    self._write_owner(index)
                    return index
                os.close(descriptor)
        raise NoFreeLaneError(
            f"all {self.geometry.max_workers} lanes of {self.names.engine!r} belong to living "
            f"processes; create it with a larger max_workers (now {self.geometry.max_workers})"
        )

    def release_lane(self, index: int) -> None:
        """Give a lane back; what it holds is learned all the same."""
        if LANE_BYTE + index in self._held:
            self._release(LANE_BYTE + index)

    def _backlog(self, index: int) -> int:
        # Learned trajectories that wait to be drained do not count against a lane: the learner
        # lets them go as soon as the lane needs the room.
        words = self.lane_words(index, "head", "tail")
        return max(0, words["head"] - words["tail"] - self.geometry.lane_bytes // 2)

    def lock_states(self) -> tuple[bool, list[bool]]:
        """Whether the lease, and each lane, has a living owner."""
        descriptor = self._open_control()
        try:
            lanes = [
                LANE_BYTE + i in self._held or is_locked(descriptor, LANE_BYTE + i)
                for i in range(self.geometry.max_workers)
            ]
            return LEASE_BYTE in self._held or is_locked(descriptor, LEASE_BYTE), lanes
        finally:
            os.close(descriptor)

    def after_fork(self) -> None:
        """Close the parent's locks; the descriptors are shared, so nothing is unlocked."""
        for descriptor in self._held.values():
            os.close(descriptor)
        self._held.clear()
        self._holders.clear()
        self._claiming = threading.Lock()

    # ---- words ----

    def lane_words(self, index: int, *fields: str) -> dict[str, int]:
        """Words of a lane's header by name."""
        start = self.sizes["lanes_offset"] + index * self.sizes["lane_stride"]
        load = self.lanes.load
        return {field: load(start + OFFSETS[f"lane_header.{field}"]) for field in fields}

    def _owner_offset(self, index: int) -> int:
        return self.sizes["owners_offset"] + index * _core.LANE_OWNER_BYTES

    def _write_owner(self, index: int) -> None:
        start = self._owner_offset(index)
        generation = self.control.load(start + OFFSETS["lane_owner.generation"])
        # The first generation is random, so that ids of a former engine are foreign here.
        following = generation + 1 if generation else self.creation_id % 8191 + 1
        self.control.store(start + OFFSETS["lane_owner.generation"], following)
        self.control.store(start + OFFSETS["lane_owner.pid"], os.getpid())
        self.control.store(start + OFFSETS["lane_owner.since_ns"], time.time_ns())
        label = process_label().encode()[: _core.LABEL_BYTES].ljust(_core.LABEL_BYTES, b"\0")
        at = start + OFFSETS["lane_owner.label"]
        self.buffer("control")[at : at + _core.LABEL_BYTES] = label

    def owner(self, index: int) -> dict[str, int | str]:
        """Who last claimed a lane, for people to read."""
        start = self._owner_offset(index)
        at = start + OFFSETS["lane_owner.label"]
        label = bytes(self.buffer("control")[at : at + _core.LABEL_BYTES])
        return {
            "pid": self.control.load(start + OFFSETS["lane_owner.pid"]),
            "since_ns": self.control.load(start + OFFSETS["lane_owner.since_ns"]),
            "generation": self.control.load(start + OFFSETS["lane_owner.generation"]),
            "label": label.rstrip(b"\0").decode("utf-8", "replace"),
        }

    # ---- end ----

    def close(self) -> None:
        """Release locks and mappings; the engine stays."""
        self._finalizer()


def _let_go(held: dict[int, int], holders: list[_Holder], segments: dict[str, SharedMemory]) -> None:
    """Locks, then what maps the segments, then the segments: also at exit and when collected."""
    for descriptor in held.values():
        os.close(descriptor)
    held.clear()
    for holder in holders:
        holder.release()
    holders.clear()
    for segment in segments.values():
        segment.close()
    segments.clear()


def process_label() -> str:
    """What this process is called, for people who look at lanes."""
    try:
        with open("/proc/self/cmdline", "rb") as file:
            words = file.read().decode("utf-8", "replace").split("\0")
    except OSError:
        return ""
    return " ".join(os.path.basename(word) for word in words if word)


def check_identity(segment: SharedMemory, kind: str, creation_id: int | None) -> None:
    """Whether a segment's first line says what it must."""
    magic, version, found_kind, found_id, size = _IDENTITY.unpack_from(segment.buf)
    if magic == 0:
        raise _Unready
    if magic != MAGIC or found_kind != SEGMENT_KINDS[kind] or size > segment.size:
        raise CorruptSegment(
            f"/{segment.name} is no {kind} segment of sona_shm; remove it with sona destroy --force"
        )
    if version != LAYOUT_VERSION:
        raise LayoutMismatch(
            f"/{segment.name} has layout version {version}, this package has {LAYOUT_VERSION}; "
            "stop its workers, destroy it and create it anew"
        )
    if creation_id is not None and found_id != creation_id:
        raise _Unready


# ---- attach ----


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
        except _Unready:
            if not in_progress:
                raise EngineNotReady(
                    f"the engine {engine!r} is half-made: its creator died before it was ready; "
                    "create it again, which replaces it, or destroy it"
                ) from None
            if time.monotonic() >= deadline:
                raise EngineNotReady(
                    f"the engine {engine!r} was not ready after {timeout:g} s, its creator is "
                    "still at work; wait longer"
                ) from None
        time.sleep(_POLL_SECONDS)


# ---- create and destroy ----


def create_memory(
    engine: str, geometry: Geometry, config: bytes, first_block: bytes, *, replace: bool = False
) -> EngineMemory:
    """Make the segments of a new engine and map them.

    Parameters
    ----------
    engine : str
    geometry : Geometry
    config : bytes
        The configuration as every attacher will read it.
    first_block : bytes, length ``sizes()["snapshot_bytes"]``
        What is published as version 0.
    replace : bool
        Whether an engine of that name that nobody uses may be replaced.

    Raises
    ------
    EngineExists, SharedMemoryTooSmall, ConfigError
        Nothing is left behind.
    """
    names = names_of(engine)
    if len(config) > geometry.sizes()["config_capacity"]:
        raise ConfigError(
            f"the configuration takes {len(config)} bytes, expected at most "
            f"{geometry.sizes()['config_capacity']}; use fewer or shorter route names"
        )
    with LifecycleLock(names, DEFAULT_TIMEOUT):
        _make_way(names, replace)
        try:
            _build(names, geometry, config, first_block)
            return EngineMemory(names)
        except BaseException:
            _unlink_all(names)
            raise


def _make_way(names: Names, replace: bool) -> None:
    """Remove what may be removed; the lifecycle lock is held."""
    try:
        existing = EngineMemory(names)
    except (FileNotFoundError, _Unready):
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
        if lease or any(lanes):
            raise EngineExists(
                f"the engine {names.engine!r} exists and {sum(lanes)} workers"
                f"{' and a learner' if lease else ''} use it; attach to it, or stop them first"
            )
        if not replace:
            raise EngineExists(
                f"the engine {names.engine!r} exists and nobody uses it; attach to it to go on "
                "learning, or pass replace=True to start anew"
            )
        existing.control.store(OFFSETS["control_header.destroyed"], 1)
    finally:
        existing.close()
    _unlink_all(names)


@contextlib.contextmanager
def _new_segment(
    name: str, kind: str, size: int, creation_id: int
) -> Iterator[tuple[SharedMemory, _core.Words]]:
    segment = create_segment(name, size)
    words = _core.Words(segment.buf)
    try:
        _IDENTITY.pack_into(
            segment.buf, 0, MAGIC, LAYOUT_VERSION, SEGMENT_KINDS[kind], creation_id, size
        )
        yield segment, words
    finally:
        words.release()
        segment.close()


def _build(names: Names, geometry: Geometry, config: bytes, first_block: bytes) -> None:
    sizes = geometry.sizes()
    creation_id = secrets.randbits(63)
    with _new_segment(names.control, "control", sizes["control_bytes"], creation_id) as made:
        control, words = made
        for i, value in enumerate(geometry):
            words.store(OFFSETS["control_header.hidden_dim"] + 8 * i, value)
        words.store(OFFSETS["control_header.next_trajectory_id"], 1)
        words.store(OFFSETS["control_header.config_length"], len(config))
        words.store(OFFSETS["control_header.config_checksum"], zlib.crc32(config))
        start = sizes["config_offset"]
        control.buf[start : start + len(config)] = config
        with _new_segment(names.ring, "ring", sizes["ring_bytes"], creation_id):
            pass  # all lanes empty is all bytes zero
        with _new_segment(names.weights, "weights", sizes["weights_bytes"], creation_id) as made:
            start = sizes["buffers_offset"]
            made[0].buf[start : start + len(first_block)] = first_block
        Bell(names, create=True).release()
        words.store(_READY, 1)


def _unlink_all(names: Names) -> bool:
    unlink_bell(names)
    return any([unlink_segment(name) for name in names.segments])


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
        with contextlib.suppress(OSError, ValueError, _Unready, LayoutMismatch, CorruptSegment):
            existing = EngineMemory(names)
            existing.control.store(OFFSETS["control_header.destroyed"], 1)
            if existing.control.exchange(OFFSETS["control_header.learner_sleeping"], 0):
                existing.bell.ring()
            existing.close()
        if not _unlink_all(names):
            raise EngineNotFound(f"no engine {engine!r} on this host; there is nothing to destroy")
