"""The learner's side of Loop A: drain, learn, publish.

Whoever holds the lease may have one of these.  The learned state is a function of the records
alone; `step` decides only when it becomes visible:

* at the latest after ``flush_threshold`` signals,
* once every lane is drained, when the oldest unpublished signal is ``flush_interval_ms`` old,
* when a process asks (`InstantLoop.flush`),
* when a refit of the patterns, or a cycle of Loop B, is installed.
"""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from pathlib import Path
from typing import Final

from sona_shm import _core
from sona_shm.config import SonaConfig
from sona_shm.errors import NotTheLearner
from sona_shm.learning.snapshot import Snapshot
from sona_shm.loops.background import BackgroundLoop
from sona_shm.loops.journal import LearnerJournal
from sona_shm.loops.learn_result import LearnResult
from sona_shm.loops.refit import Refit
from sona_shm.loops.reward import RewardFunction, reward_hook
from sona_shm.shm import fork
from sona_shm.shm.layout import OFFSETS
from sona_shm.shm.memory import EngineMemory
from sona_shm.trajectory import QueryTrajectory, unpack_trajectory

_REQUESTED: Final = OFFSETS["control_header.flush_requested"]
_SERVED: Final = OFFSETS["control_header.flush_served"]
NEVER: Final = float("inf")


@dataclasses.dataclass(frozen=True, slots=True)
class LearnerOptions:
    """What a learner is started with, beside the configuration of its engine.

    Attributes
    ----------
    journal : Path or None
        Directory to journal decisions and outcomes in.
    reward : callable or None
        The reward of an outcome; None: quality minus price.

    Examples
    --------
    >>> LearnerOptions(journal=Path("/var/log/sona")).reward is None
    True
    """

    journal: Path | None = None
    reward: RewardFunction | None = None


class DrainLoop:
    """Holds the lease on an engine and learns what its workers record.

    Parameters
    ----------
    memory : EngineMemory
    config : SonaConfig
    options : LearnerOptions
    keep : bool
        Whether learned trajectories stay in their lanes, in at most half of each, for
        `drain_trajectories`.

    Raises
    ------
    NotTheLearner
        If another process, or another loop of this one, holds the lease.
    """

    def __init__(
        self,
        memory: EngineMemory,
        config: SonaConfig,
        options: LearnerOptions | None = None,
        *,
        keep: bool = False,
    ) -> None:
        options = options or LearnerOptions()
        if not memory.try_lease():
            raise NotTheLearner(
                f"the lease of {memory.names.engine!r} is held by process "
                f"{memory.control.load(OFFSETS['control_header.learner_pid'])}; "
                "wait for it to end, or work as a worker"
            )
        self._memory = memory
        self._threshold = config.flush_threshold
        interval = config.flush_interval_ms
        self._interval = NEVER if interval is None else interval / 1000.0
        self._oldest = NEVER  # monotonic time of the oldest unpublished record
        self._lock = threading.Lock()
        self._waiting = threading.Lock()  # held by a thread that sleeps on the bell
        default = config.default_quality
        self._settles = default is not None
        self._journal: LearnerJournal | None = None
        try:
            self._core = _core.Learner(
                memory.buffer("control"),
                memory.buffer("ring"),
                memory.buffer("weights"),
                memory.geometry,
                adapter_rate=config.micro_lora_lr,
                head_rate=config.head_lr,
                forgetting=config.forgetting,
                flush_threshold=config.flush_threshold,
                reference=config.update_rule == "reference",
                keep=keep,
                journal=options.journal is not None,
                ewc=config.ewc_lambda,
                default_quality=float("nan") if default is None else default,
                feedback_timeout=config.feedback_timeout_s,
                reward=reward_hook(options.reward, self._route_name, memory.errors.note),
            )
            self._refit = Refit(memory, config, self._core)
            # Who keeps trajectories learns in the process that records them.
            self.background = BackgroundLoop(memory, config, self._core, beside=not keep)
            memory.at_close(self._refit.wait)
            memory.at_close(self.background.stop)
            memory.at_close(self._core.release)
            if options.journal is not None:
                self._journal = LearnerJournal(options.journal, memory, config, self._core)
            control = memory.control
            control.store(OFFSETS["control_header.learner_pid"], os.getpid())
            control.store(OFFSETS["control_header.learner_since_ns"], time.time_ns())
            control.add(OFFSETS["control_header.learner_terms"], 1)
        except BaseException:
            memory.release_lease()
            raise
        fork.register(self)

    def step(self) -> int:
        """Learn at most one flush worth of records; returns how many were consumed."""
        with self._lock:
            asked = self._memory.control.load(_REQUESTED)
            if asked != self._memory.control.load(_SERVED):
                consumed = self._drain_all()
                self._publish(force=True)
                self._memory.control.store(_SERVED, asked)
                return consumed
            self._learn_in_background()
            if self._settles:
                self._core.settle()
            room = max(1, self._threshold - self._core.unpublished)
            consumed = self._core.drain(room)
            self._refit_if_due()
            if self._core.unpublished == 0:
                return consumed
            now = time.monotonic()
            self._oldest = min(self._oldest, now)
            caught_up = consumed < room and not self._core.journal_is_behind
            full = self._core.unpublished >= self._threshold
            if full or (caught_up and now - self._oldest >= self._interval):
                self._publish()
            return consumed

    def drain_once(self) -> int:
        """Learn all that the lanes hold at this moment, without publishing it."""
        with self._lock:
            return self._drain_all()

    def _drain_all(self) -> int:
        if self._settles:
            self._core.settle()
        consumed = self._core.drain_all()
        while self._refit_if_due() or self._core.journal_is_behind:
            if self._core.journal_is_behind:
                self._publish()
            consumed += self._core.drain_all()
        return consumed

    def _refit_if_due(self) -> bool:
        """Install the next refit where the learner has to wait for it, else let it begin."""
        if not self._core.refit_is_due:
            self._refit.begin_if_due()
            return False
        self._refit.install()
        # At once: a successor may need the rows of the reservoir that come next anew.
        self._publish()
        return True

    def _learn_in_background(self) -> LearnResult | None:
        """Begin a cycle of Loop B that is due, or install one that has ended."""
        background = self.background
        if background.may_begin:
            if background.is_asked:
                self._drain_all()  # what was recorded before the request counts
                self._publish(force=True)
            background.begin()
        if not background.may_install:
            return None
        result = background.install_part()
        self._publish()
        return None if result is None else background.answer(result)

    def learn(self) -> LearnResult:
        """Run a cycle of Loop B in the calling process; only where learning is inline."""
        with self._lock:
            self._drain_all()
            self._publish(force=True)
            self.background.begin()
            while (result := self._learn_in_background()) is None:
                pass
            return result

    def _publish(self, *, force: bool = False) -> None:
        if force:
            self._core.apply_reference()
        if self._journal is not None:
            # Before: what is published as learned is in the journal, too.
            self._journal.write()
        self._core.publish()
        self._oldest = NEVER

    def _route_name(self, index: int) -> str:
        return Snapshot(memoryview(self._core), self._memory.geometry).route(index).name

    def flush(self) -> None:
        """Learn all that is recorded at this moment, apply and publish it."""
        with self._lock:
            self._drain_all()
            self._publish(force=True)

    def wait(self, seconds: float) -> None:
        """Sleep until a producer rings, at most `seconds`, at most until a publication is due."""
        with self._waiting:
            due = self._oldest + self._interval - time.monotonic()
            if due > 0.0 and self._core.may_sleep():
                try:
                    # After `may_sleep`, whose fence belongs to this look at the requests, too.
                    if not self.background.may_begin:
                        self._memory.bell.wait(min(seconds, due))
                finally:
                    self._core.wakes()

    def working_snapshot(self) -> Snapshot:
        """A copy of what the next publication will hold."""
        with self._lock:
            block = memoryview(self._core)[: self._memory.sizes["snapshot_bytes"]]
            return Snapshot(bytes(block), self._memory.geometry)

    def drain_trajectories(self, limit: int | None = None) -> list[QueryTrajectory]:
        """Take learned trajectories out of the lanes, oldest first in each lane."""
        taken: list[QueryTrajectory] = []
        with self._lock:
            while limit is None or len(taken) < limit:
                decoded = self._core.take()
                if decoded is None:
                    break
                taken.append(unpack_trajectory(decoded))
        return taken

    def _after_fork(self) -> None:
        """In a forked child: nobody drains here, and the lease is the parent's."""
        self._core.after_fork()
        self._refit.abandon()
        self.background.abandon()
        self._journal = None
        self._lock = threading.Lock()
        self._waiting = threading.Lock()

    def close(self) -> None:
        """Release the lease.  What was learned and not published is learned again from there."""
        self._memory.bell.ring()  # for a thread that waits
        with self._waiting, self._lock:
            self._refit.wait()
            self.background.stop()
            self._core.release()
            if self._journal is not None:
                self._journal.close()
            self._memory.release_lease()


def require_learner(memory: EngineMemory, drain: DrainLoop | None) -> DrainLoop:
    """The drain loop of this process, or the error that says why there is none."""
    memory.require_open()
    if drain is None:
        raise NotTheLearner(
            "draining belongs to the learner; this process is a worker. Create the engine with "
            "learner='inline', or drain where the learner runs"
        )
    return drain
