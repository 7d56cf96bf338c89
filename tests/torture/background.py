"""Cycles of Loop B that are killed, or whose learner is, under load."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np

import sona_shm as sona
from sona_shm.shm.waiting import wait_until
from tests.torture.kills import Site
from tests.torture.processes import (
    LEARNER_PID,
    PATIENCE,
    Child,
    Report,
    Table,
    busy_delay,
)

COLUMNS = ("done", "skipped", "failed", "unanswered", "stop")


def ask_for_cycles(name: str, table: Table) -> None:
    """Body of the asking process: one cycle after the other."""
    cells = table.writer(0)
    with sona.Engine.attach(name) as engine:
        while not cells["stop"][0]:
            cells[engine.force_learn(timeout=5.0).status][0] += 1


def cycle_process_of(pid: int) -> int | None:
    """The process that computes a learner's cycle."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [(task / "children").read_text().split() for task in tasks]
    except OSError:
        return None  # the learner, or one of its threads, has ended meanwhile
    found = [int(child) for some in children for child in some]
    return found[0] if found else None


def cycles_left(name: str) -> list[int]:
    """Processes that still compute a cycle of this engine."""
    left = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(b"cycle_main" in word for word in words) and name.encode() in words:
            left.append(int(folder.name))
    return left


class _Killer:
    """Kills cycles and learners of a site, at random moments of a cycle."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.cycles = self.learners = 0

    def _running_cycle(self) -> int:
        control, found = self._site.engine._memory.control, None

        def running() -> bool:
            nonlocal found
            found = cycle_process_of(control.load(LEARNER_PID))
            return found is not None

        if not wait_until(running, PATIENCE) or found is None:
            raise TimeoutError("no cycle begins")
        return found

    def kill(self) -> None:
        """Kill the process of a cycle, or the learner that waits for it."""
        rng, pid = self._site.rng, self._running_cycle()
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            busy_delay(float(rng.uniform(0.0, 0.3)))
            if rng.integers(2):
                self._site.kill_the_learner()
                self.learners += 1
            else:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                self.cycles += 1
        except ProcessLookupError:
            pass  # the cycle had ended
        finally:
            os.close(descriptor)


def kill_cycles(name: str, seed: int, kills: int, workers: int = 2) -> Report:
    """SIGKILL cycles, and learners inside them, while a process asks for one after the other."""
    report = Report("cycles of Loop B killed")
    site = Site(name, seed, workers=workers, incarnations=workers, learners=2)
    table = Table(1, COLUMNS)
    asker = Child(ask_for_cycles, name, table)
    killer = _Killer(site)
    try:
        for _ in range(kills):
            killer.kill()
        done = int(table.column("done")[0])
        if not wait_until(lambda: int(table.column("done")[0]) > done, PATIENCE):
            raise TimeoutError("no cycle is done after the kills")
        table.writer(0)["stop"][0] = 1
        report.check(asker.join() == 0, "the asking process failed")
        x = np.full((3, site.engine.config.hidden_dim), 0.25, np.float32)
        report.check(bool(np.isfinite(site.engine.apply(x)).all()), "apply is not finite")
        site.finish(report)
        counters = sona.InstantLoopMetrics(**_counters(name))
        report.figures |= {
            "cycles killed": killer.cycles,
            "learners killed": killer.learners,
            "installed": counters.cycles_installed,
            "skipped": counters.cycles_skipped,
            "failed": counters.cycles_failed,
        }
        report.check(
            counters.cycles_failed <= killer.cycles,
            f"{counters.cycles_failed} cycles failed, {killer.cycles} were killed",
        )
        report.check(
            counters.cycles_installed >= int(table.column("done")[0]),
            f"{counters.cycles_installed} cycles installed, more were done",
        )
    finally:
        asker.kill()
        site.close()
    gone = wait_until(lambda: not cycles_left(name), PATIENCE)
    report.check(gone, f"cycles outlive their learners: {cycles_left(name)}")
    return report


def _counters(name: str) -> dict[str, int]:
    with sona.Engine.attach(name) as engine:
        return engine.stats().to_mapping()["counters"]  # type: ignore[no-any-return]  # plain values
