"""The mapped memory of one engine: its segments, the locks this process holds, its words."""

from __future__ import annotations

import contextlib
import os
import struct
import time
import weakref
import zlib
from collections.abc import Callable
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Final

import posix_ipc

from sona_shm import _core
from sona_shm.errors import (
    CorruptSegment,
    EngineClosed,
    EngineNotFound,
    LayoutMismatch,
    NoFreeLaneError,
)
from sona_shm.shm import fork
from sona_shm.shm.access import forbidden
from sona_shm.shm.diagnostics import ErrorTable
from sona_shm.shm.layout import LAYOUT_VERSION, MAGIC, OFFSETS, SEGMENT_KINDS, Geometry
from sona_shm.shm.locks import (
    LANE_BYTE,
    LEASE_BYTE,
    POLL_SECONDS,
    STANDBY_BYTE,
    is_locked,
    lifecycle_is_locked,
    open_descriptor,
    try_lock,
)
from sona_shm.shm.names import Names
from sona_shm.shm.segment import attach_segment, segment_bytes
from sona_shm.shm.wakeup import Bell

IDENTITY: Final = struct.Struct("<5Q")
READY: Final = OFFSETS["control_header.ready"]
_REPLACING_SECONDS: Final = 5.0


class Unready(Exception):
    """The name is there, but not (yet) an engine."""


class EngineMemory:
    """The three segments of an engine, mapped, with the locks this process holds on them.

    Made by `create_memory` and `attach_memory`.
    """

    def __init__(self, names: Names) -> None:
        """Map a ready engine; raises `Unready` where there is none yet."""
        self.names = names
        self._held: dict[int, int] = {}  # lock byte -> descriptor
        self._segments: dict[str, SharedMemory] = {}
        self._at_close: list[Callable[[], object]] = []
        self._finalizer = weakref.finalize(
            self, _let_go, self._held, self._at_close, self._segments
        )
        try:
            self._map()
        except BaseException:
            self.close()
            raise
        fork.register(self)

    def _map(self) -> None:
        control = self._attach("control", self.names.control)
        self.control = _core.Words(segment_bytes(control))
        self.at_close(self.control.release)
        check_identity(control, "control", None)
        if not self.control.load(READY):
            raise Unready
        self.creation_id: int = self.control.load(OFFSETS["segment_identity.creation_id"])
        start = OFFSETS["control_header.hidden_dim"]
        words = range(start, start + 8 * len(Geometry._fields), 8)
        self.geometry = Geometry._make(self.control.load(word) for word in words)
        self.sizes = self._checked_sizes()
        self.config = self._checked_config(control)
        self.errors = ErrorTable(self)
        ring = self._attach("ring", self.names.ring)
        weights = self._attach("weights", self.names.weights)
        for kind, segment in (("ring", ring), ("weights", weights)):
            check_identity(segment, kind, self.creation_id)
            if segment.size < self.sizes[f"{kind}_bytes"]:
                raise CorruptSegment(
                    f"the {kind} segment of {self.names.engine!r} has {segment.size} bytes, its "
                    f"configuration needs {self.sizes[f'{kind}_bytes']}; destroy and create it"
                )
        self.lanes = _core.Words(segment_bytes(ring))
        self.at_close(self.lanes.release)
        try:
            self.bell = Bell(self.names)
        except posix_ipc.ExistentialError:
            raise Unready from None
        except (posix_ipc.PermissionsError, PermissionError):
            raise forbidden(self.names.semaphore_file) from None
        self.at_close(self.bell.release)

    def _attach(self, kind: str, name: str) -> SharedMemory:
        try:
            segment = attach_segment(name)
        except FileNotFoundError:
            if kind == "control":
                raise
            raise Unready from None
        except ValueError:
            raise Unready from None
        if segment.size < 4096:
            segment.close()
            raise Unready
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
        config = bytes(segment_bytes(control)[start : start + length])
        expected = self.control.load(OFFSETS["control_header.config_checksum"])
        if config_checksum(self.geometry, config) != expected:
            raise CorruptSegment(
                f"the configuration in {self.names.control} fails its checksum; destroy the engine"
            )
        return config

    def buffer(self, kind: str) -> memoryview:
        """The bytes of a segment."""
        try:
            return segment_bytes(self._segments[kind])
        except KeyError:
            raise EngineClosed("the engine is closed; attach to it again") from None

    def at_close(self, release: Callable[[], object]) -> None:
        """Have an object that maps these segments let go before they are closed."""
        self._at_close.append(release)

    @property
    def is_open(self) -> bool:
        """Whether `close` was not called yet."""
        return bool(self._finalizer.alive)

    def leave_at_exit(self) -> None:
        """Do not close at the end of the program: whoever works with this memory closes it."""
        self._finalizer.atexit = False

    def require_open(self) -> None:
        """Raise EngineClosed after `close`."""
        if not self.is_open:
            raise EngineClosed("the engine is closed; attach to it again")

    @property
    def is_destroyed(self) -> bool:
        """Whether the name was given up since this process attached."""
        return bool(self.control.load(OFFSETS["control_header.destroyed"]))

    def wake_learner(self) -> None:
        """Ring for a learner that sleeps, after a request was stored.

        The exchange has a fence before it, as a producer has: either the learner sees the request
        before it sleeps, or it is seen to sleep.
        """
        if self.control.exchange(OFFSETS["control_header.learner_sleeping"], 0):
            self.bell.ring()

    # ---- locks ----

    def _open_control(self) -> int:
        """A new descriptor of the very segment that is mapped here."""
        self.require_open()
        try:
            descriptor = open_descriptor(self.names.control)
        except FileNotFoundError:
            descriptor = -1
        if descriptor >= 0:
            offset = OFFSETS["segment_identity.creation_id"]
            if os.pread(descriptor, 8, offset) == self.creation_id.to_bytes(8, "little"):
                return descriptor
            os.close(descriptor)
        raise self._is_gone()

    def _try_hold(self, byte: int) -> bool:
        with fork.guard:
            descriptor = self._open_control()
            if byte in self._held or not try_lock(descriptor, byte):
                os.close(descriptor)
                return False
            self._held[byte] = descriptor
        if not self.is_destroyed:
            return True
        # Whoever destroys an engine says so before its locks fall free.
        self._release(byte)
        raise self._is_gone()

    def _is_gone(self) -> EngineNotFound:
        return EngineNotFound(
            f"the engine {self.names.engine!r} was destroyed or replaced; attach again"
        )

    def _release(self, byte: int) -> None:
        os.close(self._held.pop(byte))

    def try_lease(self) -> bool:
        """Become the learner, unless another process (or this one already) is."""
        return self._try_hold(LEASE_BYTE)

    def stand_by(self) -> None:
        """Be seen to wait for the lease, unless another process is already."""
        if STANDBY_BYTE not in self._held:
            self._try_hold(STANDBY_BYTE)

    def end_standby(self) -> None:
        """Cease to be seen to wait."""
        if STANDBY_BYTE in self._held:
            self._release(STANDBY_BYTE)

    @property
    def has_standby(self) -> bool:
        """Whether a living process waits for the lease."""
        with fork.guard:
            descriptor = self._open_control()
            try:
                return is_locked(descriptor, STANDBY_BYTE)
            finally:
                os.close(descriptor)

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
        deadline = time.monotonic() + _REPLACING_SECONDS
        while True:
            for index in sorted(range(self.geometry.max_workers), key=self._backlog):
                if self._try_hold(LANE_BYTE + index):
                    self._write_owner(index)
                    return index
            # Who replaces the engine holds every lane for a moment, and then says that it is gone.
            replacing = lifecycle_is_locked(self.names)
            if self.is_destroyed:
                raise self._is_gone()
            if not replacing or time.monotonic() >= deadline:
                break
            time.sleep(POLL_SECONDS)
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
        with fork.guard:
            descriptor = self._open_control()
            try:
                lanes = [
                    is_locked(descriptor, LANE_BYTE + i) for i in range(self.geometry.max_workers)
                ]
                return is_locked(descriptor, LEASE_BYTE), lanes
            finally:
                os.close(descriptor)

    def users(self) -> list[str]:
        """The living processes that record or learn, for people: pids are other namespaces' too."""
        lease, lanes = self.lock_states()
        users = [f"worker {self.owner(i)['pid']}" for i, alive in enumerate(lanes) if alive]
        if lease:
            users.append(f"learner {self.control.load(OFFSETS['control_header.learner_pid'])}")
        return users

    def _after_fork(self) -> None:
        """Close the parent's locks; the descriptors are shared, so nothing is unlocked."""
        for descriptor in self._held.values():
            os.close(descriptor)
        self._held.clear()

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
        following = generation + 1 if generation else self.first_generation
        self.control.store(start + OFFSETS["lane_owner.generation"], following)
        self.control.store(start + OFFSETS["lane_owner.pid"], os.getpid())
        self.control.store(start + OFFSETS["lane_owner.since_ns"], time.time_ns())
        label = process_label().encode()[: _core.LABEL_BYTES].ljust(_core.LABEL_BYTES, b"\0")
        at = start + OFFSETS["lane_owner.label"]
        self.buffer("control")[at : at + _core.LABEL_BYTES] = label

    @property
    def first_generation(self) -> int:
        """Of every lane: random, so that ids of another engine are foreign here."""
        return self.creation_id % _core.GENERATIONS + 1

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


def _let_go(
    held: dict[int, int], at_close: list[Callable[[], object]], segments: dict[str, SharedMemory]
) -> None:
    """What uses the segments, then locks, then segments: also at exit and when collected.

    A user that refuses to let go, because a thread is at work in it, keeps its lock too.
    """
    for release in at_close:
        release()
    at_close.clear()
    for descriptor in held.values():
        os.close(descriptor)
    held.clear()
    for kind in list(segments):
        # An engine that ends with a cycle of garbage maps its segments until it has ended itself,
        # and then they close themselves.
        with contextlib.suppress(BufferError):
            segments[kind].close()
            del segments[kind]


def config_checksum(geometry: Geometry, config: bytes) -> int:
    """Over all that an attacher computes sizes and behaviour from."""
    return zlib.crc32(config, zlib.crc32(struct.pack(f"<{len(geometry)}Q", *geometry)))


def process_label() -> str:
    """What this process is called, for people who look at lanes."""
    try:
        with open("/proc/self/cmdline", "rb") as file:
            words = file.read().decode("utf-8", "replace").split("\0")
    except OSError:
        return ""
    return " ".join(Path(word).name for word in words if word)


def check_identity(segment: SharedMemory, kind: str, creation_id: int | None) -> None:
    """Whether a segment's first line says what it must."""
    magic, version, found_kind, found_id, size = IDENTITY.unpack_from(segment_bytes(segment))
    if magic == 0:
        raise Unready
    if magic != MAGIC or found_kind != SEGMENT_KINDS[kind] or size > segment.size:
        raise CorruptSegment(
            f"/{segment.name} is no {kind} segment of sona_shm; remove it with sona destroy"
        )
    if version != LAYOUT_VERSION:
        raise LayoutMismatch(
            f"/{segment.name} has layout version {version}, this package has {LAYOUT_VERSION}; "
            "stop its workers, destroy it and create it anew"
        )
    if creation_id is not None and found_id != creation_id:
        raise Unready
