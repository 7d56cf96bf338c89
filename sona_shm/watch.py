"""Looks at the engine of a name again and again, whatever becomes of it: for live views."""

from __future__ import annotations

import dataclasses
import os
import time

from sona_shm.engine import Engine
from sona_shm.errors import SonaError
from sona_shm.monitor.rates import Rates
from sona_shm.monitor.stats import EngineStats
from sona_shm.shm.names import SHARED_MEMORY, names_of


@dataclasses.dataclass(frozen=True, slots=True)
class Look:
    """What was seen of an engine at one moment, or why nothing was.

    Attributes
    ----------
    time : float
        Seconds since 1970.
    clock : float
        Seconds of the monotonic clock.
    attachment : int
        Which engine of that name: one more whenever another one was found.
    stats : EngineStats or None
        None where there is no engine to be seen.
    problem : str
        Why there is none; else empty.
    max_workers : int
        Lanes that the engine has; 0 where there is none.
    shm_free_bytes, shm_total_bytes : int
        Of the host.
    """

    time: float
    clock: float
    attachment: int
    stats: EngineStats | None
    problem: str
    max_workers: int
    shm_free_bytes: int
    shm_total_bytes: int

    @property
    def trouble(self) -> str | None:
        """Why nothing is learned now; None where a learner lives, or one stands by."""
        if self.stats is None:
            return self.problem
        if self.stats.learner_alive or self.stats.standby_alive:
            return None
        name = self.stats.name
        return f"the engine {name!r} has no living learner; start one: sona learner {name}"

    def rates_since(self, before: Look | None) -> Rates | None:
        """What happened each second since an earlier look; None unless both saw one engine."""
        if before is None or before.attachment != self.attachment:
            return None
        if before.stats is None or self.stats is None or self.clock <= before.clock:
            return None
        return Rates.between(before.stats, self.stats, self.clock - before.clock)


class Watch:
    """Attached to an engine as long as there is one, and to the next one of that name after it.

    Only reads, and never takes a lane.  For one thread at a time.

    Parameters
    ----------
    name : str

    Attributes
    ----------
    engine : Engine or None
        The one that the last look has seen.

    Raises
    ------
    ConfigError
        If no engine can be called so.

    Examples
    --------
    >>> import sona_shm as sona
    >>> sona.Engine.create("doc-watch", sona.SonaConfig(hidden_dim=2)).close()
    >>> watch = Watch("doc-watch")
    >>> found = watch.look()
    >>> sona.Engine.destroy("doc-watch")
    >>> lost = watch.look()
    >>> found.problem, lost.stats
    ('', None)
    """

    def __init__(self, name: str) -> None:
        names_of(name)
        self.name = name
        self.engine: Engine | None = None
        self._attachment = 0

    def look(self) -> Look:
        """Look now; an engine that is gone is no error, but a look with a problem."""
        stats, problem = self._stats()
        shm = os.statvfs(SHARED_MEMORY)
        return Look(
            time=time.time(),
            clock=time.monotonic(),
            attachment=self._attachment,
            stats=stats,
            problem=problem,
            max_workers=0 if self.engine is None else self.engine.config.max_workers,
            shm_free_bytes=shm.f_bavail * shm.f_frsize,
            shm_total_bytes=shm.f_blocks * shm.f_frsize,
        )

    def _stats(self) -> tuple[EngineStats | None, str]:
        """Of the engine that has the name now: the second attempt is for one that was replaced."""
        while True:
            was_attached = self.engine is not None
            try:
                return self._attached().stats(), ""
            except Exception as error:  # a monitor that gives up looking is of no use
                self.close()
                if not was_attached:
                    expected = isinstance(error, SonaError)
                    return None, str(error) if expected else f"a look failed: {error!r}"

    def _attached(self) -> Engine:
        if self.engine is None:
            self.engine = Engine.attach(self.name, timeout=0.0)
            self._attachment += 1
        return self.engine

    def close(self) -> None:
        """Let go of the engine; the next look attaches again."""
        if self.engine is not None:
            self.engine.close()
            self.engine = None
