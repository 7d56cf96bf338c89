"""The learner as a process of its own, a thread, or whoever calls `Learner.step`.

One learner holds the lease of an engine; others wait for it as standbys and take over within
``STANDBY_SECONDS`` when the kernel releases it, whatever the holder died of.
"""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Final

from sona_shm.checkpoint.saver import CheckpointPlan, SaverProcess, save_at_end
from sona_shm.errors import NotTheLearner, SonaError
from sona_shm.loops.drain import DrainLoop, LearnerOptions
from sona_shm.loops.engine_memory import config_of
from sona_shm.loops.reward import reward_path
from sona_shm.shm.layout import OFFSETS
from sona_shm.shm.life_cycle import attach_memory
from sona_shm.shm.memory import EngineMemory
from sona_shm.shm.waiting import wait_until

STANDBY_SECONDS: Final = 0.02
IDLE_SECONDS: Final = 0.1
_STOP_SECONDS: Final = 5.0
#: A new interpreter on a host whose cores are all taken.
_START_SECONDS: Final = 30.0
logger = logging.getLogger("sona_shm.learner")


class Learner:
    """Learns what the workers of an engine record, while it holds the lease.

    Parameters
    ----------
    name : str
        Name of the engine.
    timeout : float
        Seconds to wait for the lease; 0 takes it now or not at all.
    options : LearnerOptions, optional
        Journal and reward function.

    Raises
    ------
    NotTheLearner
        If the lease did not fall free in time.
    EngineNotFound, EngineNotReady, LayoutMismatch, CorruptSegment
        For the state the engine is in.

    Examples
    --------
    >>> import sona_shm as sona
    >>> engine = sona.Engine.create("doc-learner", sona.SonaConfig(hidden_dim=2))
    >>> with Learner("doc-learner") as learner:
    ...     _ = engine.record(sona.QueryTrajectory(1, [0.0, 1.0]).finalize(0.8))
    ...     learner.step()
    1
    >>> engine.close(); sona.Engine.destroy("doc-learner")
    """

    def __init__(
        self, name: str, timeout: float = 0.0, options: LearnerOptions | None = None
    ) -> None:
        self._memory = attach_memory(name)
        try:
            self._drain = _take_lease(self._memory, timeout, threading.Event(), options)
        except BaseException:
            self._memory.close()
            raise

    def step(self) -> int:
        """Learn at most one flush worth of records; returns how many were consumed.

        Examples
        --------
        >>> import sona_shm as sona
        >>> engine = sona.Engine.create("doc-step", sona.SonaConfig(hidden_dim=2))
        >>> with Learner("doc-step") as learner:
        ...     learner.step()
        0
        >>> engine.close(); sona.Engine.destroy("doc-step")
        """
        return self._drain.step()

    def wait(self, seconds: float) -> None:
        """Sleep until there is something to do, for at most `seconds`.

        Examples
        --------
        >>> import sona_shm as sona
        >>> engine = sona.Engine.create("doc-wait", sona.SonaConfig(hidden_dim=2))
        >>> with Learner("doc-wait") as learner:
        ...     learner.wait(0.001)
        >>> engine.close(); sona.Engine.destroy("doc-wait")
        """
        self._drain.wait(seconds)

    def close(self) -> None:
        """Learn and publish what is recorded, and give the lease back.  Idempotent.

        Examples
        --------
        >>> import sona_shm as sona
        >>> engine = sona.Engine.create("doc-close", sona.SonaConfig(hidden_dim=2))
        >>> Learner("doc-close").close()
        >>> engine.close(); sona.Engine.destroy("doc-close")
        """
        if self._memory.is_open:
            self._drain.flush()
            self._drain.close()
            self._memory.close()

    def __enter__(self) -> Learner:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _take_lease(
    memory: EngineMemory, timeout: float, stop: threading.Event, options: LearnerOptions | None
) -> DrainLoop:
    """The lease, within `timeout` seconds or before `stop` is set."""
    config = config_of(memory)
    deadline = time.monotonic() + timeout
    while True:
        try:
            drain = DrainLoop(memory, config, options)
            memory.end_standby()
            return drain
        except NotTheLearner:
            if time.monotonic() >= deadline or stop.is_set() or memory.is_destroyed:
                memory.end_standby()
                raise
        memory.stand_by()
        # Not `stop.wait`: a signal handler sets the event, and would wait for ever for a lock that
        # the thread it interrupts holds.
        time.sleep(STANDBY_SECONDS)


def run(
    name: str,
    stop: threading.Event,
    options: LearnerOptions | None = None,
    plan: CheckpointPlan | None = None,
) -> None:
    """Be the learner, or a standby for it, until `stop` is set or the engine is destroyed.

    At the end, everything recorded is learned and published.  Logs at most one line a second.
    With a `plan`, the learner has checkpoints written beside it, and writes a last one itself.
    """
    memory = attach_memory(name)
    # At exit the owner of a learner thread stops it first; the thread then closes its memory.
    memory.leave_at_exit()
    try:
        lease, _ = memory.lock_states()
        if lease:
            logger.info("standing by for the learner of %s", name)
        try:
            drain = _take_lease(memory, float("inf"), stop, options)
        except NotTheLearner:
            return
        logger.info("learning for %s", name)
        with _saving(memory, plan):
            _run_with_lease(memory, drain, stop)
            drain.close()
        if plan is not None and not memory.is_destroyed:
            save_at_end(memory, plan)
    except Exception as error:
        memory.errors.note("learner", error)
        raise
    finally:
        memory.close()


@contextlib.contextmanager
def _saving(memory: EngineMemory, plan: CheckpointPlan | None) -> Iterator[None]:
    """Have another process save the engine meanwhile."""
    saver = None if plan is None else SaverProcess(memory, plan)
    try:
        yield
    finally:
        if saver is not None:
            saver.stop()


def _run_with_lease(memory: EngineMemory, drain: DrainLoop, stop: threading.Event) -> None:
    learned, reported = 0, time.monotonic()
    while not stop.is_set() and not memory.is_destroyed:
        consumed = drain.step()
        learned += consumed
        if consumed == 0:
            drain.wait(IDLE_SECONDS)
        if learned and time.monotonic() - reported >= 1.0:
            logger.info("learned %d records", learned)
            learned, reported = 0, time.monotonic()
    drain.flush()
    if memory.is_destroyed:
        logger.warning("the engine %s was destroyed; ending", memory.names.engine)


class LearnerThread:
    """A learner in a thread of the process that owns the engine object."""

    def __init__(self, name: str, options: LearnerOptions) -> None:
        self._stop = threading.Event()
        # Daemonic, so that a program that forgets close() can still end.
        self._thread = threading.Thread(
            target=self._run, args=(name, options), name=f"sona learner {name}", daemon=True
        )
        self._thread.start()

    def _run(self, name: str, options: LearnerOptions) -> None:
        try:
            run(name, self._stop, options)
        except SonaError:
            logger.exception("the learner thread of %s has ended", name)

    @property
    def is_alive(self) -> bool:
        """Whether the thread still runs."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Learn what is recorded and end, within a bounded time."""
        self._stop.set()
        self._thread.join(_STOP_SECONDS)

    def abandon(self) -> None:
        """In a forked child there is no such thread."""


class LearnerProcess:
    """A learner in a process of its own, which ends with the process that started it.

    The child watches its standard input: the pipe closes when its parent is gone, however it
    died, and then the child drains, publishes and ends.
    """

    def __init__(
        self, name: str, options: LearnerOptions, plan: CheckpointPlan | None = None
    ) -> None:
        command = [sys.executable, "-m", "sona_shm.cli", "learner", name, "--until-stdin-closes"]
        if options.journal is not None:
            command += ["--journal", str(options.journal)]
        if options.reward is not None:
            command += ["--reward", reward_path(options.reward)]
        if plan is not None:
            command += ["--checkpoint", str(plan.directory)]
            command += ["--every", str(plan.every), "--keep", str(plan.keep)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether the process still runs; also where somebody else has waited for it."""
        return self._process.poll() is None

    def stop(self) -> None:
        """Learn what is recorded and end, within a bounded time."""
        assert self._process.stdin is not None
        # A signal would end one that is still starting with nothing learned; the end of its
        # standard input waits for it.
        self._process.stdin.close()
        for insist in (self._process.terminate, self._process.kill):
            try:
                self._process.wait(_STOP_SECONDS)
                return
            except subprocess.TimeoutExpired:
                insist()
        self._process.wait()

    def abandon(self) -> None:
        """In a forked child: the learner is the parent's, and so is its end of the pipe."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.returncode = 0  # or it would be waited for


def start_learner(
    memory: EngineMemory, kind: str, options: LearnerOptions
) -> LearnerThread | LearnerProcess:
    """Start a learner and wait until it holds the lease.

    Raises
    ------
    NotTheLearner
        If there is one already, or this one does not get the lease within a bounded time.
    """
    name = memory.names.engine
    if memory.lock_states()[0]:
        raise NotTheLearner(
            f"the engine {name!r} has a learner already, process {learner_pid(memory)}; attach "
            "without one, or run a standby: sona learner"
        )
    learner: LearnerThread | LearnerProcess = (
        LearnerThread(name, options) if kind == "thread" else LearnerProcess(name, options)
    )
    wait_until(lambda: memory.lock_states()[0] or not learner.is_alive, _START_SECONDS)
    if memory.lock_states()[0]:
        return learner
    ended = "ended before it took" if not learner.is_alive else "did not take"
    learner.stop()
    raise NotTheLearner(
        f"the learner {kind} of {name!r} {ended} the lease, within {_START_SECONDS:g} s; its log "
        "says why"
    )


def learner_pid(memory: EngineMemory) -> int:
    """Process id of the last learner, for people to read."""
    return memory.control.load(OFFSETS["control_header.learner_pid"])
