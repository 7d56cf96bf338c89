"""The engine: what a worker holds."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from sona_shm import _core
from sona_shm.config import Route, SonaConfig
from sona_shm.errors import ConfigError
from sona_shm.learner import LearnerProcess, LearnerThread, start_learner
from sona_shm.learning.reasoning_bank import LearnedPattern, ReasoningBank
from sona_shm.loops.drain import LearnerOptions
from sona_shm.loops.instant import InstantLoop, config_of, create_engine_memory
from sona_shm.loops.patterns import checked_query, published_bank
from sona_shm.loops.reward import RewardFunction
from sona_shm.monitor.stats import EngineStats, collect
from sona_shm.shm import fork
from sona_shm.shm.life_cycle import DEFAULT_TIMEOUT, attach_memory, destroy_memory
from sona_shm.shm.memory import EngineMemory
from sona_shm.trajectory import Decision, Prediction, QueryTrajectory, TrajectoryBuilder

LearnerKind = Literal["inline", "thread", "process"]


def _shut_down(memory: EngineMemory, learners: list[LearnerThread | LearnerProcess]) -> None:
    """What must happen at the end even if nobody calls close()."""
    for learner in learners:
        learner.stop()
    memory.close()


def _weak_release(engine: Engine) -> Callable[[], None]:
    """Lets the engine's own mapping go when its memory closes, without keeping it alive."""
    reference = weakref.ref(engine)

    def release() -> None:
        alive = reference()
        if alive is not None:
            alive._release()

    return release


class Engine(_core.Reader):
    """One process's end of an engine: routes, adapts, records, gives feedback.

    Made by `Engine.create` or `Engine.attach`.  Any process may attach by name; segments outlive
    processes until `Engine.destroy`.  After ``os.fork`` the child takes a lane of its own at
    first use.  `apply` comes from the C base class, because a Python method in between would
    cost as much as its work.

    Attributes
    ----------
    name : str
    config : SonaConfig
    instant : InstantLoop
        Loop A: the interface of the Rust crate's ``InstantLoop``.

    Examples
    --------
    >>> import numpy as np, sona_shm as sona
    >>> config = sona.SonaConfig(hidden_dim=4, routes=[sona.Route("small"), sona.Route("large")])
    >>> with sona.Engine.create("doc-engine", config, learner="inline") as engine:
    ...     decision = engine.route(np.ones(4, np.float32))
    ...     learned = engine.feedback(decision.id, quality=0.9)
    >>> learned
    True
    >>> sona.Engine.destroy("doc-engine")
    """

    def __init__(
        self, memory: EngineMemory, learner: LearnerKind | None, options: LearnerOptions
    ) -> None:
        super().__init__(memory.buffer("weights"), memory.geometry)
        self.config = config_of(memory)
        self.name = memory.names.engine
        self._memory = memory
        memory.at_close(_weak_release(self))
        self._learners: list[LearnerThread | LearnerProcess] = []
        self._finalizer = weakref.finalize(self, _shut_down, memory, self._learners)
        self.instant = InstantLoop._over(memory, self.config)
        fork.register(self)
        if learner == "inline":
            self.instant.become_learner(options)
        elif learner is not None:
            self._learners.append(start_learner(memory, learner, options))

    # ---- life ----

    @classmethod
    def create(
        cls,
        name: str,
        config: SonaConfig,
        learner: LearnerKind | None = None,
        *,
        replace: bool = False,
        journal: str | os.PathLike[str] | None = None,
        reward: RewardFunction | None = None,
    ) -> Engine:
        """Make a new engine and attach to it.

        What a killed creator left half-made is replaced without asking.

        Parameters
        ----------
        name : str
            1 to 22 letters, digits, '-' or '_'; how other processes find it.
        config : SonaConfig
        learner : {None, "inline", "thread", "process"}
            Who learns: nobody yet (a ``sona learner`` daemon will), the calling process at each
            record, a thread of it, or a process of its own that ends with this one.
        replace : bool
            Start anew where an engine of that name exists and nobody uses it.
        journal : path, optional
            Directory in which this learner journals every decision and outcome.
        reward : callable, optional
            Computes the reward of an `Outcome`; None takes ``quality - cost_weight * cost``.
            Where the learner is a process, it must be importable there.

        Raises
        ------
        EngineExists
            If the name is taken and may not be replaced.
        SharedMemoryTooSmall
            With the sizes; nothing is left behind.
        ConfigError
            For an impossible name or learner, a journal or reward without a learner.

        Examples
        --------
        >>> import sona_shm as sona
        >>> engine = sona.Engine.create("doc-create", sona.SonaConfig(hidden_dim=4))
        >>> sona.Engine.create("doc-create", sona.SonaConfig(hidden_dim=4))
        Traceback (most recent call last):
            ...
        sona_shm.errors.EngineExists: the engine 'doc-create' exists and nobody uses it; attach \
to it to go on learning, or pass replace=True to start anew
        >>> engine.close(); sona.Engine.destroy("doc-create")
        """
        options = _learner_options(learner, journal, reward)
        if not isinstance(config, SonaConfig):
            raise ConfigError(f"config is {config!r}, expected a SonaConfig")
        memory = create_engine_memory(name, config, replace=replace)
        try:
            return cls._over(memory, learner, options)
        except BaseException:
            destroy_memory(name)
            raise

    @classmethod
    def attach(
        cls,
        name: str,
        learner: LearnerKind | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        journal: str | os.PathLike[str] | None = None,
        reward: RewardFunction | None = None,
    ) -> Engine:
        """Attach to an engine that some process has created.

        Parameters
        ----------
        name : str
        learner : {None, "inline", "thread", "process"}
            As in `create`.
        timeout : float
            Seconds to wait while the engine is being made.
        journal, reward
            As in `create`.

        Raises
        ------
        EngineNotFound, EngineNotReady, LayoutMismatch, CorruptSegment
            For the state the name is in.
        NotTheLearner
            If a learner is asked for and another one holds the lease.

        Examples
        --------
        >>> import sona_shm as sona
        >>> first = sona.Engine.create("doc-attach", sona.SonaConfig(hidden_dim=4))
        >>> second = sona.Engine.attach("doc-attach")
        >>> second.config == first.config
        True
        >>> first.close(); second.close(); sona.Engine.destroy("doc-attach")
        """
        options = _learner_options(learner, journal, reward)
        return cls._over(attach_memory(name, timeout), learner, options)

    @classmethod
    def _over(
        cls, memory: EngineMemory, learner: LearnerKind | None, options: LearnerOptions
    ) -> Engine:
        try:
            return cls(memory, learner, options)
        except BaseException:
            memory.close()
            raise

    @staticmethod
    def destroy(name: str) -> None:
        """Remove an engine from this host, whatever state it is in.

        Processes that are attached keep their memory until they close, but nobody else finds it
        and its learner ends.

        Parameters
        ----------
        name : str

        Raises
        ------
        EngineNotFound
            If there is nothing of that name.

        Examples
        --------
        >>> import sona_shm as sona
        >>> sona.Engine.create("doc-destroy", sona.SonaConfig(hidden_dim=4)).close()
        >>> sona.Engine.destroy("doc-destroy")
        """
        destroy_memory(name)

    def close(self) -> None:
        """Give back the lane, stop a learner of this process's own, let the memory go.

        What was recorded stays, and is learned. Idempotent.

        Examples
        --------
        >>> import sona_shm as sona
        >>> engine = sona.Engine.create("doc-end", sona.SonaConfig(hidden_dim=4))
        >>> engine.close(); engine.close()
        >>> engine.apply([0.0, 0.0, 0.0, 0.0])
        Traceback (most recent call last):
            ...
        sona_shm.errors.EngineClosed: the engine is closed; attach to it again
        >>> sona.Engine.destroy("doc-end")
        """
        if self._finalizer.alive:
            self.instant.release()
            self._finalizer()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _after_fork(self) -> None:
        """In a forked child: the learner is the parent's."""
        for learner in self._learners:
            learner.abandon()
        self._learners.clear()

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
        if allowed is None:
            decision_id, index, propensity = lane.decide(x)
        else:
            decision_id, index, propensity = lane.decide(x, self._mask(allowed))
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
        if latency_ms is None and tokens is None:
            return instant._put(lane.feedback(id, quality))
        return instant._put(lane.feedback(id, quality, latency_ms, tokens))

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
        index = instant.routes.index_of(route)
        return instant._put(lane.observe(x, index, quality, latency_ms, tokens))

    # ---- routes at run time ----

    def add_route(
        self,
        route: Route,
        like: str | int | None = None,
        expected_quality: float | None = None,
        timeout: float = 1.0,
    ) -> bool:
        """Add a route while workers run; no restart, and every worker may choose it at once.

        A new route begins with the mean of all others, and is tried until enough is known of it.
        A route that was retired comes back with what was learned about it.

        Parameters
        ----------
        route : Route
        like : str or int, optional
            A similar route, from whose knowledge the new one starts.
        expected_quality : float, optional
            Quality in [0, 1] to start from, with the weight of five outcomes.
        timeout : float
            Seconds to wait for the learner.

        Returns
        -------
        bool
            False if no learner answered in time, or the lane was full: with a learner, the
            request stands.

        Raises
        ------
        ConfigError
            If the name is in use, or there is no room (`SonaConfig.max_routes`).

        Examples
        --------
        >>> import sona_shm as sona
        >>> config = sona.SonaConfig(hidden_dim=2, routes=[sona.Route("a")])
        >>> with sona.Engine.create("doc-add", config, learner="inline") as engine:
        ...     engine.add_route(sona.Route("b", cost=0.1), like="a")
        ...     engine.route([1.0, 0.0], allowed=["b"]).index
        True
        1
        >>> sona.Engine.destroy("doc-add")
        """
        instant = self.instant
        similar = _core.NO_ROUTE if like is None else instant.routes.index_of(like)
        if expected_quality is not None and not 0.0 <= expected_quality <= 1.0:
            raise ConfigError(f"expected_quality is {expected_quality!r}, expected 0 to 1")
        rows = instant._snapshot().routes()
        if any(row.name == route.name and row.active for row in rows):
            raise ConfigError(f"the engine has a route {route.name!r} already")
        capacity = self.config.route_capacity()
        if len(rows) >= capacity and all(row.name != route.name for row in rows):
            raise ConfigError(
                f"the engine has {len(rows)} routes, the retired ones included, and room for "
                f"{capacity}; create it with a larger max_routes"
            )
        expected = float("nan") if expected_quality is None else float(expected_quality)
        return self._change_route(_core.ROUTE_ADD, route, timeout, expected, similar)

    def retire_route(self, name: str, timeout: float = 1.0) -> bool:
        """Take a route out of service; what was learned about it is kept.

        Parameters
        ----------
        name : str
        timeout : float
            Seconds to wait for the learner.

        Returns
        -------
        bool
            As `add_route`.

        Raises
        ------
        ConfigError
            If there is no such route.

        Examples
        --------
        >>> import sona_shm as sona
        >>> config = sona.SonaConfig(hidden_dim=2, routes=[sona.Route("a"), sona.Route("b")])
        >>> with sona.Engine.create("doc-retire", config, learner="inline") as engine:
        ...     _ = engine.retire_route("a")
        ...     engine.route([1.0, 0.0]).route
        'b'
        >>> sona.Engine.destroy("doc-retire")
        """
        self.instant.routes.index_of(name)
        return self._change_route(_core.ROUTE_RETIRE, Route(name), timeout)

    def set_cost(self, name: str, cost: float, timeout: float = 1.0) -> bool:
        """Give a route another cost; scores follow at once, nothing has to be learned again.

        Parameters
        ----------
        name : str
        cost : float
            In the unit of the others.
        timeout : float
            Seconds to wait for the learner.

        Returns
        -------
        bool
            As `add_route`.

        Raises
        ------
        ConfigError
            If there is no such route, or the cost is negative or too large.

        Examples
        --------
        >>> import sona_shm as sona
        >>> config = sona.SonaConfig(hidden_dim=2, routes=[sona.Route("a"), sona.Route("b")])
        >>> with sona.Engine.create("doc-cost", config, learner="inline") as engine:
        ...     _ = engine.set_cost("a", 0.25)
        ...     engine.stats().routes[0].cost
        0.25
        >>> sona.Engine.destroy("doc-cost")
        """
        self.instant.routes.index_of(name)
        return self._change_route(_core.ROUTE_PRICE, Route(name, cost), timeout)

    def _change_route(
        self,
        operation: int,
        route: Route,
        timeout: float,
        expected: float = float("nan"),
        like: int = _core.NO_ROUTE,
    ) -> bool:
        instant = self.instant
        lane = instant._lane or instant._claim()
        price = self.config.price(route)
        put = lane.change_route(operation, route.name, route.cost, price, expected, like)
        return instant._put(put) and instant.flush(timeout)

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
        return self.instant.on_trajectory(trajectory)

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

    # ---- looking ----

    def find_patterns(self, x: ArrayLike, k: int = 3) -> list[LearnedPattern]:
        """The learned patterns nearest to an embedding, nearest first.

        The first is the one whose experience `route` uses.

        Parameters
        ----------
        x : array_like of float32, shape (hidden_dim,)
        k : int
            How many at most, 1 or more.

        Returns
        -------
        list of LearnedPattern
            Empty before the first refit, after some 40 outcomes.

        Raises
        ------
        ShapeError, DtypeError, NonFiniteError, OutOfRangeError

        Examples
        --------
        >>> import numpy as np, sona_shm as sona
        >>> config = sona.SonaConfig(hidden_dim=4, routes=[sona.Route("a"), sona.Route("b")])
        >>> with sona.Engine.create("doc-patterns", config, learner="inline") as engine:
        ...     for x in np.eye(4).repeat(16, axis=0):
        ...         _ = engine.feedback(engine.route(x).id, float(x[0]))
        ...     [round(p.avg_quality, 1) for p in engine.find_patterns([1.0, 0, 0, 0], k=1)]
        [1.0]
        >>> sona.Engine.destroy("doc-patterns")
        """
        query = checked_query(x, self.config.hidden_dim)
        return self.reasoning_bank().find_patterns(query, k)

    def reasoning_bank(self) -> ReasoningBank:
        """All learned patterns, as a copy: what is pruned or merged in it stays there.

        Examples
        --------
        >>> import sona_shm as sona
        >>> with sona.Engine.create("doc-bank", sona.SonaConfig(hidden_dim=2)) as engine:
        ...     len(engine.reasoning_bank())
        0
        >>> sona.Engine.destroy("doc-bank")
        """
        return published_bank(*self._patterns(), self._memory.geometry)

    def stats(self) -> EngineStats:
        """What the engine's processes have done and lost; see `EngineStats`.

        Examples
        --------
        >>> import sona_shm as sona
        >>> with sona.Engine.create("doc-stats", sona.SonaConfig(hidden_dim=2)) as engine:
        ...     engine.stats().recorded
        0
        >>> sona.Engine.destroy("doc-stats")
        """
        return collect(self._memory, *self._patterns())


def _learner_options(
    learner: LearnerKind | None,
    journal: str | os.PathLike[str] | None,
    reward: RewardFunction | None,
) -> LearnerOptions:
    if learner is not None and learner not in get_args(LearnerKind):
        raise ConfigError(
            f"learner is {learner!r}, expected None, {', '.join(map(repr, get_args(LearnerKind)))}"
        )
    if learner is None and (journal is not None or reward is not None):
        raise ConfigError(
            "journal and reward belong to a learner, and learner is None; give them to the "
            "process that learns, such as: sona learner NAME --journal DIR"
        )
    if reward is not None and not callable(reward):
        raise ConfigError(f"reward is {reward!r}, expected a function of an Outcome")
    return LearnerOptions(None if journal is None else Path(journal), reward)
