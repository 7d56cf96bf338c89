"""The engine: what a worker holds."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from sona_shm.checkpoint.convert import changed_state
from sona_shm.checkpoint.restore import restore_memory
from sona_shm.checkpoint.rotation import load_checkpoint
from sona_shm.config import SonaConfig
from sona_shm.engine.background import BackgroundRequests
from sona_shm.engine.options import LearnerKind, learner_options
from sona_shm.engine.saving import Saving
from sona_shm.errors import ConfigError
from sona_shm.learner import LearnerProcess, LearnerThread, start_learner
from sona_shm.learning.lora import LoRA
from sona_shm.learning.reasoning_bank import LearnedPattern, ReasoningBank
from sona_shm.loops.drain import LearnerOptions
from sona_shm.loops.engine_memory import create_engine_memory
from sona_shm.loops.patterns import checked_query, published_bank
from sona_shm.loops.reward import RewardFunction
from sona_shm.monitor.stats import EngineStats, collect
from sona_shm.shm import fork
from sona_shm.shm.life_cycle import attach_memory
from sona_shm.shm.locks import DEFAULT_TIMEOUT
from sona_shm.shm.memory import EngineMemory
from sona_shm.shm.removal import destroy_memory


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


class Engine(BackgroundRequests, Saving):
    """One process's end of an engine: routes, adapts, records, gives feedback.

    Made by `Engine.create`, `Engine.attach` or `Engine.restore`.  Any process may attach by name;
    segments outlive processes until `Engine.destroy`.  After ``os.fork`` the child takes a lane of
    its own at first use.

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
        super().__init__(memory)
        self.name = memory.names.engine
        memory.at_close(_weak_release(self))
        self._learners: list[LearnerThread | LearnerProcess] = []
        self._finalizer = weakref.finalize(self, _shut_down, memory, self._learners)
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
        adapter: LoRA | None = None,
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
        adapter : LoRA, optional
            Becomes the BaseLoRA that the engine begins with, such as ``read_peft(DIRECTORY)``; of
            a rank up to ``config.base_lora_rank``.

        Raises
        ------
        EngineExists
            If the name is taken and may not be replaced.
        SharedMemoryTooSmall
            With the sizes; nothing is left behind.
        ConfigError
            For an impossible name or learner, a journal or reward without a learner, an adapter
            of too high a rank, a group that does not exist or that this user is not in.
        ShapeError, NonFiniteError
            If the adapter is for another hidden_dim, or not finite.

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
        options = learner_options(learner, journal, reward)
        if not isinstance(config, SonaConfig):
            raise ConfigError(f"config is {config!r}, expected a SonaConfig")
        memory = create_engine_memory(name, config, replace=replace, adapter=adapter)
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
        EngineNotFound, EngineNotReady, EngineForbidden, LayoutMismatch, CorruptSegment
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
        options = learner_options(learner, journal, reward)
        return cls._over(attach_memory(name, timeout), learner, options)

    @classmethod
    def restore(
        cls,
        name: str,
        path: str | os.PathLike[str],
        learner: LearnerKind | None = None,
        *,
        changes: Mapping[str, Any] | None = None,
        replace: bool = False,
        journal: str | os.PathLike[str] | None = None,
        reward: RewardFunction | None = None,
    ) -> Engine:
        """Make a new engine that knows what a checkpoint holds, and attach to it.

        Everything is checked before anything is made.  Weights, optimiser, bank, routes, counters
        and version are those of the checkpoint, bit for bit.  Lanes are new: feedback to decisions
        of the former engine is counted as `feedback_unknown`.

        Parameters
        ----------
        name : str
            Of the new engine.
        path : path
            A file, or a directory of them: its newest valid one is taken, and why newer ones are
            refused is logged.
        learner : {None, "inline", "thread", "process"}
            As in `create`.
        changes : mapping of str to value, optional
            Settings of `SonaConfig` that the new engine has otherwise; docs/operations.md says
            what each keeps.  Not ``routes``: change those of the running engine.
        replace : bool
            Take the place of an engine of that name that nobody uses.
        journal, reward
            As in `create`.

        Raises
        ------
        CheckpointError
            With the reason; nothing was made, and an engine of that name is untouched.
        EngineExists, SharedMemoryTooSmall, ConfigError
            As in `create`.

        Examples
        --------
        >>> import tempfile, sona_shm as sona
        >>> file = Path(tempfile.mkdtemp()) / "saved.safetensors"
        >>> config = sona.SonaConfig(hidden_dim=2, routes=[sona.Route("a"), sona.Route("b")])
        >>> with sona.Engine.create("doc-restore", config, learner="inline") as engine:
        ...     _ = engine.feedback(engine.route([1.0, 0.0]).id, quality=0.9)
        ...     _ = engine.save(file)
        >>> changes = {"max_workers": 32}
        >>> with sona.Engine.restore("doc-restore", file, changes=changes, replace=True) as engine:
        ...     engine.stats().counters.outcomes_learned, engine.config.max_workers
        (1, 32)
        >>> sona.Engine.destroy("doc-restore")
        """
        options = learner_options(learner, journal, reward)
        state = changed_state(load_checkpoint(Path(path)).state, changes or {})
        memory = restore_memory(name, state, replace=replace)
        try:
            return cls._over(memory, learner, options)
        except BaseException:
            destroy_memory(name)
            raise

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
        EngineForbidden
            If it is another user's to remove; nothing was changed.

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

    @property
    def is_current(self) -> bool:
        """Whether this engine is open here and is still the one of its name.

        False after `close`, and after it was destroyed or replaced: attach again.

        Examples
        --------
        >>> import sona_shm as sona
        >>> engine = sona.Engine.create("doc-current", sona.SonaConfig(hidden_dim=2))
        >>> engine.is_current
        True
        >>> sona.Engine.destroy("doc-current")
        >>> engine.is_current
        False
        >>> engine.close()
        """
        return self._memory.is_open and not self._memory.is_destroyed

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _after_fork(self) -> None:
        """In a forked child: the learner is the parent's."""
        for learner in self._learners:
            learner.abandon()
        self._learners.clear()

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
