"""Learners, and the processes that save beside them, killed again and again."""

from __future__ import annotations

import dataclasses
import tempfile
import threading
from pathlib import Path

import numpy as np

import sona_shm as sona
from sona_shm.checkpoint.format import read_checkpoint
from sona_shm.checkpoint.rotation import list_checkpoints, newest_valid
from sona_shm.checkpoint.saver import CheckpointPlan, save_repeatedly
from sona_shm.checkpoint.state import EngineState, set_field
from sona_shm.shm.layout import LEARNER_COUNTERS, OFFSETS
from sona_shm.shm.waiting import wait_until
from tests.checkpoints import blank_times, state_of
from tests.torture.bit_equal import Recorder, fixed_config, record_all
from tests.torture.processes import (
    PATIENCE,
    Child,
    Report,
    await_learner,
    busy_delay,
    learn,
)

_KEEP = 3
#: More records than any run of this scenario learns.
_ENDLESS = 10**9
#: An unkilled engine repeats what led to checkpoints of at most so many records.
_REPEATED = 40_000


def _save(name: str, directory: Path) -> None:
    """Body of a saving process: as often as it can."""
    save_repeatedly(name, CheckpointPlan(directory, every=0.0, keep=_KEEP), threading.Event())


class _Site:
    """An engine, its only worker, and the directory it is saved in."""

    def __init__(
        self, name: str, seed: int, directory: Path, report: Report, *, cycles: bool
    ) -> None:
        self.rng = np.random.default_rng(seed)
        config = fixed_config("exact")
        if cycles:
            config = dataclasses.replace(config, background_interval_ms=1)
        self.engine = sona.Engine.create(name, config)
        self.cycles = cycles
        self._kills = 0
        self.directory = directory
        self.report = report
        self.taken: dict[int, EngineState] = {}
        self._worker = Child(record_all, name, seed, _ENDLESS)

    def _newest_version(self) -> int:
        found = list_checkpoints(self.directory)
        return read_checkpoint(found[0]).state.version if found else -1

    def kill(self, catch_up: bool) -> None:
        """One learner and one saver: both die at random moments, in either order.

        Where the saver may catch up, it lives until it has saved all that the learner published.
        """
        name = self.engine.name
        before = self._newest_version()
        learner = Child(learn, name)
        saver = Child(_save, name, self.directory)
        try:
            await_learner(self.engine, {learner.pid})
            wait_until(lambda: self._newest_version() > before, PATIENCE)
            victims = [learner, saver]
            if not catch_up and self.rng.integers(2):
                victims.reverse()
            self._kills += 1
            if self.cycles and self._kills % 6 == 1:
                self._await_cycle()
            busy_delay(float(self.rng.exponential(0.004)))
            victims[0].kill()
            if catch_up:
                version = self.engine._version()
                wait_until(lambda: self._newest_version() == version, PATIENCE)
            busy_delay(float(self.rng.exponential(0.002)))
        finally:
            learner.kill()
            saver.kill()
        self._check(before, catch_up)

    def _await_cycle(self) -> None:
        """Until the learner has installed a cycle of Loop B; it would die too soon for most."""
        begun = self.engine.stats().counters.cycles_installed
        wait_until(
            lambda: (
                not self.engine.stats().learner_alive
                or self.engine.stats().counters.cycles_installed > begun
            ),
            PATIENCE,
        )

    def _check(self, before: int, caught_up: bool) -> None:
        report = self.report
        newest = newest_valid(self.directory)
        if newest is None or newest.state.version <= before:
            report.check(False, f"after version {before}, the newest checkpoint is {newest}")
            return
        report.check(
            newest.path == list_checkpoints(self.directory)[0], f"{newest.path} is not the newest"
        )
        live = state_of(self.engine)
        if caught_up:
            report.check(
                newest.state.equals(live), f"version {live.version} was not saved as it is"
            )
        restored = f"{self.engine.name[:20]}-r"
        with sona.Engine.restore(restored, self.directory) as engine:
            report.check(
                state_of(engine).equals(newest.state),
                f"version {newest.state.version} was restored as something else",
            )
        sona.Engine.destroy(restored)
        records = _records_of(newest.state)
        if records <= _REPEATED:
            self.taken[records] = newest.state

    def close(self) -> None:
        self._worker.kill()
        self.engine.close()
        sona.Engine.destroy(self.engine.name)


def _records_of(state: EngineState) -> int:
    return state.counter("trajectories_processed") + state.counter("feedback_processed")


def _comparable(state: EngineState) -> EngineState:
    """What is a function of the records alone."""
    blank_times(state)
    set_field(state.tensors["header"], "snapshot_header.version", 0)
    counters = state.tensors["header"][OFFSETS["snapshot_header.counters"] :].view("<u8")
    counters[LEARNER_COUNTERS.index("flushes_performed")] = 0
    return state


def _compare_with_unkilled(
    name: str, seed: int, taken: dict[int, EngineState], report: Report
) -> None:
    """An engine whose learner lives meets the same records; looks where a checkpoint was taken."""
    compared = 0
    with sona.Engine.create(name, fixed_config("exact"), "inline") as engine:
        recorded = 0

        def compare() -> None:
            nonlocal compared
            if recorded in taken:
                same = _comparable(state_of(engine)).equals(_comparable(taken[recorded]))
                report.check(same, f"the checkpoint of {recorded} records is not what they teach")
                compared += 1

        def count() -> None:
            nonlocal recorded
            recorded += 1
            compare()

        compare()  # a learner may be saved before the first record comes
        recorder = Recorder(engine, seed, count)
        while recorded < max(taken):
            recorder.one()
    sona.Engine.destroy(name)
    report.figures["compared with an unkilled learner"] = compared
    report.check(compared == len(taken), f"{compared} of {len(taken)} checkpoints were compared")


def kill_while_saving(name: str, seed: int, kills: int, *, cycles: bool = False) -> Report:
    """SIGKILL learners and savers; the newest checkpoint always restores, bit for bit.

    With cycles of Loop B one after the other beside them; what is learned then depends on when
    they are installed, so there is no unkilled learner to compare with.
    """
    beside = ", beside Loop B" if cycles else ""
    report = Report(f"killed while checkpoints are written{beside}")
    with tempfile.TemporaryDirectory(prefix="checkpoints-") as directory:
        site = _Site(name, seed, Path(directory), report, cycles=cycles)
        try:
            for number in range(kills):
                site.kill(catch_up=number % 3 == 2)
            report.figures |= {
                "kills of a learner": kills,
                "kills of a saver": kills,
                "last version": state_of(site.engine).version,
                "cycles installed": site.engine.stats().counters.cycles_installed,
                "unfinished files": len(list(Path(directory).glob(".unfinished-*"))),
            }
        finally:
            site.close()
        if cycles:
            report.check(bool(report.figures["cycles installed"]), "no cycle was ever installed")
            return report
        report.check(bool(site.taken), "no checkpoint was early enough to be compared")
        if site.taken:
            _compare_with_unkilled(name, seed, site.taken, report)
    return report
