"""Names of engines and of what belongs to one in the shared-memory namespace."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from sona_shm.errors import ConfigError

# "/sona-" + name + ".c" stays within the 30 characters that every POSIX system allows.
MAX_NAME: Final = 22
_VALID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class Names(NamedTuple):
    """The objects of one engine: three segments, a semaphore, and the lock of its life cycle."""

    engine: str
    control: str
    ring: str
    weights: str
    semaphore: str
    lifecycle: str

    @property
    def segments(self) -> tuple[str, str, str]:
        """In the order of unlinking: without the first, the engine is gone for everybody."""
        return (self.control, self.ring, self.weights)


def names_of(engine: str) -> Names:
    """Validate an engine's name and derive the names of its parts.

    Raises
    ------
    ConfigError
        Names are checked before any system call: a non-ASCII name would leak a segment.
    """
    if not isinstance(engine, str) or not _VALID.fullmatch(engine) or len(engine) > MAX_NAME:
        raise ConfigError(
            f"the engine name is {engine!r}, expected 1 to {MAX_NAME} letters, digits, '-' or '_', "
            "beginning with a letter or digit"
        )
    return Names(engine, *(f"/sona-{engine}.{part}" for part in "crwsl"))
