"""Saving again and again: a process of its own, which only reads shared memory."""

from __future__ import annotations

import dataclasses
import logging
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Final

from sona_shm import _core
from sona_shm.checkpoint.rotation import new_path, newest_valid, remove_old, save_state
from sona_shm.checkpoint.state import EngineState
from sona_shm.checkpoint.take import take_state
from sona_shm.errors import CheckpointError
from sona_shm.shm.life_cycle import attach_memory
from sona_shm.shm.memory import EngineMemory

logger = logging.getLogger("sona_shm.checkpoint")
#: At most one line a second about what cannot be written.
_RETRY_SECONDS: Final = 1.0
_STOP_SECONDS: Final = 5.0
_LOOK_SECONDS: Final = 0.05


@dataclasses.dataclass(frozen=True, slots=True)
class CheckpointPlan:
    """Where, how often and how many.

    Attributes
    ----------
    directory : Path
        Made if it does not exist.
    every : float
        Seconds between two checkpoints.
    keep : int
        How many of the newest stay, 1 or more.

    Examples
    --------
    >>> CheckpointPlan(Path("/var/lib/sona")).keep
    5
    """

    directory: Path
    every: float = 300.0
    keep: int = 5


class Saver:
    """Saves one engine into one directory; nothing where the last file is there and says the same.

    Parameters
    ----------
    memory : EngineMemory
    plan : CheckpointPlan

    Raises
    ------
    CheckpointError
        If the directory cannot be made.
    """

    def __init__(self, memory: EngineMemory, plan: CheckpointPlan) -> None:
        self._memory = memory
        self._plan = plan
        self._reader = _core.Reader(memory.buffer("weights"), memory.geometry)
        memory.at_close(self._reader._release)
        make_directory(plan.directory)
        newest = newest_valid(plan.directory)
        self._last: tuple[Path, EngineState] | None = None
        if newest is not None:
            self._last = newest.path, newest.state

    def save(self) -> Path | None:
        """Save and remove what is too old; None if the last file is there and says the same.

        Raises
        ------
        CheckpointError
            If it could not be written; nothing is left behind.
        """
        state = take_state(self._memory, self._reader)
        if self._last is not None:
            file, saved = self._last
            if file.exists() and state.knows_the_same_as(saved):
                return None
        name, path = self._memory.names.engine, new_path(self._plan.directory, state.version)
        save_state(state, path, name)
        self._last = path, state
        remove_old(self._plan.directory, self._plan.keep)
        logger.info("saved version %d of %s in %s", state.version, name, path)
        return path


def make_directory(directory: Path) -> None:
    """Make a directory of checkpoints, unless it is there.

    Raises
    ------
    CheckpointError
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"cannot make the directory {directory} for checkpoints: {error.strerror}; choose "
            "another one"
        ) from None


def save_repeatedly(name: str, plan: CheckpointPlan, stop: threading.Event) -> None:
    """Save every so many seconds, until `stop` is set or the engine is destroyed.

    What cannot be written is logged, at most once a second, and tried again.
    """
    memory = attach_memory(name)
    try:
        saver = Saver(memory, plan)
        due = time.monotonic() + plan.every
        while not stop.is_set() and not memory.is_destroyed:
            # Not `stop.wait`: a signal handler sets the event, and would wait for ever for a lock
            # that the thread it interrupts holds.
            time.sleep(min(_LOOK_SECONDS, max(0.0, due - time.monotonic())))
            if not stop.is_set() and time.monotonic() >= due:
                due = time.monotonic() + _try_to_save(saver, plan, memory)
    finally:
        memory.close()


def _try_to_save(saver: Saver, plan: CheckpointPlan, memory: EngineMemory) -> float:
    """Seconds until the next attempt."""
    try:
        saver.save()
    except CheckpointError as error:
        logger.error("%s", error)
        memory.errors.note("checkpoint", error)
        return max(plan.every, _RETRY_SECONDS)
    return plan.every


class SaverProcess:
    """``sona save`` beside a learner, which ends with it however it dies, and is started again.

    A process, so that nothing of it competes with the learner for the interpreter's lock.

    Parameters
    ----------
    memory : EngineMemory
        Of the learner.
    plan : CheckpointPlan
    """

    def __init__(self, memory: EngineMemory, plan: CheckpointPlan) -> None:
        name = memory.names.engine
        self._errors = memory.errors
        # -P: whatever modules lie in the working directory, they are not meant.
        self._command = [
            *(sys.executable, "-P", "-m", "sona_shm.cli", "save", name, str(plan.directory)),
            *("--every", str(plan.every), "--keep", str(plan.keep), "--until-stdin-closes"),
        ]
        self._stopping = threading.Event()
        self._process = self._start()
        self._thread = threading.Thread(target=self._watch, name=f"sona save {name}", daemon=True)
        self._thread.start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)

    def _watch(self) -> None:
        """Start it again where it has ended by itself, at most once a second."""
        while True:
            status = self._process.wait()
            if self._stopping.wait(_RETRY_SECONDS):
                return
            problem = f"the saving process has ended with status {status}; starting another"
            logger.error("%s", problem)
            self._errors.note("checkpoint", problem)
            self._close_pipe()
            try:
                self._process = self._start()
            except OSError as error:
                logger.error("cannot start it: %s", error.strerror)
            if self._stopping.is_set():  # `stop` may have closed the pipe of the one before
                self._close_pipe()

    def _close_pipe(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    def stop(self) -> None:
        """End it within a bounded time; a checkpoint that it is writing is finished or left out."""
        self._stopping.set()
        self._close_pipe()
        self._thread.join(_STOP_SECONDS)
        if self._thread.is_alive():
            self._process.kill()
            self._thread.join()


def save_at_end(memory: EngineMemory, plan: CheckpointPlan) -> None:
    """The last checkpoint of a learner that ends in order; what goes wrong is logged."""
    try:
        Saver(memory, plan).save()
    except CheckpointError as error:
        logger.error("%s", error)
        memory.errors.note("checkpoint", error)
