"""Looks at one engine again and again, and finds it again when it was destroyed or replaced."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import time
from typing import Final

from sona_shm.engine import Engine
from sona_shm.errors import SonaError
from sona_shm.monitor.stats import EngineStats
from sona_shm.shm.names import names_of
from sona_shm.web.patterns import PatternPoint, pattern_points

logger = logging.getLogger("sona_shm.web")
_SHM: Final = "/dev/shm"  # where Linux keeps POSIX shared memory


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
    reason : str or None
        Why there is none.
    max_workers : int
        Lanes that the engine has; 0 where there is none.
    shm_free_bytes, shm_total_bytes : int
        Of the host.
    """

    time: float
    clock: float
    attachment: int
    stats: EngineStats | None
    reason: str | None
    max_workers: int
    shm_free_bytes: int
    shm_total_bytes: int

    @property
    def trouble(self) -> str | None:
        """Why nothing is learned now; None where a learner lives, or one stands by."""
        if self.stats is None:
            return self.reason
        if self.stats.learner_alive or self.stats.standby_alive:
            return None
        name = self.stats.name
        return f"the engine {name!r} has no living learner; start one: sona learner {name}"


class EngineWatch:
    """Looks at the engine of a name; for one thread at a time.

    Attaches like a worker, but never records, so it takes no lane and writes nothing.

    Parameters
    ----------
    name : str

    Raises
    ------
    ConfigError
        If no engine can be called so.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._engine: Engine | None = None
        self._attachment = 0
        self._reason: str | None = None
        names_of(name)

    def look(self) -> Look:
        """Look now; an engine that is gone is no error, but a look with a reason."""
        stats = self._stats()
        engine = self._engine
        shm = os.statvfs(_SHM)
        return Look(
            time=time.time(),
            clock=time.monotonic(),
            attachment=self._attachment,
            stats=stats,
            reason=self._reason,
            max_workers=engine.config.max_workers if engine is not None else 0,
            shm_free_bytes=shm.f_bavail * shm.f_frsize,
            shm_total_bytes=shm.f_blocks * shm.f_frsize,
        )

    def patterns(self, look: Look) -> list[PatternPoint]:
        """The learned patterns in two dimensions, beside the latest look."""
        if look.stats is None or self._engine is None:
            return []
        bank, config = self._engine.reasoning_bank(), self._engine.config
        return pattern_points(bank, config, look.stats.routes)

    def close(self) -> None:
        """Let the engine's memory go."""
        if self._engine is not None:
            with contextlib.suppress(SonaError):
                self._engine.close()
            self._engine = None

    def _stats(self) -> EngineStats | None:
        """Of the engine that has the name now: the second attempt is for one that was replaced."""
        for _ in range(2):
            attached = self._engine is not None
            try:
                stats = self._attached().stats()
            except Exception as error:  # a monitor that gives up looking is of no use
                self.close()
                expected = isinstance(error, SonaError)
                self._tell(str(error) if expected else f"a look failed: {error!r}")
                if not attached:
                    break
            else:
                self._tell(None)
                return stats
        return None

    def _attached(self) -> Engine:
        if self._engine is None:
            self._engine = Engine.attach(self.name, timeout=0.0)
            self._attachment += 1
        return self._engine

    def _tell(self, reason: str | None) -> None:
        """Log what has changed."""
        if reason is None and self._reason is not None:
            logger.info("the engine %r is there", self.name)
        elif reason is not None and reason != self._reason:
            logger.warning("%s", reason)
        self._reason = reason
