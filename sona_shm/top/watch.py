"""Looks at one name again and again, whatever becomes of the engine."""

from __future__ import annotations

import dataclasses
import time
from types import TracebackType
from typing import Any

from sona_shm.engine import Engine
from sona_shm.errors import SonaError
from sona_shm.monitor.rates import Rates
from sona_shm.monitor.stats import EngineStats


@dataclasses.dataclass(frozen=True, slots=True)
class Look:
    """One look: statistics, or the reason why there are none.

    Attributes
    ----------
    stats : EngineStats or None
    rates : Rates or None
        Since the look before, if that one had found an engine.
    problem : str
        Empty, or why there are no statistics.

    Examples
    --------
    >>> Look(None, None, "no engine").to_mapping()
    {'problem': 'no engine'}
    """

    stats: EngineStats | None
    rates: Rates | None
    problem: str = ""

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON.

        Examples
        --------
        >>> import sona_shm as sona
        >>> with sona.Engine.create("doc-look", sona.SonaConfig(hidden_dim=2)) as engine:
        ...     Look(engine.stats(), None).to_mapping()["rates"]
        >>> sona.Engine.destroy("doc-look")
        """
        if self.stats is None:
            return {"problem": self.problem}
        rates = None if self.rates is None else self.rates.to_mapping()
        return self.stats.to_mapping() | {"rates": rates}


class Watch:
    """Attached to an engine as long as there is one, and to the next one of that name after it.

    Only reads, and never takes a lane.

    Parameters
    ----------
    name : str

    Raises
    ------
    SonaError
        If there is no such engine to begin with, or it cannot be attached to.

    Examples
    --------
    >>> import sona_shm as sona
    >>> sona.Engine.create("doc-watch", sona.SonaConfig(hidden_dim=2)).close()
    >>> with Watch("doc-watch") as watch:
    ...     found = watch.look()
    ...     sona.Engine.destroy("doc-watch")
    ...     lost = watch.look()
    >>> found.problem, lost.stats
    ('', None)
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._engine: Engine | None = Engine.attach(name, timeout=0.0)
        self._last: tuple[EngineStats, float] | None = None

    def look(self) -> Look:
        """Read everything once; attach first where the former engine is gone."""
        try:
            if self._engine is None:
                self._engine = Engine.attach(self.name, timeout=0.0)
            stats = self._engine.stats()
        except SonaError as error:
            self.close()
            return Look(None, None, str(error))
        now, last = time.monotonic(), self._last
        self._last = stats, now
        return Look(stats, None if last is None else Rates.between(last[0], stats, now - last[1]))

    def close(self) -> None:
        """Let go of the engine; the next look attaches again."""
        self._last = None
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
