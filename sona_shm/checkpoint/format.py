"""The file: a safetensors file that any reader of that format can open, with a checked header.

The header's metadata, all of them strings, are::

    format         "sona_shm checkpoint 1"
    layout         number of the memory layout that the tensors follow
    sha256         of the whole file, with these 64 digits taken as zeros
    engine, time_ns, version, routes, geometry     for people and programs
    config, counts                                 JSON, what `EngineState` has

Every byte is under the checksum, and it is compared before anything else is made of the file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO, Final

import safetensors.numpy

from sona_shm.checkpoint.state import Counts, EngineState
from sona_shm.checkpoint.validate import Unsound, check_state
from sona_shm.config import SonaConfig
from sona_shm.errors import CheckpointError, ConfigError
from sona_shm.shm.layout import LAYOUT_VERSION

FORMAT: Final = "sona_shm checkpoint 1"
_LENGTH_BYTES: Final = 8
#: A header has some dozens of tensors and a line for each route.
_LARGEST_HEADER: Final = 1 << 22
_NO_DIGEST: Final = "0" * 64


@dataclasses.dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a valid file holds.

    Attributes
    ----------
    path : Path
    state : EngineState
    engine : str
        Name of the engine that it was taken from.
    time_ns : int
        When, in nanoseconds since 1970.
    """

    path: Path
    state: EngineState
    engine: str
    time_ns: int


# ---- writing ----


def encode(state: EngineState, engine: str, time_ns: int) -> bytes:
    """The bytes of a checkpoint file."""
    metadata = {
        "format": FORMAT,
        "layout": str(LAYOUT_VERSION),
        "sha256": _NO_DIGEST,
        "engine": engine,
        "time_ns": str(time_ns),
        "version": str(state.version),
        "routes": json.dumps([row.name for row in state.routes]),
        "geometry": json.dumps(state.config.geometry()._asdict()),
        "config": json.dumps(state.config.to_mapping()),
        "counts": json.dumps(state.counts._asdict()),
    }
    data = bytearray(safetensors.numpy.save(state.tensors, metadata))
    digest = hashlib.sha256(data).hexdigest().encode()
    at = data.index(_NO_DIGEST.encode())
    data[at : at + len(digest)] = digest
    return bytes(data)


# ---- reading ----


def read_checkpoint(path: Path) -> Checkpoint:
    """Read and check a file.

    Raises
    ------
    CheckpointError
        With the file's name, what was found and what was expected.
    """
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Unsound("it is no regular file")
            return _read(path, file)
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error.strerror}") from None
    except Unsound as reason:
        raise CheckpointError(
            f"{path} is no checkpoint that can be restored: {reason}; restore an older one"
        ) from None


def _open_at_once(path: str, flags: int) -> int:
    """Without waiting for the other end, which a pipe may never get."""
    return os.open(path, flags | os.O_NONBLOCK)


def _read(path: Path, file: BinaryIO) -> Checkpoint:
    head = _read_head(file)
    metadata = _metadata(head[_LENGTH_BYTES:])
    if metadata.get("format") != FORMAT:
        raise Unsound(f"its format is {metadata.get('format')!r}, expected {FORMAT!r}")
    data = head + file.read()
    _check_digest(data, metadata.get("sha256", ""), len(head))
    if metadata.get("layout") != str(LAYOUT_VERSION):
        raise Unsound(
            f"it has memory layout {metadata.get('layout')}, this package has {LAYOUT_VERSION}; "
            "use the package that wrote it"
        )
    checkpoint = _decode(path, data, metadata)
    check_state(checkpoint.state)
    return checkpoint


def _read_head(file: BinaryIO) -> bytes:
    """The length of the header, and the header; nothing is believed that the file does not hold."""
    prefix = file.read(_LENGTH_BYTES)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < _LENGTH_BYTES or length > _LARGEST_HEADER:
        raise Unsound(
            f"its header claims {length:,} bytes, expected at most {_LARGEST_HEADER:,} and a file "
            "in the safetensors format"
        )
    header = file.read(length)
    if len(header) < length:
        raise Unsound(f"it ends in its header, after {len(header):,} of {length:,} bytes")
    return prefix + header


def _metadata(header: bytes) -> dict[str, str]:
    try:
        parsed = json.loads(header)
    except (ValueError, RecursionError):
        raise Unsound("its header is no JSON, expected the safetensors format") from None
    metadata = parsed.get("__metadata__") if isinstance(parsed, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise Unsound("its header has no metadata, expected those of a checkpoint")
    return metadata


def _check_digest(data: bytes, digest: str, head: int) -> None:
    sound = digest.isascii() and len(digest) == len(_NO_DIGEST)
    at = data.find(digest.encode(), 0, head) if sound else -1
    blank = data[:at] + _NO_DIGEST.encode() + data[at + len(_NO_DIGEST) :]
    if at < 0 or hashlib.sha256(blank).hexdigest() != digest:
        raise Unsound(
            f"its checksum does not fit its {len(data):,} bytes: it was cut off or changed after "
            "it was written"
        )


def _decode(path: Path, data: bytes, metadata: dict[str, str]) -> Checkpoint:
    try:
        config = SonaConfig.from_mapping(json.loads(metadata["config"]))
        counts = _counts(json.loads(metadata["counts"]))
        state = EngineState(config, dict(safetensors.numpy.load(data)), counts)
        return Checkpoint(path, state, metadata["engine"], _time(metadata["time_ns"]))
    except ConfigError as error:
        raise Unsound(f"its configuration cannot be: {error}") from None
    except (KeyError, ValueError, TypeError, RecursionError, safetensors.SafetensorError) as error:
        raise Unsound(f"its header cannot be read: {error!r}") from None


def _time(text: str) -> int:
    time_ns = int(text)
    if not 0 <= time_ns < 1 << 63:
        raise ValueError(f"the time is {text}, expected nanoseconds since 1970")
    return time_ns


def _counts(values: Any) -> Counts:
    counts = Counts(**values)
    if not all(isinstance(count, int) for count in counts):
        raise ValueError(f"counts are {counts}, expected integers")
    return counts
