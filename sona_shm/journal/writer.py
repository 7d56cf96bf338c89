"""Writing a journal."""

from __future__ import annotations

import itertools
import logging
import os
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgpack
import numpy as np
from numpy.typing import NDArray

from sona_shm.errors import JournalError
from sona_shm.journal.format import FORMAT, VERSION

logger = logging.getLogger("sona_shm.learner")
_NUMBERS: Final = itertools.count()


class JournalWriter:
    """Appends batches of records to files of one directory.

    Every writer begins a file of its own, so what a killed one left unfinished is always the end
    of a file.  A batch is one write; it survives the death of the process at once, and that of the
    machine after the next sync.  A batch that cannot be written (a full disk) is counted and
    dropped, and the next one begins a new file: learning goes on.

    Parameters
    ----------
    directory : Path
        Made if it does not exist.
    header : mapping
        What a reader should know: plain values.
    rotate_bytes : int
        A file that has grown beyond this is closed and a new one begun.
    fsync_seconds : float
        Sync at most this often.

    Attributes
    ----------
    written, dropped : int
        Records.

    Raises
    ------
    JournalError
        If the directory cannot be written to.

    Examples
    --------
    >>> import tempfile
    >>> directory = Path(tempfile.mkdtemp())
    >>> with JournalWriter(directory, {"engine": "doc"}) as writer:
    ...     writer.append_routes([{"name": "a", "cost": 0.0, "active": True}])
    >>> len(list(directory.iterdir()))
    1
    """

    def __init__(
        self,
        directory: Path,
        header: Mapping[str, Any],
        *,
        rotate_bytes: int = 64 * 2**20,
        fsync_seconds: float = 1.0,
    ) -> None:
        self._directory = directory
        self._header = {"format": FORMAT, "version": VERSION} | dict(header)
        self._rotate_bytes = rotate_bytes
        self._fsync_seconds = fsync_seconds
        self._file = -1
        self._size = 0
        self._synced = time.monotonic()
        self._pack = msgpack.Packer(autoreset=False)
        self.written = self.dropped = 0
        self.last_error: OSError | None = None
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._begin_file()
        except OSError as error:
            raise JournalError(f"cannot write a journal in {directory}: {error}") from None

    def append(self, decisions: NDArray[np.void], outcomes: NDArray[np.void]) -> None:
        """Write a batch of rows as `decision_dtype` and `outcome_dtype` describe them.

        Examples
        --------
        >>> import tempfile
        >>> from sona_shm.journal.format import decision_dtype, outcome_dtype
        >>> with JournalWriter(Path(tempfile.mkdtemp()), {}) as writer:
        ...     writer.append(np.zeros(2, decision_dtype(4, 1)), np.zeros(1, outcome_dtype()))
        ...     writer.written
        3
        """
        records: list[Sequence[Any]] = [
            ("decision", *row, allowed.tobytes(), embedding.tobytes())
            for row, allowed, embedding in zip(
                decisions[["id", "time_ns", "version", "route", "propensity"]].tolist(),
                decisions["allowed"],
                decisions["embedding"],
                strict=True,
            )
        ]
        fields = ["id", "time_ns", "route", "quality", "reward", "latency_us", "tokens"]
        records.extend(("outcome", *row) for row in outcomes[fields].tolist())
        self._write_batch(records)

    def append_routes(self, routes: Sequence[Mapping[str, Any]]) -> None:
        """Write the routes as they are from now on; later files begin with them.

        Examples
        --------
        >>> import tempfile
        >>> with JournalWriter(Path(tempfile.mkdtemp()), {}) as writer:
        ...     writer.append_routes([{"name": "a", "cost": 0.1, "active": True}])
        """
        self._header["routes"] = [dict(route) for route in routes]
        self._write_batch([("routes", self._header["routes"])])

    def _write_batch(self, records: list[Sequence[Any]]) -> None:
        for record in records:
            self._pack.pack(record)
        payload = self._pack.bytes()
        self._pack.reset()
        try:
            if self._file < 0 or self._size > self._rotate_bytes:
                self._begin_file()
            self._write(msgpack.packb([zlib.crc32(payload), payload]))
            self.written += len(records)
            if time.monotonic() - self._synced >= self._fsync_seconds:
                self.sync()
        except OSError as error:
            self.dropped += len(records)
            self.last_error = error
            self._abandon_file()
            logger.error("%d records were not journaled: %s", len(records), error)

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[os.write(self._file, left) :]
        self._size += len(data)

    def _begin_file(self) -> None:
        self._end_file()
        name = f"journal-{time.time_ns():020d}-{os.getpid()}-{next(_NUMBERS)}.msgpack"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(self._directory / name, flags, 0o600)
        self._size = 0
        self._write(msgpack.packb(self._header))

    def sync(self) -> None:
        """Have the disk hold everything written so far.

        Examples
        --------
        >>> import tempfile
        >>> JournalWriter(Path(tempfile.mkdtemp()), {}).sync()
        """
        if self._file >= 0:
            os.fsync(self._file)
        self._synced = time.monotonic()

    def _end_file(self) -> None:
        if self._file >= 0:
            self.sync()
            self._abandon_file()

    def _abandon_file(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def close(self) -> None:
        """Sync and close the file.  Idempotent.

        Examples
        --------
        >>> import tempfile
        >>> JournalWriter(Path(tempfile.mkdtemp()), {}).close()
        """
        try:
            self._end_file()
        except OSError as error:
            self._abandon_file()
            logger.error("the journal was not synced: %s", error)

    def __enter__(self) -> JournalWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
