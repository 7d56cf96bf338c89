"""What an engine did per second, between two looks at it."""

from __future__ import annotations

import dataclasses
from typing import Any

from sona_shm.monitor.losses import LOSSES
from sona_shm.monitor.stats import EngineStats


@dataclasses.dataclass(frozen=True, slots=True)
class Rates:
    """Changes per second between two looks at one engine.

    Counters of an engine only grow.  Where one went backwards, another engine has taken the
    name meanwhile, and no difference means anything: every rate is None.

    Attributes
    ----------
    seconds : float
        Between the two looks.
    recorded, decisions, dropped : float or None
        Of all workers, per second.
    outcomes_learned : float or None
        Per second, as published.
    publications : float or None
        Per second.
    mean_reward : float or None
        Of the outcomes learned in between, cost subtracted; None if there were none.
    losses : dict of str to (float or None)
        Per second, the names of `EngineStats.losses`.

    Examples
    --------
    >>> import sona_shm as sona
    >>> config = sona.SonaConfig(hidden_dim=2, routes=[sona.Route("a"), sona.Route("b")])
    >>> with sona.Engine.create("doc-rates", config, learner="inline") as engine:
    ...     before = engine.stats()
    ...     for quality in (0.5, 1.0):
    ...         learned = engine.feedback(engine.route([1.0, 0.0]).id, quality)
    ...     rates = Rates.between(before, engine.stats(), seconds=0.5)
    >>> rates.decisions, rates.outcomes_learned, rates.mean_reward, rates.losses["dropped"]
    (4.0, 4.0, 0.75, 0.0)
    >>> sona.Engine.destroy("doc-rates")
    """

    seconds: float
    recorded: float | None
    decisions: float | None
    dropped: float | None
    outcomes_learned: float | None
    publications: float | None
    mean_reward: float | None
    losses: dict[str, float | None]

    @classmethod
    def between(cls, before: EngineStats, after: EngineStats, seconds: float) -> Rates:
        """Compare two looks, the second of which came `seconds` > 0 later.

        Examples
        --------
        >>> import sona_shm as sona
        >>> with sona.Engine.create("doc-between", sona.SonaConfig(hidden_dim=2)) as engine:
        ...     Rates.between(engine.stats(), engine.stats(), seconds=1.0).recorded
        0.0
        >>> sona.Engine.destroy("doc-between")
        """
        then, now = _counts(before), _counts(after)
        grown = {name: now[name] - then[name] for name in now}
        same_engine = min(grown.values()) >= 0
        rates = {name: count / seconds if same_engine else None for name, count in grown.items()}
        outcomes = grown["outcomes_learned"]
        earned = _earned(after) - _earned(before)
        return cls(
            seconds=seconds,
            recorded=rates["recorded"],
            decisions=rates["decisions"],
            dropped=rates["dropped"],
            outcomes_learned=rates["outcomes_learned"],
            publications=rates["version"],
            mean_reward=earned / outcomes if same_engine and outcomes else None,
            losses={name: rates[name] for name in after.losses},
        )

    @property
    def alarms(self) -> list[str]:
        """Losses that grow and that whoever runs the engine should look into.

        Examples
        --------
        >>> losses = {"dropped": 1.0, "records_lost": 0.0, "feedback_unknown": 1.0}
        >>> Rates(1.0, 2.0, 0.0, 1.0, 2.0, 1.0, None, losses).alarms
        ['dropped']
        """
        return [name for name, rate in self.losses.items() if rate and not LOSSES[name].of_clients]

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON.

        Examples
        --------
        >>> Rates(1.0, 2.0, 0.0, 0.0, 2.0, 1.0, None, {}).to_mapping()["recorded"]
        2.0
        """
        return dataclasses.asdict(self) | {"alarms": self.alarms}


def _counts(stats: EngineStats) -> dict[str, int]:
    """All that only grows while an engine lives."""
    return {
        **stats.losses,
        "recorded": stats.recorded,
        "decisions": stats.decisions,
        "version": stats.version,
        "learner_terms": stats.learner_terms,
        "outcomes_learned": sum(route.outcomes for route in stats.routes),
    }


def _earned(stats: EngineStats) -> float:
    return sum(route.outcomes * route.mean_reward for route in stats.routes)
