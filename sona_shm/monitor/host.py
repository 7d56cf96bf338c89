"""Everything of this package that is in this host's shared memory, and what is wrong with it.

Only looks: at names, at kernel locks, at what is published.  What is found may be anything, and
may change or go while it is looked at.
"""

from __future__ import annotations

import dataclasses
import os
import re
import stat
from collections.abc import Collection, Mapping
from typing import Any, Final, Literal

from sona_shm import _core
from sona_shm.errors import (
    CorruptSegment,
    EngineNotFound,
    LayoutMismatch,
    SonaError,
)
from sona_shm.loops.engine_memory import config_of
from sona_shm.monitor.diagnosis import Finding, diagnose, liveness
from sona_shm.monitor.stats import EngineStats, collect
from sona_shm.monitor.surroundings import platform_findings, room_findings, strange_files
from sona_shm.shm.access import user_name
from sona_shm.shm.layout import OFFSETS
from sona_shm.shm.locks import LEASE_BYTE, is_locked, lifecycle_is_locked, open_descriptor
from sona_shm.shm.memory import EngineMemory, Unready
from sona_shm.shm.names import SHARED_MEMORY, Names, engine_of, names_of
from sona_shm.shm.removal import control_inode

State = Literal[
    "in use", "idle", "half-made", "being made", "other layout", "corrupt", "no access", "leftover"
]
_REMOVABLE: Final = ("idle", "half-made", "other layout", "corrupt", "leftover")
_PRIVATE: Final = re.compile(r"loop-[0-9a-f]{16}")
_LOOKS: Final = 3

Files = Mapping[str, os.stat_result]


@dataclasses.dataclass(frozen=True, slots=True)
class HostEngine:
    """One engine of this host, or what is left of one.

    Attributes
    ----------
    name : str
    state : str
        One of ``in use``, ``idle`` (nobody uses it), ``half-made`` (its creator died),
        ``being made`` (or removed, at this moment), ``other layout`` (version of this package),
        ``corrupt``, ``no access`` (mostly another user's), ``leftover`` (parts without an engine).
    owner : str
        The user it belongs to.
    ours : bool
        Whether that is the user who looks.
    bytes : int
        Shared memory taken.
    files : list of str
        What of it was found.
    inode : int or None
        Of the control segment, by which a later one of the same name is told from this one.
    in_use : bool
        Whether a living process holds a lock of it.
    created : float or None
        Unix time; None where that is not known.
    stats : EngineStats or None
        Of an engine that can be read.
    findings : tuple of Finding
        What is worth telling of it.
    detail : str
        Why it cannot be read.

    Examples
    --------
    >>> import sona_shm as sona
    >>> sona.Engine.create("doc-host", sona.SonaConfig(hidden_dim=4)).close()
    >>> [(engine.name, engine.state) for engine in look_at_host(["doc-host"]).engines]
    [('doc-host', 'idle')]
    >>> sona.Engine.destroy("doc-host")
    """

    name: str
    state: State
    owner: str
    ours: bool
    bytes: int
    files: list[str]
    inode: int | None
    in_use: bool = False
    created: float | None = None
    stats: EngineStats | None = None
    findings: tuple[Finding, ...] = ()
    detail: str = ""

    @property
    def is_dead(self) -> bool:
        """Whether it is ours, and no living process uses it."""
        return self.ours and not self.in_use and self.state in _REMOVABLE


@dataclasses.dataclass(frozen=True, slots=True)
class HostReport:
    """What was found.

    Attributes
    ----------
    total_bytes, free_bytes : int
        Of ``/dev/shm``.
    engines : list of HostEngine
    surroundings : list of Finding
        What is worth telling of the rest of the host.
    """

    total_bytes: int
    free_bytes: int
    engines: list[HostEngine]
    surroundings: list[Finding]

    @property
    def findings(self) -> list[Finding]:
        """All that is worth telling."""
        own = [finding for engine in self.engines for finding in engine.findings]
        return [*own, *self.surroundings]

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong."""
        return not any(finding.problem for finding in self.findings)

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self) | {"healthy": self.healthy}


def look_at_host(only: Collection[str] | None = None) -> HostReport:
    """Look at all engines of this host, or at some, and then in more depth.

    Parameters
    ----------
    only : collection of str, optional
        Names of engines.
    """
    room = os.statvfs(SHARED_MEMORY)
    total, free = room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize
    files = _files()
    parts: dict[str, dict[str, os.stat_result]] = {}
    for file, found in files.items():
        name = engine_of(file)
        if name and stat.S_ISREG(found.st_mode) and (only is None or name in only):
            parts.setdefault(name, {})[file] = found
    deep = only is not None
    looked = [_look(names_of(name), parts[name], deep=deep) for name in sorted(parts)]
    engines = [_explained(engine) for engine in looked if engine is not None]
    if deep:
        return HostReport(total, free, engines, [])
    around = [*strange_files(files), *room_findings(total, free), *platform_findings()]
    return HostReport(total, free, engines, around)


def _files() -> dict[str, os.stat_result]:
    found = {}
    for entry in sorted(os.scandir(SHARED_MEMORY), key=lambda entry: entry.name):
        if entry.name.startswith(("sona-", "sem.")):
            try:
                found[entry.name] = entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # gone meanwhile
                continue
    return found


# ---- one engine ----


def _look(names: Names, files: Files, *, deep: bool) -> HostEngine | None:
    """The state of one name; None if it went meanwhile."""
    owner = files.get(names.control[1:], next(iter(files.values()))).st_uid
    engine = HostEngine(
        name=names.engine,
        state="half-made",
        owner=user_name(owner),
        ours=owner == os.geteuid(),
        bytes=sum(found.st_blocks * 512 for found in files.values()),
        files=list(files),
        inode=control_inode(names),
    )
    for _ in range(_LOOKS):
        seen, certain = _look_once(names, engine, deep=deep)
        if certain:
            break
    return seen


def _look_once(names: Names, engine: HostEngine, *, deep: bool) -> tuple[HostEngine | None, bool]:
    """What it is, and whether that is certain: somebody may have begun and ended meanwhile."""
    busy = _somebody_is_at_work(names)
    try:
        memory = EngineMemory(names)
    except (FileNotFoundError, Unready) as error:
        if busy or _somebody_is_at_work(names):
            return dataclasses.replace(engine, state="being made"), True
        absent = isinstance(error, FileNotFoundError)
        return _leftover(names, engine) if absent else engine, False
    except OSError as error:  # another user's, or no descriptor or address space left here
        return dataclasses.replace(engine, state="no access", detail=str(error)), True
    except LayoutMismatch as error:
        return _unreadable(names, engine, "other layout", error), True
    except (CorruptSegment, ValueError) as error:
        return _unreadable(names, engine, "corrupt", error), True
    try:
        read = _read(memory, engine, deep=deep)
        if memory.is_destroyed:
            return _destroyed(names, engine), True
        # Who removes an engine holds all its locks for a moment.
        return read, not (read.in_use and (busy or _somebody_is_at_work(names)))
    except EngineNotFound:  # removed or replaced, whatever its word says
        return None, True
    except (SonaError, ValueError, ArithmeticError) as error:
        return _unreadable(names, engine, "corrupt", error), True
    finally:
        memory.close()


def _somebody_is_at_work(names: Names) -> bool:
    try:
        return lifecycle_is_locked(names)
    except CorruptSegment:
        return False


def _leftover(names: Names, engine: HostEngine) -> HostEngine | None:
    left = [file for file in engine.files if (SHARED_MEMORY / file).exists()]
    if not left or control_inode(names) is not None:
        return None
    return dataclasses.replace(engine, state="leftover", files=left, inode=None)


def _destroyed(names: Names, engine: HostEngine) -> HostEngine | None:
    """Gone, as the word says; who removes an engine unlinks it first, or the word is spoilt.

    One that came after the first look has no number here, and may have a successor by now.
    """
    if engine.inode is None or control_inode(names) != engine.inode:
        return None
    error = CorruptSegment("it says that it was destroyed, and it is still there")
    return _unreadable(names, engine, "corrupt", error)


def _unreadable(
    names: Names, engine: HostEngine, state: State, error: Exception
) -> HostEngine | None:
    try:
        descriptor = open_descriptor(names.control)
    except FileNotFoundError:
        return None
    except (SonaError, OSError):
        return dataclasses.replace(engine, state=state, detail=str(error))
    try:
        in_use = is_locked(descriptor, LEASE_BYTE, 0)
    finally:
        os.close(descriptor)
    return dataclasses.replace(engine, state=state, detail=str(error), in_use=in_use)


def _read(memory: EngineMemory, engine: HostEngine, *, deep: bool) -> HostEngine:
    reader = _core.Reader(memory.buffer("weights"), memory.geometry)
    memory.at_close(reader._release)
    stats = collect(memory, *reader._patterns())
    in_use = stats.learner_alive or any(lane.alive for lane in stats.lanes)
    created = memory.control.load(OFFSETS["control_header.created_ns"])
    return dataclasses.replace(
        engine,
        state="in use" if in_use else "idle",
        in_use=in_use,
        created=created / 1e9 if created else None,
        stats=stats,
        findings=tuple(diagnose(stats, config_of(memory)) if deep else liveness(stats)),
    )


# ---- what its state means ----


def _explained(engine: HostEngine) -> HostEngine:
    if engine.state == "in use":
        return engine
    state = _of_state(engine)
    if state.problem:  # it explains the others
        return dataclasses.replace(engine, findings=(state,))
    return dataclasses.replace(engine, findings=(*engine.findings, state))


def _of_state(engine: HostEngine) -> Finding:
    name, destroy = engine.name, f"sona destroy {engine.name}"
    match engine.state:
        case "idle" if _PRIVATE.fullmatch(name):
            return Finding(name, "a stand-alone loop that was killed left it", destroy, True)
        case "idle":
            remedy = f"sona learner {name}, or {destroy}"
            return Finding(name, "nobody uses it", remedy, False)
        case "half-made":
            return Finding(name, "its creator died before it was ready", destroy, True)
        case "being made":
            text = f"a process of {engine.owner} creates or removes it at this moment"
            return Finding(name, text, f"sona doctor {name}", False)
        case "no access":
            return Finding(name, engine.detail, f"sudo -u {engine.owner} sona doctor {name}", False)
        case "leftover":
            files = " ".join(str(SHARED_MEMORY / file) for file in engine.files)
            remedy = "sona destroy --dead" if engine.ours else f"sudo rm {files}"
            return Finding(name, f"parts without an engine: {files}", remedy, True)
        case _:
            remedy = f"stop its processes, then {destroy}" if engine.in_use else destroy
            return Finding(name, engine.detail, remedy, True)
