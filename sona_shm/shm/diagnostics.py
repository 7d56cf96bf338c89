"""Distinct errors of all processes of an engine, which anybody can read after they died.

A small table in the control segment; ``_core/layout.h`` says which word means what.  An entry is
one place and one kind of error, however often it comes: how often, when first, when last, and how
it read.  Writers never wait.  One that dies half-way leaves an entry without a text, which the
next error of that kind completes.
"""

from __future__ import annotations

import dataclasses
import os
import time
import zlib
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from sona_shm import _core
from sona_shm.errors import EngineClosed
from sona_shm.shm.layout import OFFSETS

if TYPE_CHECKING:
    from sona_shm.shm.memory import EngineMemory

_UNLISTED: Final = OFFSETS["control_header.errors_unlisted"]
_FIELDS: Final = ("key", "count", "first_ns", "last_ns", "pid")


@dataclasses.dataclass(frozen=True, slots=True)
class NotedError:
    """An error of some process of an engine, and how often it came.

    Attributes
    ----------
    where : str
        What was being done, such as ``feedback`` or ``refit``.
    what : str
        Kind and message, as it first read; cut off after some 400 bytes.
    count : int
        How often an error of this kind came there.
    first_ns, last_ns : int
        When, in nanoseconds since 1970.
    pid : int
        Of the process where it came last, for people only.

    Examples
    --------
    >>> import sona_shm as sona
    >>> config = sona.SonaConfig(hidden_dim=2, routes=[sona.Route("a"), sona.Route("b")])
    >>> with sona.Engine.create("doc-noted", config) as engine:
    ...     for quality in (1.5, 2.0):
    ...         try:
    ...             engine.feedback(7, quality)
    ...         except sona.OutOfRangeError:
    ...             pass
    ...     [noted] = engine.stats().errors
    >>> noted.where, noted.what, noted.count
    ('feedback', 'OutOfRangeError: quality is 1.5, expected a number in [0, 1]', 2)
    >>> sona.Engine.destroy("doc-noted")
    """

    where: str
    what: str
    count: int
    first_ns: int
    last_ns: int
    pid: int


class ErrorTable:
    """The errors of one engine.

    Parameters
    ----------
    memory : EngineMemory
    """

    def __init__(self, memory: EngineMemory) -> None:
        self._memory = memory
        self._start = memory.sizes["errors_offset"]

    def note(self, where: str, error: BaseException | str) -> None:
        """Count an error, whose kind is its type, or all of its text; never raises for it."""
        kind = error if isinstance(error, str) else type(error).__name__
        what = error if isinstance(error, str) else f"{kind}: {error}"
        digest = blake2b(f"{where}\0{kind}".encode("utf-8", "replace"), digest_size=8).digest()
        try:
            self._count(int.from_bytes(digest, "little") or 1, f"{where}\0{what}")
        except EngineClosed:
            return  # nobody can write there any more

    def _count(self, key: int, text: str) -> None:
        control = self._memory.control
        for i in range(_core.ERROR_ENTRIES):
            start = self._entry((key + i) % _core.ERROR_ENTRIES)
            if control.first(start + OFFSETS["error_entry.key"], key) == key:
                break
        else:
            control.add(_UNLISTED, 1)
            return
        now = time.time_ns()
        control.first(start + OFFSETS["error_entry.first_ns"], now)
        control.store(start + OFFSETS["error_entry.last_ns"], now)
        control.store(start + OFFSETS["error_entry.pid"], os.getpid())
        control.add(start + OFFSETS["error_entry.count"], 1)
        if self._text(start) is None:
            self._write(start, text.encode("utf-8", "replace")[: _core.ERROR_TEXT_BYTES])

    def _entry(self, index: int) -> int:
        return self._start + index * _core.ERROR_ENTRY_BYTES

    def _write(self, start: int, text: bytes) -> None:
        at = start + OFFSETS["error_entry.text"]
        self._memory.buffer("control")[at : at + len(text)] = text
        self._memory.control.store(start + OFFSETS["error_entry.text_mark"], _mark(text))

    def _text(self, start: int) -> bytes | None:
        """What an entry says; None where that was never completed, or is just being written."""
        mark = self._memory.control.load(start + OFFSETS["error_entry.text_mark"])
        at = start + OFFSETS["error_entry.text"]
        length = min(mark >> 32, _core.ERROR_TEXT_BYTES)
        text = bytes(self._memory.buffer("control")[at : at + length])
        return text if text and _mark(text) == mark else None

    def entries(self) -> list[NotedError]:
        """All that were noted, the latest first."""
        load = self._memory.control.load
        found = []
        for i in range(_core.ERROR_ENTRIES):
            start = self._entry(i)
            words = {field: load(start + OFFSETS[f"error_entry.{field}"]) for field in _FIELDS}
            if words.pop("key") == 0 or words["count"] == 0:
                continue
            text = (self._text(start) or b"").decode("utf-8", "replace")
            where, _, what = text.partition("\0")
            found.append(NotedError(where, what, **words))
        return sorted(found, key=lambda noted: noted.last_ns, reverse=True)

    @property
    def unlisted(self) -> int:
        """Errors for whose kind the table had no room."""
        return self._memory.control.load(_UNLISTED)


def _mark(text: bytes) -> int:
    return len(text) << 32 | zlib.crc32(text)
