"""What a journal file holds.

A file is a stream of msgpack objects, which any msgpack reader can go through:

* first a map, the header: ``format``, ``version``, the engine's name and settings, its routes;
* then pairs ``[crc32, bytes]``.  The bytes are msgpack objects again, one for each record, and the
  checksum is theirs.

A record is a list that begins with its kind:

* ``["decision", id, time_ns, version, route, propensity, allowed, embedding]``: ``allowed`` are
  bytes, a bit for each route, ``embedding`` bytes of little-endian float32;
* ``["outcome", id, time_ns, route, quality, reward, latency_us, tokens]``: 0 where not known;
* ``["routes", [{"name": ..., "cost": ..., "active": ...}, ...]]``, where they change.

A writer that is killed leaves at most one pair unfinished, at the end of its file.
"""

from __future__ import annotations

from typing import Final

import numpy as np

FORMAT: Final = "sona_shm journal"
VERSION: Final = 1
PATTERN: Final = "journal-*.msgpack"


def decision_dtype(hidden_dim: int, allowed_words: int) -> np.dtype[np.void]:
    """A decision as the compiled core gathers it.

    Examples
    --------
    >>> decision_dtype(4, 1).itemsize
    56
    """
    return np.dtype(
        [
            ("id", "<u8"),
            ("time_ns", "<u8"),
            ("version", "<u8"),
            ("route", "<u4"),
            ("propensity", "<f4"),
            ("allowed", "<u8", (allowed_words,)),
            ("embedding", "<f4", (hidden_dim,)),
        ]
    )


def outcome_dtype() -> np.dtype[np.void]:
    """An outcome as the compiled core gathers it.

    Examples
    --------
    >>> outcome_dtype().itemsize
    40
    """
    return np.dtype(
        [
            ("id", "<u8"),
            ("time_ns", "<u8"),
            ("latency_us", "<u8"),
            ("route", "<u4"),
            ("tokens", "<u4"),
            ("quality", "<f4"),
            ("reward", "<f4"),
        ]
    )
