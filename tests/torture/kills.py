"""Workers killed inside their calls, and learners killed under load."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

import sona_shm as sona
from sona_shm.shm.waiting import wait_until
from tests.torture import watch
from tests.torture.books import COLUMNS, check_books, check_lanes, check_lanes_free
from tests.torture.load import torture_config, work
from tests.torture.processes import (
    PATIENCE,
    Child,
    Report,
    Table,
    await_learner,
    busy_delay,
    learn,
)

#: What the issue allows.
LONGEST_STALL_SECONDS = 1.0
_STOP = -1


class Site:
    """An engine with its learners, its workers and a process that watches for stalls."""

    def __init__(self, name: str, seed: int, *, workers: int, incarnations: int, learners: int):
        self.rng = np.random.default_rng(seed)
        self.engine = sona.Engine.create(name, torture_config(seed, max_workers=workers + 1))
        self.table = Table(1 + incarnations, COLUMNS)
        self._watch_table = Table(1, watch.COLUMNS)
        self._next_row = 1
        self._learner_kills = 0
        self.journal = Path(tempfile.mkdtemp(prefix="journal-"))
        self.learners = [Child(learn, name, self.journal) for _ in range(learners)]
        await_learner(self.engine, self.learner_pids())
        self._watcher = Child(watch.watch_for_stalls, name, self._watch_table)
        self.workers: dict[int, Child] = {}
        for _ in range(workers):
            self.add_worker()

    def learner_pids(self) -> set[int]:
        """Of the holder and of the standbys."""
        return {learner.pid for learner in self.learners}

    def add_worker(self) -> None:
        """Start another worker, with a row of its own."""
        row, self._next_row = self._next_row, self._next_row + 1
        seed = int(self.rng.integers(2**32))
        self.workers[row] = Child(work, self.engine.name, self.table, row, seed)

    def kill_a_worker(self) -> None:
        """Kill one that records already, at a random moment, and replace it."""
        row = int(self.rng.choice(list(self.workers)))
        await_progress(self.table, row)
        busy_delay(float(self.rng.exponential(0.003)))
        self.workers.pop(row).kill()
        self.table.writer(row)["killed"][0] = 1
        self.add_worker()

    def kill_the_learner(self) -> None:
        """Kill whoever holds the lease, at a random moment; a standby takes over.

        Most live about 5 ms; some live long enough to get past a refit, which all wait for.
        """
        pid = await_learner(self.engine, self.learner_pids())
        self._learner_kills += 1
        busy_delay(float(self.rng.exponential(0.005 if self._learner_kills % 4 else 0.1)))
        holder = next(learner for learner in self.learners if learner.pid == pid)
        self.learners.remove(holder)
        holder.kill()
        await_learner(self.engine, self.learner_pids())
        self.learners.append(Child(learn, self.engine.name, self.journal))

    def finish(self, report: Report) -> None:
        """Let the survivors go on for a while, stop everything, compare the books."""
        await_learner(self.engine, self.learner_pids())
        for row in self.workers:
            await_progress(self.table, row)
        self.table.writer(0)["lane"][0] = _STOP
        for worker in self.workers.values():
            report.check(worker.join() == 0, f"the worker {worker.pid} failed")
        check_books(self.engine, report)
        check_lanes(self.engine, self.table, report)
        self._check_feedback(report)
        self._check_journal(report)
        self._watch_table.writer(0)["stop"][0] = 1
        report.check(self._watcher.join() == 0, "the watching process failed")
        longest = int(self._watch_table.column("longest_wait_ns")[0]) / 1e9
        report.figures["longest_stall_ms"] = round(longest * 1000, 3)
        report.figures["looks"] = int(self._watch_table.column("looks")[0])
        report.check(longest <= LONGEST_STALL_SECONDS, f"the learner stalled for {longest:.3f} s")
        check_lanes_free(self.engine, report)

    def _check_feedback(self, report: Report) -> None:
        """No slot is overwritten here: feedback is learned, or it is a repetition."""
        counters = self.engine.stats().counters
        strays = counters.feedback_expired + counters.feedback_unknown
        report.check(strays == 0, f"feedback strayed: {counters}")
        repeated = int(self.table.column("repeated_feedbacks").sum())
        killed = int(self.table.column("killed").sum())
        report.check(
            repeated <= counters.feedback_duplicate <= repeated + killed,
            f"{counters.feedback_duplicate} duplicates, expected {repeated} to {repeated + killed}",
        )

    def _check_journal(self, report: Report) -> None:
        """What is published as learned was journaled before, so a kill loses nothing of it."""
        stats, journal = self.engine.stats(), sona.read_journal(self.journal)
        counters = stats.counters
        outcomes = int(np.isfinite(journal.quality).sum()) + journal.orphans
        learned = counters.feedback_processed - counters.feedback_duplicate
        report.figures["journal"] = {
            "decisions": len(journal),
            "outcomes": outcomes,
            "files": journal.files,
            "torn": journal.torn,
            "repeated": journal.duplicates,
        }
        report.check(journal.corrupt == 0, f"{journal.corrupt} broken batches in the journal")
        report.check(outcomes == learned, f"{outcomes} outcomes journaled, {learned} learned")
        report.check(
            len(journal) + counters.journal_missed == stats.decisions,
            f"{len(journal)} decisions journaled, {counters.journal_missed} missed, "
            f"{stats.decisions} made",
        )
        report.check(counters.refits_installed > 0, "no refit was installed")

    def close(self) -> None:
        """End what still runs, and remove the engine."""
        shutil.rmtree(self.journal)
        for child in [self._watcher, *self.learners, *self.workers.values()]:
            child.kill()
        self.engine.close()
        sona.Engine.destroy(self.engine.name)


def await_progress(table: Table, row: int, records: int = 50) -> None:
    """Wait until a worker has recorded that much more than now."""
    done = table.column("done_trajectories")
    goal = int(done[row]) + records
    if not wait_until(lambda: int(done[row]) >= goal, PATIENCE):
        raise TimeoutError(f"the worker of row {row} does not get on: {table.rows[row]}")


def _repeat(site: Site, report: Report, kills: int, kill: Callable[[], None]) -> Report:
    try:
        for _ in range(kills):
            kill()
        report.figures["kills"] = kills
        site.finish(report)
    finally:
        site.close()
    return report


def kill_workers(name: str, seed: int, kills: int, workers: int = 3) -> Report:
    """SIGKILL workers inside record, feedback and route while a learner runs."""
    site = Site(name, seed, workers=workers, incarnations=workers + kills, learners=1)
    return _repeat(site, Report("workers killed"), kills, site.kill_a_worker)


def kill_learners(name: str, seed: int, kills: int, workers: int = 2) -> Report:
    """SIGKILL the learner under load while a standby waits."""
    site = Site(name, seed, workers=workers, incarnations=workers, learners=2)
    return _repeat(site, Report("learner killed"), kills, site.kill_the_learner)
