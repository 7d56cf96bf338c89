"""The engine: what a worker holds."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Literal, get_args

from numpy.typing import ArrayLike

from sona_shm import _core
from sona_shm.config import SonaConfig
from sona_shm.errors import ConfigError
from sona_shm.learner import LearnerProcess, LearnerThread, start_learner
from sona_shm.loops.instant import InstantLoop, config_of, create_engine_memory
from sona_shm.monitor.stats import EngineStats, collect
from sona_shm.shm import fork
from sona_shm.shm.life_cycle import DEFAULT_TIMEOUT, attach_memory, destroy_memory
from sona_shm.shm.memory import EngineMemory
from sona_shm.trajectory import Decision, QueryTrajectory, TrajectoryBuilder

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

    def __init__(self, memory: EngineMemory, learner: LearnerKind | None) -> None:
        super().__init__(memory.buffer("weights"), memory.geometry)
        self.config = config_of(memory)
        self.name = memory.names.engine
        self._memory = memory
        memory.at_close(_weak_release(self))
        self._routes = [route.name for route in self.config.routes]
        self._learners: list[LearnerThread | LearnerProcess] = []
        self._finalizer = weakref.finalize(self, _shut_down, memory, self._learners)
        self.instant = InstantLoop._over(memory, self.config)
        fork.register(self)
        if learner == "inline":
            self.instant.become_learner()
        elif learner is not None:
            self._learners.append(start_learner(memory, learner))

    # ---- life ----

    @classmethod
    def create(
        cls,
        name: str,
        config: SonaConfig,
        learner: LearnerKind | None = None,
        *,
        replace: bool = False,
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

        Raises
        ------
        EngineExists
            If the name is taken and may not be replaced.
        SharedMemoryTooSmall
            With the sizes; nothing is left behind.
        ConfigError
            For an impossible name or learner.

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
        _check_learner(learner)
        if not isinstance(config, SonaConfig):
            raise ConfigError(f"config is {config!r}, expected a SonaConfig")
        memory = create_engine_memory(name, config, replace=replace)
        try:
            return cls._over(memory, learner)
        except BaseException:
            destroy_memory(name)
            raise

    @classmethod
    def attach(
        cls, name: str, learner: LearnerKind | None = None, *, timeout: float = DEFAULT_TIMEOUT
    ) -> Engine:
        """Attach to an engine that some process has created.

        Parameters
        ----------
        name : str
        learner : {None, "inline", "thread", "process"}
            As in `create`.
        timeout : float
            Seconds to wait while the engine is being made.

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
        _check_learner(learner)
        return cls._over(attach_memory(name, timeout), learner)

    @classmethod
    def _over(cls, memory: EngineMemory, learner: LearnerKind | None) -> Engine:
        try:
            return cls(memory, learner)
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

    def route(self, x: ArrayLike) -> Decision:
        """Choose a route for a request.

        Scores every route with the published weights, explores by the configured policy, and
        remembers the decision for its feedback.  Takes no lock and waits for nobody.

        Parameters
        ----------
        x : array_like of float32, shape (hidden_dim,)
            Embedding of the prompt, best of about unit length; copied.

        Returns
        -------
        Decision
            With the exact probability of the choice.

        Raises
        ------
        ShapeError, DtypeError, NonFiniteError
            Nothing was decided.
        NoFreeLaneError
            If more processes route than the engine has lanes.

        Examples
        --------
        >>> import sona_shm as sona
        >>> config = sona.SonaConfig(hidden_dim=2, routes=[sona.Route("a"), sona.Route("b")])
        >>> with sona.Engine.create("doc-route", config, learner="inline") as engine:
        ...     engine.route([1.0, 0.0]).propensity
        0.5
        >>> sona.Engine.destroy("doc-route")
        """
        instant = self.instant
        decision_id, index, propensity = (instant._lane or instant._claim()).decide(x)
        return Decision(decision_id, self._routes[index], index, propensity)

    def feedback(self, id: int, quality: float) -> bool:
        """Tell how good the answer to a routed request was.

        From any process that is attached, at any later time, also after the deciding worker has
        died.  A second feedback for one id, an id of which the slot is overwritten, and an id
        that never was, are counted by the learner and teach nothing.

        Parameters
        ----------
        id : int
            ``Decision.id``.
        quality : float
            In [0, 1].  The reward is ``quality - cost_weight * cost`` of the chosen route.

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
        ...     engine.feedback(id, 0.9), engine.feedback(id, 0.9)
        ...     engine.instant.metrics.feedback_duplicate
        (True, True)
        1
        >>> sona.Engine.destroy("doc-feedback")
        """
        instant = self.instant
        return instant._put((instant._lane or instant._claim()).feedback(id, quality))

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
        instant = self.instant
        return instant._put((instant._lane or instant._claim()).record(trajectory))

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
        return collect(self._memory, self._snapshot())


def _check_learner(learner: LearnerKind | None) -> None:
    if learner is not None and learner not in get_args(LearnerKind):
        raise ConfigError(
            f"learner is {learner!r}, expected None, {', '.join(map(repr, get_args(LearnerKind)))}"
        )
