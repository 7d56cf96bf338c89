"""What a worker does for each request: route, tell the outcome, record trajectories."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from sona_shm import _core
from sona_shm.config import SonaConfig
from sona_shm.errors import NoFreeLaneError, SonaError
from sona_shm.loops.engine_memory import config_of
from sona_shm.loops.instant import InstantLoop
from sona_shm.shm.memory import EngineMemory
from sona_shm.trajectory import Decision, Prediction, QueryTrajectory, TrajectoryBuilder


class Requests(_core.Reader):
    """The part of `Engine` that lies on the request path.

    `apply` comes from the C base class, because a Python method in between would cost as much as
    its work.

    Examples
    --------
    >>> import sona_shm as sona
    >>> issubclass(sona.Engine, Requests)
    True
    """

    config: SonaConfig
    instant: InstantLoop

    def __init__(self, memory: EngineMemory) -> None:
        super().__init__(memory.buffer("weights"), memory.geometry)
        self._memory = memory
        self.config = config_of(memory)
        self.instant = InstantLoop._over(memory, self.config)

    def claim_lane(self) -> int:
        """Take this process's lane now and not at its first request; idempotent.

        For the start of a worker: one lane too few is an error then, and not a failed request.

        Returns
        -------
        int
            Index of the lane.

        Raises
        ------
        NoFreeLaneError
            If more processes record than the engine has lanes.
        EngineNotFound
            If the engine was destroyed or replaced.

        Examples
        --------
        >>> import sona_shm as sona
        >>> with sona.Engine.create("doc-claim", sona.SonaConfig(hidden_dim=2)) as engine:
        ...     engine.claim_lane(), engine.claim_lane()
        (0, 0)
        >>> sona.Engine.destroy("doc-claim")
        """
        self.instant._claim()
        return self.instant._lane_index

    # ---- routing ----

    def route(self, x: ArrayLike, allowed: Iterable[str | int] | None = None) -> Decision:
        """Choose a route for a request.

        Scores every route with the published weights, explores by the configured policy, and
        remembers the decision for its feedback.  Takes no lock and waits for nobody.

        Parameters
        ----------
        x : array_like of float32, shape (hidden_dim,)
            Embedding of the prompt, best of about unit length; copied.
        allowed : iterable of str or int, optional
            Names or indices of the routes that may be chosen, such as those that are up right
            now; None allows all that are not retired.

        Returns
        -------
        Decision
            With the exact probability of the choice.

        Raises
        ------
        ShapeError, DtypeError, NonFiniteError, ConfigError
            Nothing was decided.
        NoFreeLaneError
            If more processes route than the engine has lanes.

        Examples
        --------
        >>> import sona_shm as sona
        >>> config = sona.SonaConfig(hidden_dim=2, routes=[sona.Route("a"), sona.Route("b")])
        >>> with sona.Engine.create("doc-route", config, learner="inline") as engine:
        ...     engine.route([1.0, 0.0]).propensity
        ...     engine.route([1.0, 0.0], allowed=["b"]).route
        0.5
        'b'
        >>> sona.Engine.destroy("doc-route")
        """
        instant = self.instant
        lane = instant._lane or instant._claim()
        try:
            if allowed is None:
                decision_id, index, propensity = lane.decide(x)
            else:
                decision_id, index, propensity = lane.decide(x, self._mask(allowed))
        except SonaError as error:
            self._memory.errors.note("route", error)
            raise
        try:
            name = instant.routes.names[index]
        except IndexError:
            name = instant.routes.name_of(index)
        return Decision(decision_id, name, index, propensity)

    def _mask(self, allowed: Iterable[str | int]) -> bytes:
        return self.instant.routes.mask(allowed, self._memory.sizes["allowed_words"])

    def predict(self, x: ArrayLike, allowed: Iterable[str | int] | None = None) -> Prediction:
        """Tell what `route` would base its choice on, without deciding anything.

        Parameters
        ----------
        x : array_like of float32, shape (hidden_dim,)
        allowed : iterable of str or int, optional

        Returns
        -------
        Prediction
            Reward, its uncertainty, and probability of each route.

        Raises
        ------
        ShapeError, DtypeError, NonFiniteError, ConfigError

        Examples
        --------
        >>> import sona_shm as sona
        >>> config = sona.SonaConfig(hidden_dim=2, routes=[sona.Route("a"), sona.Route("b")])
        >>> with sona.Engine.create("doc-predict", config, learner="inline") as engine:
        ...     engine.predict([1.0, 0.0], allowed=["a"]).probability
        array([1., 0.])
        >>> sona.Engine.destroy("doc-predict")
        """
        instant = self.instant
        lane = instant._lane or instant._claim()
        rows = lane.predict(x) if allowed is None else lane.predict(x, self._mask(allowed))
        routes = self.instant.routes
        if rows[-1][0] >= len(routes.names) or not routes.names:
            routes.refresh()
        table = np.full((3, len(routes.names)), np.nan)
        table[2] = 0.0
        for index, *values in rows:
            table[:, index] = values
        return Prediction(*table)

    def feedback(
        self,
        id: int,
        quality: float,
        latency_ms: float | None = None,
        tokens: int | None = None,
    ) -> bool:
        """Tell how good the answer to a routed request was.

        From any process that is attached, at any later time, also after the deciding worker has
        died.  A second feedback for one id, an id of which the slot is overwritten, and an id
        that never was, are counted by the learner and teach nothing.

        Parameters
        ----------
        id : int
            ``Decision.id``.
        quality : float
            In [0, 1].  The reward is ``quality - cost_weight * cost`` of the chosen route, or what
            the learner's reward function makes of it.
        latency_ms : float, optional
            How long the answer took, 0 to 1e12.
        tokens : int, optional
            How many it took, up to 2**32 - 1.

        Returns
        -------
        bool
            False if this process's lane was full: nothing was recorded, the drop is counted.

        Raises
        ------
        OutOfRangeError, NonFiniteError, DtypeError
            Nothing was recorded.

        Examples
        --------
        >>> import sona_shm as sona
        >>> config = sona.SonaConfig(hidden_dim=2, routes=[sona.Route("a"), sona.Route("b")])
        >>> with sona.Engine.create("doc-feedback", config, learner="inline") as engine:
        ...     id = engine.route([1.0, 0.0]).id
        ...     engine.feedback(id, 0.9, latency_ms=420.0), engine.feedback(id, 0.9)
        ...     engine.instant.metrics.feedback_duplicate
        (True, True)
        1
        >>> sona.Engine.destroy("doc-feedback")
        """
        instant = self.instant
        lane = instant._lane or instant._claim()
        try:
            if latency_ms is None and tokens is None:
                return instant._put(lane.feedback(id, quality))
            return instant._put(lane.feedback(id, quality, latency_ms, tokens))
        except SonaError as error:
            self._memory.errors.note("feedback", error)
            raise

    def observe(
        self,
        x: ArrayLike,
        route: str | int,
        quality: float,
        latency_ms: float | None = None,
        tokens: int | None = None,
    ) -> bool:
        """Teach the outcome of a decision that was made elsewhere, such as one out of a log.

        Parameters
        ----------
        x : array_like of float32, shape (hidden_dim,)
        route : str or int
            Name or index.
        quality : float
            In [0, 1].
        latency_ms, tokens
            As in `feedback`.

        Returns
        -------
        bool
            False if this process's lane was full; the drop is counted.

        Raises
        ------
        ShapeError, DtypeError, NonFiniteError, OutOfRangeError, ConfigError
            Nothing was recorded.

        Examples
        --------
        >>> import sona_shm as sona
        >>> config = sona.SonaConfig(hidden_dim=2, routes=[sona.Route("a"), sona.Route("b")])
        >>> with sona.Engine.create("doc-observe", config, learner="inline") as engine:
        ...     engine.observe([1.0, 0.0], "b", 0.9)
        ...     engine.stats().routes[1].outcomes
        True
        1
        >>> sona.Engine.destroy("doc-observe")
        """
        instant = self.instant
        lane = instant._lane or instant._claim()
        try:
            index = instant.routes.index_of(route)
            return instant._put(lane.observe(x, index, quality, latency_ms, tokens))
        except SonaError as error:
            self._memory.errors.note("observe", error)
            raise

    # ---- trajectories ----

    def begin_trajectory(self, x: ArrayLike) -> TrajectoryBuilder:
        """Start collecting the steps of a request.

        Parameters
        ----------
        x : array_like of float32, shape (hidden_dim,)

        Examples
        --------
        >>> import sona_shm as sona
        >>> with sona.Engine.create("doc-begin", sona.SonaConfig(hidden_dim=2), "inline") as engine:
        ...     t = engine.begin_trajectory([1.0, 0.0])
        ...     t.add_step([0.5, 0.5], [], 0.8)
        ...     engine.end_trajectory(t, quality=0.8)
        True
        >>> sona.Engine.destroy("doc-begin")
        """
        return TrajectoryBuilder(self.instant.next_id(), x)

    def end_trajectory(self, trajectory: TrajectoryBuilder, quality: float) -> bool:
        """Finish a trajectory with its quality and record it.

        Parameters
        ----------
        trajectory : TrajectoryBuilder
        quality : float
            In [0, 1].

        Returns
        -------
        bool
            False if the lane was full; the drop is counted.

        Examples
        --------
        >>> import sona_shm as sona
        >>> with sona.Engine.create("doc-finish", sona.SonaConfig(hidden_dim=2)) as engine:
        ...     engine.end_trajectory(engine.begin_trajectory([1.0, 0.0]), 0.5)
        True
        >>> sona.Engine.destroy("doc-finish")
        """
        return self.record(trajectory.build(quality))

    def record(self, trajectory: QueryTrajectory) -> bool:
        """Record a finished trajectory; see `InstantLoop.on_trajectory`.

        Examples
        --------
        >>> import sona_shm as sona
        >>> with sona.Engine.create("doc-record", sona.SonaConfig(hidden_dim=2)) as engine:
        ...     engine.record(sona.QueryTrajectory(1, [1.0, 0.0]).finalize(0.5))
        True
        >>> sona.Engine.destroy("doc-record")
        """
        try:
            return self.instant.on_trajectory(trajectory)
        except NoFreeLaneError:
            raise  # noted where the lane was claimed
        except SonaError as error:
            self._memory.errors.note("record", error)
            raise

    def flush(self, timeout: float = 1.0) -> bool:
        """Have everything recorded so far learned and published; see `InstantLoop.flush`.

        Examples
        --------
        >>> import sona_shm as sona
        >>> with sona.Engine.create("doc-flush", sona.SonaConfig(hidden_dim=2)) as engine:
        ...     engine.flush(timeout=0.01)    # nobody learns
        False
        >>> sona.Engine.destroy("doc-flush")
        """
        return self.instant.flush(timeout)
