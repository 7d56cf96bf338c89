"""Names and indices of an engine's routes, as a process knows them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from sona_shm.errors import ConfigError
from sona_shm.learning.snapshot import Snapshot

_WORD_BITS: Final = 64


class RouteTable:
    """A copy of the published names; an index is never given to another route.

    Parameters
    ----------
    snapshot : callable
        Returns the published block.

    Attributes
    ----------
    names : list of str
        By index; grows in `refresh`.
    index : dict of str to int
        The same the other way round; the compiled core reads it.
    """

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot
        self.names: list[str] = []
        self.index: dict[str, int] = {}

    def refresh(self) -> bool:
        """Look at the published routes again; whether there are new ones."""
        rows = self._snapshot().routes()
        new = rows[len(self.names) :]
        for row in new:
            self.index[row.name] = len(self.names)
            self.names.append(row.name)
        return bool(new)

    def name_of(self, index: int) -> str:
        """The name of a route that the core has chosen."""
        if index >= len(self.names):
            self.refresh()
        return self.names[index]

    def index_of(self, route: str | int) -> int:
        """The index of a route given by name or index.

        Raises
        ------
        ConfigError
            If there is none.
        """
        known = self._find(route)
        if known is None and self.refresh():
            known = self._find(route)
        if known is None:
            raise ConfigError(f"no route {route!r}; this engine has {', '.join(self.names)}")
        return known

    def _find(self, route: str | int) -> int | None:
        if isinstance(route, str):
            return self.index.get(route)
        return int(route) if 0 <= route < len(self.names) else None

    def mask(self, routes: Iterable[str | int], words: int) -> bytes:
        """A bit for each of the given routes, in little-endian 64-bit words.

        Raises
        ------
        ConfigError
            If there is no such route, or none is given.
        """
        if isinstance(routes, str):
            raise ConfigError(f"allowed is the string {routes!r}, expected several routes")
        bits = 0
        for route in routes:
            bits |= 1 << self.index_of(route)
        if not bits:
            raise ConfigError("allowed is empty, expected at least one route")
        return bits.to_bytes(words * _WORD_BITS // 8, "little")
