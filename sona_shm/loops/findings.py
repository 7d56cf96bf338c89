"""Findings of a cycle as bytes, from one process to another."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Mapping
from typing import Any, Final

import msgpack
import numpy as np
from numpy.typing import NDArray

from sona_shm import _core
from sona_shm.learning.heads import HeadRefit
from sona_shm.learning.projection import Projection
from sona_shm.learning.reasoning_bank import PatternFit
from sona_shm.loops.cycle import TIMED, Findings
from sona_shm.shm.layout import Geometry

HEADER: Final = struct.Struct("<8sQI")
_MAGIC: Final = b"SONALEAR"
_COUNTS: Final = ("rows", "refits", "found", "pruned", "merged")


class BadFindings(Exception):
    """Bytes that are no findings for this engine."""


def encode(findings: Findings) -> bytes:
    """A header with length and checksum, then msgpack."""
    fit = findings.fit
    arrays = None
    if fit is not None:
        parts = (fit.projection.matrix, fit.projection.offset, fit.full_centroids)
        arrays = [part.tobytes() for part in parts] + [fit.sizes.astype("<i8").tobytes()]
    heads = {
        route: [head.rows, head.improvement, None if head.change is None else head.change.tobytes()]
        for route, head in findings.heads.items()
    }
    counts = {name: getattr(findings, name) for name in (*_COUNTS, "improvement")}
    body: bytes = msgpack.packb(
        counts | {"fit": arrays, "heads": heads, "seconds": findings.seconds}
    )
    return HEADER.pack(_MAGIC, len(body), zlib.crc32(body)) + body


def body_length(header: bytes, geometry: Geometry) -> int:
    """How many bytes follow a header.

    Raises
    ------
    BadFindings
        If it is none, or names more than findings of this engine can have.
    """
    if len(header) != HEADER.size:
        raise BadFindings("it ended before it had said anything")
    magic, length, _ = HEADER.unpack(header)
    sizes = geometry.sizes()
    most = sizes["slow_bytes"] + geometry.routes * (4 * geometry.hidden_dim + 64) + 4096
    if magic != _MAGIC or length > most:
        raise BadFindings(f"its answer begins with {header!r}, expected at most {most} bytes")
    return int(length)


def decode(header: bytes, body: bytes, geometry: Geometry) -> Findings:
    """The findings, with every shape and every number checked.

    Raises
    ------
    BadFindings
        If something is missing, of another shape, or not finite.
    """
    _, length, checksum = HEADER.unpack(header)
    if len(body) != length or zlib.crc32(body) != checksum:
        raise BadFindings(f"its answer of {length} bytes is torn or fails its checksum")
    try:
        values = msgpack.unpackb(body, strict_map_key=False)
        return Findings(
            **{name: _count(values[name]) for name in _COUNTS},
            improvement=_number(values["improvement"]),
            fit=None if values["fit"] is None else _fit(values["fit"], geometry),
            heads=_heads(values["heads"], geometry),
            seconds={
                part: _number(values["seconds"][part]) for part in TIMED & set(values["seconds"])
            },
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadFindings(f"its answer cannot be read: {error!r}") from None


def _count(value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value < 2**63:
        raise ValueError(f"{value!r} is no count")
    return value


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} is not finite")
    return number


def _floats(data: bytes, *shape: int) -> NDArray[np.float32]:
    array = np.frombuffer(data, "<f4").reshape(shape)
    if not np.isfinite(array).all():
        raise ValueError("not finite")
    return array


def _fit(parts: list[bytes], geometry: Geometry) -> PatternFit:
    matrix, offset, full_centroids, sizes = parts
    count, n = len(sizes) // 8, geometry.hidden_dim
    if not 1 <= count <= geometry.patterns:
        raise ValueError(f"{count} patterns")
    projection = Projection(_floats(matrix, _core.PROJECTED, n), _floats(offset, _core.PROJECTED))
    full = _floats(full_centroids, count, n)
    return PatternFit(projection, projection.project(full), full, np.frombuffer(sizes, "<i8"))


def _heads(heads: Mapping[Any, Any], geometry: Geometry) -> dict[int, HeadRefit]:
    found = {}
    for route, (rows, improvement, change) in heads.items():
        if not isinstance(route, int) or not 0 <= route < geometry.routes:
            raise ValueError(f"{route!r} is no route")
        weights = None if change is None else _floats(change, geometry.hidden_dim)
        found[route] = HeadRefit(_count(rows), _number(improvement), weights)
    return found
