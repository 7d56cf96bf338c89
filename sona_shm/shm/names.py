"""Names of engines and of what belongs to one in the shared-memory namespace."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

from sona_shm.errors import ConfigError

#: Where Linux keeps shared memory and, with glibc, semaphores.
SHARED_MEMORY: Final = Path("/dev/shm")
# "/sona-" + name + ".c" stays within the 30 characters that every POSIX system allows.
MAX_NAME: Final = 22
_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9_-]*"
_VALID: Final = re.compile(_NAME)
_FILE: Final = re.compile(rf"sona-({_NAME})\.[crwl]|sem\.sona-({_NAME})\.s")


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
        """Control, ring and weights."""
        return (self.control, self.ring, self.weights)

    @property
    def semaphore_file(self) -> Path:
        """The file of the semaphore."""
        return SHARED_MEMORY / f"sem.{self.semaphore[1:]}"

    @property
    def files(self) -> tuple[Path, Path, Path, Path]:
        """In the order of unlinking: without the first, the engine is gone for everybody."""
        control, ring, weights = map(file_of, self.segments)
        return (control, self.semaphore_file, ring, weights)


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


def file_of(segment: str) -> Path:
    """The file of a segment or of a life cycle's lock."""
    return SHARED_MEMORY / segment[1:]


def engine_of(file: str) -> str | None:
    """The engine that a file in ``/dev/shm`` is a part of, by the file's name; None if of none.

    Examples
    --------
    >>> engine_of("sona-router.c"), engine_of("sem.sona-router.s"), engine_of("sona-router.txt")
    ('router', 'router', None)
    """
    found = _FILE.fullmatch(file)
    engine: str | None = found and (found[1] or found[2])
    return engine if engine and len(engine) <= MAX_NAME else None
