"""Evaluates a configuration on the journal of another one."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sona_shm.config import Route, SonaConfig
from sona_shm.engine import Engine
from sona_shm.errors import JournalError
from sona_shm.journal.reader import Journal
from sona_shm.learning.off_policy import (
    Estimate,
    doubly_robust,
    effective_sample_size,
    importance_weights,
    inverse_propensity,
    self_normalised,
)


@dataclasses.dataclass(frozen=True, slots=True)
class ReplayResult:
    """What another configuration would have earned.

    Attributes
    ----------
    rows : int
        Decisions with an outcome, which the estimates are made of.
    skipped : int
        Decisions without one, or of which the chosen route is not known to the configuration.
    logged : Estimate
        Mean reward of what was done.
    inverse_propensity, self_normalised, doubly_robust : Estimate
        Mean reward of what the other configuration would have done.
    effective_rows : float
        Equally weighted rows that would tell as much; where it is small, so is the trust.

    Examples
    --------
    >>> one = Estimate(0.5, 0.1)
    >>> ReplayResult(10, 0, one, one, one, one, 4.0).effective_rows
    4.0
    """

    rows: int
    skipped: int
    logged: Estimate
    inverse_propensity: Estimate
    self_normalised: Estimate
    doubly_robust: Estimate
    effective_rows: float

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON, with intervals.

        Examples
        --------
        >>> one = Estimate(0.5, 0.0)
        >>> ReplayResult(10, 0, one, one, one, one, 4.0).to_mapping()["logged"]["interval"]
        [0.5, 0.5]
        """
        plain = dataclasses.asdict(self)
        for name, value in plain.items():
            if isinstance(value, dict):
                value["interval"] = list(getattr(self, name).interval)
        return plain


def replay_config(journal: Journal, **changes: Any) -> SonaConfig:
    """The configuration that a journal was written with, some settings changed.

    Parameters
    ----------
    journal : Journal
    **changes
        Fields of `SonaConfig`.

    Raises
    ------
    ConfigError
        For an unknown setting or a value out of range.

    Examples
    --------
    >>> import sona_shm as sona, tempfile
    >>> config = sona.SonaConfig(hidden_dim=2, routes=[sona.Route("a"), sona.Route("b")])
    >>> directory = tempfile.mkdtemp()
    >>> with sona.Engine.create("doc-replay-config", config, "inline", journal=directory) as e:
    ...     _ = e.feedback(e.route([1.0, 0.0]).id, 0.75)
    >>> sona.Engine.destroy("doc-replay-config")
    >>> from sona_shm.journal.reader import read_journal
    >>> replay_config(read_journal(directory), policy="thompson").policy
    'thompson'
    """
    known = {field.name for field in dataclasses.fields(SonaConfig)}
    settings = {key: value for key, value in journal.header.items() if key in known}
    routes = [{"name": r["name"], "cost": r["cost"]} for r in journal.header["routes"]]
    return SonaConfig.from_mapping(settings | {"routes": routes} | changes)


def replay(
    journal: Journal, config: SonaConfig, progress: Callable[[int], None] = lambda _: None
) -> ReplayResult:
    """Estimate what a configuration would have earned on a journal's requests.

    The journal is gone through in the order of time.  For each decision the configuration says
    with what probability it would have chosen each route, and what reward it predicts; then it
    learns the logged outcome.  Probabilities and predictions depend only on what came before, so
    the doubly robust estimate is unbiased for the reward of a policy that learns from this log.

    Parameters
    ----------
    journal : Journal
    config : SonaConfig
        Its routes are matched to the journal's by name.
    progress : callable, optional
        Called with the number of decisions gone through.

    Raises
    ------
    JournalError
        If fewer than two decisions can be used, or embeddings have another length.

    Examples
    --------
    >>> import numpy as np, sona_shm as sona, tempfile
    >>> from sona_shm.journal.reader import read_journal
    >>> config = sona.SonaConfig(hidden_dim=2, routes=[sona.Route("a"), sona.Route("b")])
    >>> directory = tempfile.mkdtemp()
    >>> with sona.Engine.create("doc-replay", config, "inline", journal=directory) as engine:
    ...     for _ in range(50):
    ...         decision = engine.route([1.0, 0.0])
    ...         _ = engine.feedback(decision.id, float(decision.index))
    >>> sona.Engine.destroy("doc-replay")
    >>> journal = read_journal(directory)
    >>> replay(journal, replay_config(journal, policy="thompson")).rows
    50
    """
    if len(journal) and journal.embedding.shape[1] != config.hidden_dim:
        raise JournalError(
            f"the journal's embeddings have {journal.embedding.shape[1]} dimensions, the "
            f"configuration's hidden_dim is {config.hidden_dim}"
        )
    usable = _Rows(journal, config.routes)
    name = f"replay-{secrets.token_hex(6)}"
    small = dataclasses.replace(config, max_workers=1, trajectory_capacity=100, pending_decisions=1)
    with Engine.create(name, small, learner="inline") as engine:
        try:
            table = _go_through(engine, journal, usable, progress)
        finally:
            engine.close()
            Engine.destroy(name)
    if len(table) < 2:
        raise JournalError(
            f"{len(table)} of the journal's {len(journal)} decisions have an outcome and a route "
            "of the configuration; expected at least 2"
        )
    return _estimate(table, len(journal) - len(table))


class _Rows:
    """Which decisions can be used, and what the journal's routes are called there."""

    def __init__(self, journal: Journal, routes: Any) -> None:
        names = [route["name"] for route in journal.header.get("routes", ())]
        known = {route.name: index for index, route in enumerate(routes)}
        self.index = np.array([known.get(name, -1) for name in names], np.int64)
        chosen = np.array(
            [self.index[r] if r < len(names) else -1 for r in journal.route], np.int64
        )
        self.chosen = chosen
        self.usable = np.flatnonzero((chosen >= 0) & np.isfinite(journal.quality))

    def allowed(self, bits: NDArray[np.bool_]) -> list[int]:
        """Indices in the configuration of the routes that were considered."""
        return [int(self.index[k]) for k in np.flatnonzero(bits) if self.index[k] >= 0]


def _go_through(
    engine: Engine, journal: Journal, rows: _Rows, progress: Callable[[int], None]
) -> NDArray[np.float64]:
    """Reward, propensity, target's probability, prediction and expectation of each usable row."""
    prices = [engine.config.price(Route(r.name, r.cost)) for r in engine.config.routes]
    table = np.empty((len(rows.usable), 5))
    for number, i in enumerate(rows.usable):
        x, chosen = journal.embedding[i], int(rows.chosen[i])
        prediction = engine.predict(x, rows.allowed(journal.allowed[i]))
        likely = prediction.probability > 0.0
        table[number] = (
            journal.quality[i] - prices[chosen],
            journal.propensity[i],
            prediction.probability[chosen],
            prediction.reward[chosen],
            prediction.probability[likely] @ prediction.reward[likely],
        )
        engine.observe(x, chosen, float(journal.quality[i]))
        progress(number + 1)
    return table


def _estimate(table: NDArray[np.float64], skipped: int) -> ReplayResult:
    reward, propensity, target, predicted, expected = table.T
    weights = importance_weights(propensity, target)
    logged = Estimate(float(reward.mean()), float(reward.std(ddof=1)) / len(reward) ** 0.5)
    return ReplayResult(
        rows=len(reward),
        skipped=skipped,
        logged=logged,
        inverse_propensity=inverse_propensity(weights, reward),
        self_normalised=self_normalised(weights, reward),
        doubly_robust=doubly_robust(weights, reward, predicted, expected),
        effective_rows=effective_sample_size(weights),
    )
