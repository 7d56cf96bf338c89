"""Children that may be killed at any moment, and the table in which they say what they did."""

from __future__ import annotations

import dataclasses
import mmap
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

import sona_shm as sona
from sona_shm.learner import run
from sona_shm.shm.layout import OFFSETS
from sona_shm.shm.waiting import wait_until

PATIENCE: Final = 60.0
LEARNER_PID: Final = OFFSETS["control_header.learner_pid"]


@dataclasses.dataclass(slots=True)
class Report:
    """What a scenario found: figures for people, and problems, which should be none."""

    scenario: str
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)
    problems: list[str] = dataclasses.field(default_factory=list)

    def check(self, good: bool, problem: str) -> None:
        """Note a problem unless all is well."""
        if not good:
            self.problems.append(problem)


class Child:
    """A forked process that runs one function and then ends without a word.

    ``os.fork`` and not `multiprocessing`: nothing of the parent's may run in the child at its end,
    and a child that is killed must leave nothing for the parent to tidy but its exit status.
    """

    def __init__(self, function: Callable[..., None], *arguments: Any) -> None:
        self.pid = os.fork()
        self._ended, self._status = False, 0
        if self.pid == 0:
            status = 1
            try:
                function(*arguments)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)

    def kill(self) -> None:
        """SIGKILL, and wait until the kernel has buried it."""
        if not self._ended:
            os.kill(self.pid, signal.SIGKILL)
            self.join()

    def has_ended(self) -> bool:
        """Whether it has ended by itself; looks, and waits for nothing."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def join(self, timeout: float = PATIENCE) -> int:
        """Wait for the end; the exit status as `os.waitstatus_to_exitcode` gives it."""
        status = 0
        if self._ended:
            return self._status

        def ended() -> bool:
            nonlocal status
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            return pid != 0

        if not wait_until(ended, timeout):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            raise TimeoutError(f"process {self.pid} did not end within {timeout:g} s")
        self._ended = True
        self._status = os.waitstatus_to_exitcode(status)
        return self._status


class Table:
    """Rows of 64-bit counts shared with forked children; each row has one writer."""

    def __init__(self, rows: int, columns: tuple[str, ...]) -> None:
        self._memory = mmap.mmap(-1, max(1, rows * len(columns)) * 8)
        self._columns = {name: i for i, name in enumerate(columns)}
        self.rows: NDArray[np.int64] = np.frombuffer(self._memory, np.int64).reshape(
            rows, len(columns)
        )

    def column(self, name: str) -> NDArray[np.int64]:
        """One column, live."""
        values: NDArray[np.int64] = self.rows[:, self._columns[name]]
        return values

    def writer(self, row: int) -> dict[str, NDArray[np.int64]]:
        """One-element views of a row's cells by column."""
        return {name: self.rows[row, i : i + 1] for name, i in self._columns.items()}


def busy_delay(seconds: float) -> None:
    """Spend a random moment; this decides when to kill and synchronises nothing."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def learn(name: str, journal: Path | None = None) -> None:
    """Body of a learner process: the holder of the lease, or a standby for it."""
    run(name, threading.Event(), sona.LearnerOptions(journal))


def await_learner(engine: sona.Engine, pids: set[int]) -> int:
    """Wait until one of these processes holds the lease; its pid."""
    memory = engine._memory

    def found() -> bool:
        return memory.control.load(LEARNER_PID) in pids and memory.lock_states()[0]

    if not wait_until(found, PATIENCE):
        raise TimeoutError(f"none of the learners {pids} took the lease")
    return memory.control.load(LEARNER_PID)
