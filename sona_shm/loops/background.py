"""Loop B, background learning: patterns, consolidation, heads.

A cycle computes in a process of its own (`cycle_process`), from what is published; a thread of the
learner waits for it, checks what comes, and repeats the reservoir's outcomes over the new patterns
without the GIL.  Only the installation, between two flushes, is the learner's own: the MicroLoRA
is folded there, since it has moved meanwhile.  Where learning is inline, all of it happens in the
calling process at once, and only when asked for.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from sona_shm import _core
from sona_shm.config import SonaConfig
from sona_shm.errors import NonFiniteError
from sona_shm.learning.consolidation import Fold
from sona_shm.loops.cycle import PARTS, Findings, find
from sona_shm.loops.cycle_process import NICENESS, CycleProcess
from sona_shm.loops.findings import BadFindings
from sona_shm.loops.learn_result import HeadResult, LearnResult, store_result
from sona_shm.loops.refit import one_thread, prepare
from sona_shm.loops.working import WorkingBlocks
from sona_shm.shm.layout import OFFSETS
from sona_shm.shm.memory import EngineMemory

if TYPE_CHECKING:
    from typing_extensions import CapsuleType

#: Signals since the last cycle below which another one would find what the last one found: the
#: crate asks for 100 trajectories too.
FEWEST_SIGNALS: Final = 100
#: Outcomes repeated between two flushes while new patterns wait to be installed; less than a
#: flush of them takes.
_CATCH_UP: Final = 100
_REQUESTED: Final = OFFSETS["control_header.learn_requested"]
_SERVED: Final = OFFSETS["control_header.learn_served"]
logger = logging.getLogger("sona_shm.learner")


@dataclasses.dataclass(slots=True)
class _Cycle:
    """A cycle under way; written by its thread, read by the learner after `ended` is set."""

    findings: Findings | None = None
    refit: CapsuleType | None = None
    problem: str = ""
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    ended: bool = False
    installation: Iterator[LearnResult | None] | None = None


class BackgroundLoop:
    """Loop B of the learner; every method but `stop` is called with the learner's lock held.

    Parameters
    ----------
    memory : EngineMemory
    config : SonaConfig
    core : _core.Learner
    beside : bool
        Whether cycles run beside the learner, at intervals too; else in the calling process, and
        only when asked for.

    Attributes
    ----------
    parts : frozenset of str
        What a cycle does: all of `PARTS`, but in an ablation.
    """

    def __init__(
        self, memory: EngineMemory, config: SonaConfig, core: _core.Learner, *, beside: bool
    ) -> None:
        self.parts = PARTS
        self._memory, self._config, self._core = memory, config, core
        self._beside = beside
        self._interval = config.background_interval_ms / 1000.0
        self._due = time.monotonic() + self._interval
        self._cycle: _Cycle | None = None
        self._process: CycleProcess | None = None
        self._thread: threading.Thread | None = None
        self._stopping = False

    # ---- when ----

    @property
    def is_asked(self) -> bool:
        """Whether a request is unanswered."""
        return self._memory.control.load(_REQUESTED) != self._memory.control.load(_SERVED)

    @property
    def may_begin(self) -> bool:
        """Whether a cycle is asked for or due, and none is under way."""
        if self._cycle is not None:
            return False
        return self.is_asked or (self._beside and time.monotonic() >= self._due)

    @property
    def may_install(self) -> bool:
        """Whether a cycle has ended, and the learner has repeated what came meanwhile."""
        cycle = self._cycle
        if cycle is None or not cycle.ended:
            return False
        if cycle.installation is not None:
            return True
        return cycle.refit is None or self._core.catch_up_refit(cycle.refit, _CATCH_UP) == 0

    # ---- what ----

    def begin(self) -> None:
        """Start a cycle; without enough signals it has ended already."""
        self._cycle = _Cycle()
        signals = WorkingBlocks(self._core, self._memory.geometry).signals_since
        if signals < FEWEST_SIGNALS:
            self._cycle.ended = True
        elif self._beside:
            self._thread = threading.Thread(
                target=self._run, args=(self._cycle,), name="sona background", daemon=True
            )
            self._thread.start()
        else:
            self._compute(self._cycle)

    def _run(self, cycle: _Cycle) -> None:
        """Body of the thread."""
        self._compute(cycle)
        self._memory.bell.ring()

    def _compute(self, cycle: _Cycle) -> None:
        try:
            cycle.findings = self._find()
            started = time.perf_counter()
            cycle.refit = self._repeat(cycle.findings)
            cycle.seconds["repeating"] = time.perf_counter() - started
        except BadFindings as error:
            self._memory.errors.note("background cycle", error)
            cycle.problem = str(error)
        except Exception as error:
            # The learner counts it as cycles_failed, and goes on with what there is.
            logger.exception("a cycle of Loop B has failed")
            self._memory.errors.note("background cycle", error)
            cycle.problem = repr(error)
        except BaseException:
            # Ctrl-C where learning is inline: a part of a cycle is none.
            cycle.problem = "it was interrupted"
            raise
        finally:
            cycle.ended = True

    def _find(self) -> Findings:
        if not self._beside:
            return find(self._memory, self._config, self.parts)
        if self._process is not None and self._process.has_ended:
            self._process.end()
            self._process = None
        if self._process is None:
            self._process = CycleProcess(self._memory.names.engine, self.parts)
        if self._stopping:  # `stop` may have looked before there was a process
            self._process.kill()
        return self._process.findings(self._memory.geometry)

    def _repeat(self, findings: Findings) -> CapsuleType | None:
        """The reservoir's outcomes over the new patterns, if there are some.

        In a thread of low priority, which does nothing else: while it computes it does not
        hold the GIL.  One that held it and was not scheduled would keep the learner waiting.
        """
        if findings.fit is None:
            return None
        if not self._beside:
            return prepare(self._core, findings.fit, findings.rows, scheduled=False)
        lower = partial(os.nice, NICENESS)  # under Linux of this thread alone
        with ThreadPoolExecutor(1, "sona repeat", initializer=lower) as pool:
            repeat = partial(prepare, self._core, findings.fit, findings.rows, scheduled=False)
            return pool.submit(repeat).result()

    def install_part(self) -> LearnResult | None:
        """Make the next part of what the cycle has found part of the working blocks.

        Publish after each, so that Loop A waits for none of them longer than for a flush; with the
        last one comes the result, to `answer` with.
        """
        started = time.perf_counter()
        cycle = self._cycle
        assert cycle is not None
        if cycle.installation is None:
            working = WorkingBlocks(self._core, self._memory.geometry)
            cycle.installation = self._install(working, cycle)
        result = next(cycle.installation)
        took = time.perf_counter() - started
        cycle.seconds["installing"] = cycle.seconds.get("installing", 0.0) + took
        if result is None:
            return None
        self._cycle = self._thread = None
        self._due = time.monotonic() + self._interval
        seconds = cycle.findings.seconds | cycle.seconds if cycle.findings else {}
        return dataclasses.replace(result, seconds=seconds)

    def _install(self, working: WorkingBlocks, cycle: _Cycle) -> Iterator[LearnResult | None]:
        """Part by part; the last one is the result."""
        findings, version = cycle.findings, working.snapshot.version
        if cycle.problem:
            working.snapshot.count("cycles_failed")
            yield LearnResult("failed", cycle.problem)
        elif findings is None:
            working.snapshot.count("cycles_skipped")
            yield LearnResult(
                "skipped",
                f"{working.signals_since} signals since the last cycle, which needs "
                f"{FEWEST_SIGNALS}",
            )
        else:
            stale = cycle.refit is not None and self._core.refits != findings.refits
            if cycle.refit is not None and not stale:
                self._core.install_refit(cycle.refit)
                yield None
            folded = None
            if "consolidation" in self.parts:
                try:
                    with one_thread():
                        folded = working.consolidate()
                except (NonFiniteError, np.linalg.LinAlgError) as error:
                    working.snapshot.count("cycles_failed")
                    yield LearnResult("failed", str(error))
                yield None
            result = self._install_heads(working, findings, folded, stale)
            yield dataclasses.replace(result, version_before=version)

    def _install_heads(
        self, working: WorkingBlocks, findings: Findings, folded: Fold | None, stale: bool
    ) -> LearnResult:
        heads = []
        for route, head in findings.heads.items():
            if head.change is not None:
                # A change and not a head: what was learned meanwhile stays.
                working.snapshot.head(route)[:] += head.change
                working.snapshot.count("heads_refitted")
            heads.append(HeadResult(route, head.rows, head.improvement, head.change is not None))
        working.note_learned()
        working.snapshot.count("cycles_installed")
        return LearnResult(
            "done",
            _why_no_patterns(findings, stale),
            rows=findings.rows,
            patterns_found=findings.found,
            patterns_pruned=findings.pruned,
            patterns_merged=findings.merged,
            patterns_installed=0 if findings.fit is None or stale else len(findings.fit.sizes),
            patterns_improvement=findings.improvement,
            heads=tuple(heads),
            consolidated=folded is not None,
            truncation_error=folded.spectral_error if folded else 0.0,
            truncation_relative=folded.relative_error if folded else 0.0,
        )

    def answer(self, result: LearnResult) -> LearnResult:
        """Tell those who asked, those too who did while the cycle ran."""
        version = WorkingBlocks(self._core, self._memory.geometry).snapshot.version
        result = dataclasses.replace(result, version_after=version)
        control = self._memory.control
        asked = control.load(_REQUESTED)
        store_result(self._memory, result)
        control.store(_SERVED, asked)
        return result

    # ---- end ----

    def stop(self) -> None:
        """End a cycle that is under way; it is lost."""
        self._stopping = True
        process, thread = self._process, self._thread
        if process is not None:
            process.kill()
        if thread is not None:
            thread.join()
        if self._process is not None:
            self._process.end()
            self._process = None

    def abandon(self) -> None:
        """In a forked child the cycle is the parent's."""
        if self._process is not None:
            self._process.abandon()
        self._cycle = self._process = self._thread = None


def _why_no_patterns(findings: Findings, stale: bool) -> str:
    if stale:
        return "the patterns were refitted meanwhile, and are newer than the cycle's"
    if findings.found and findings.fit is None:
        return "the patterns in use predict held-out outcomes better"
    return ""
