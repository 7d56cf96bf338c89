"""Reading a journal."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgpack
import numpy as np
from numpy.typing import NDArray

from sona_shm.errors import JournalError
from sona_shm.journal.format import FORMAT, PATTERN, VERSION

#: Lengths in a file are believed up to its size; those of a file cut short are larger than that.
_ROOM: Final = 2**20


@dataclasses.dataclass(frozen=True, eq=False)
class Journal:
    """Decisions in the order of time, each with its outcome where there is one.

    Attributes
    ----------
    header : dict
        Of the newest file: the engine's settings, and its routes as they were last.
    id : numpy.ndarray of uint64, shape (n,)
    time_ns : numpy.ndarray of uint64, shape (n,)
    version : numpy.ndarray of uint64, shape (n,)
        Of the weights that decided.
    route : numpy.ndarray of int64, shape (n,)
        Index of the chosen route.
    propensity : numpy.ndarray of float64, shape (n,)
    allowed : numpy.ndarray of bool, shape (n, routes)
        The routes that were considered.
    embedding : numpy.ndarray of float32, shape (n, hidden_dim)
    quality, reward : numpy.ndarray of float64, shape (n,)
        NaN where there was no outcome.
    files : int
    torn : int
        Files that end in the middle of a batch: their writer was killed, or the disk was full.
    corrupt : int
        Batches that fail their checksum, and rests of files that are no journal.
    duplicates : int
        Records that were written twice: by a learner, and again by its successor.
    orphans : int
        Outcomes whose decision is not in the journal.

    Examples
    --------
    >>> import sona_shm as sona, tempfile
    >>> config = sona.SonaConfig(hidden_dim=2, routes=[sona.Route("a"), sona.Route("b")])
    >>> directory = tempfile.mkdtemp()
    >>> with sona.Engine.create("doc-journal", config, "inline", journal=directory) as engine:
    ...     _ = engine.feedback(engine.route([1.0, 0.0]).id, 0.75)
    >>> sona.Engine.destroy("doc-journal")
    >>> read_journal(directory).quality
    array([0.75])
    """

    header: dict[str, Any]
    id: NDArray[np.uint64]
    time_ns: NDArray[np.uint64]
    version: NDArray[np.uint64]
    route: NDArray[np.int64]
    propensity: NDArray[np.float64]
    allowed: NDArray[np.bool_]
    embedding: NDArray[np.float32]
    quality: NDArray[np.float64]
    reward: NDArray[np.float64]
    files: int
    torn: int
    corrupt: int
    duplicates: int
    orphans: int

    def __len__(self) -> int:
        return len(self.id)


@dataclasses.dataclass
class _Found:
    header: dict[str, Any] = dataclasses.field(default_factory=dict)
    decisions: dict[int, list[Any]] = dataclasses.field(default_factory=dict)
    outcomes: dict[int, list[Any]] = dataclasses.field(default_factory=dict)
    torn: int = 0
    corrupt: int = 0
    duplicates: int = 0

    def keep(self, record: list[Any]) -> None:
        if record[0] == "routes":
            self.header["routes"] = record[1]
            return
        table = self.decisions if record[0] == "decision" else self.outcomes
        if record[1] in table:
            self.duplicates += 1
        else:
            table[record[1]] = record


def read_journal(path: str | Path) -> Journal:
    """Read a journal file, or all files of a directory.

    Parameters
    ----------
    path : str or Path

    Raises
    ------
    JournalError
        If there is none, or one of another format or embedding length.

    Examples
    --------
    >>> read_journal("nowhere")
    Traceback (most recent call last):
        ...
    sona_shm.errors.JournalError: there is no journal in nowhere; expected a file, or a \
directory with files journal-*.msgpack
    """
    path = Path(path)
    files = sorted(path.glob(PATTERN)) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise JournalError(
            f"there is no journal in {path}; expected a file, or a directory with files {PATTERN}"
        )
    found = _Found()
    for file in files:
        for record in _records(file, found):
            found.keep(record)
    if not found.header:
        raise JournalError(
            f"{path} holds no journal: none of {len(files)} files begins with a whole header; "
            "expected what a learner with --journal has written"
        )
    return _join(found, len(files))


def _records(file: Path, found: _Found) -> Iterator[list[Any]]:
    """The records of one file; what is broken is counted."""
    with file.open("rb") as stream:
        size = file.stat().st_size
        unpacker = msgpack.Unpacker(stream, max_buffer_size=max(size, _ROOM))
        whole = 0  # bytes of complete objects
        try:
            for position, pair in enumerate(unpacker):
                whole = unpacker.tell()
                if position == 0:
                    _check_header(file, pair)
                    found.header = pair
                    continue
                yield from _batch(pair, found)
        except (msgpack.UnpackException, ValueError, TypeError) as error:
            if isinstance(error, JournalError):
                raise
            found.corrupt += 1
            return
        if whole < size:
            found.torn += 1


def _check_header(file: Path, header: Any) -> None:
    known = isinstance(header, dict) and header.get("format") == FORMAT
    if not known or header.get("version") != VERSION:
        raise JournalError(
            f"{file} is no journal of version {VERSION}; it begins with {str(header)[:60]!r}"
        )


def _batch(pair: Any, found: _Found) -> list[list[Any]]:
    sound = (
        isinstance(pair, list)
        and len(pair) == 2
        and isinstance(pair[1], bytes)
        and zlib.crc32(pair[1]) == pair[0]
    )
    if not sound:
        found.corrupt += 1
        return []
    unpacker = msgpack.Unpacker(max_buffer_size=max(len(pair[1]), _ROOM))
    unpacker.feed(pair[1])
    return list(unpacker)


def _join(found: _Found, files: int) -> Journal:
    decisions = sorted(found.decisions.values(), key=lambda record: (record[2], record[1]))
    lengths = {len(record[7]) for record in decisions}
    if len(lengths) > 1:
        raise JournalError(
            f"the journal holds embeddings of {sorted(n // 4 for n in lengths)} dimensions, "
            "expected those of one engine; give each engine a directory of its own"
        )
    routes = len(found.header.get("routes", ()))
    columns: list[Any] = list(zip(*decisions, strict=True)) or [()] * 8
    outcomes = [found.outcomes.get(record[1]) for record in decisions]
    return Journal(
        header=found.header,
        id=np.array(columns[1], np.uint64),
        time_ns=np.array(columns[2], np.uint64),
        version=np.array(columns[3], np.uint64),
        route=np.array(columns[4], np.int64),
        propensity=np.array(columns[5], np.float64),
        allowed=_bits(columns[6], routes),
        embedding=np.frombuffer(b"".join(columns[7]), "<f4").reshape(len(decisions), -1)
        if decisions
        else np.zeros((0, 0), np.float32),
        quality=np.array([np.nan if o is None else o[4] for o in outcomes], np.float64),
        reward=np.array([np.nan if o is None else o[5] for o in outcomes], np.float64),
        files=files,
        torn=found.torn,
        corrupt=found.corrupt,
        duplicates=found.duplicates,
        orphans=len(found.outcomes.keys() - found.decisions.keys()),
    )


def _bits(masks: Any, routes: int) -> NDArray[np.bool_]:
    if not len(masks):
        return np.zeros((0, routes), np.bool_)
    rows = np.frombuffer(b"".join(masks), np.uint8).reshape(len(masks), -1)
    bits = np.unpackbits(rows, axis=1, bitorder="little").astype(np.bool_)
    return bits[:, :routes]
