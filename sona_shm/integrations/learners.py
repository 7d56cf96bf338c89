"""The learner processes that a server's master keeps."""

from __future__ import annotations

from sona_shm.checkpoint.saver import CheckpointPlan
from sona_shm.learner import LearnerProcess
from sona_shm.loops.drain import LearnerOptions
from sona_shm.shm import fork


class LearnerPool:
    """As many learner processes as are wanted; one learns, the others stand by.

    They end with the process that started them, however it dies.  A forked child has none: it
    closes its copies of the pipes by which they notice.

    Parameters
    ----------
    name : str
        Of the engine.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._processes: list[LearnerProcess] = []
        self._arguments: tuple[LearnerOptions, CheckpointPlan | None] = (LearnerOptions(), None)
        fork.register(self)

    @property
    def pids(self) -> list[int]:
        """Process ids, the oldest first; dead ones are there until they are replaced."""
        return [process.pid for process in self._processes]

    def arrange(self, count: int, options: LearnerOptions, plan: CheckpointPlan | None) -> None:
        """Have `count` learners run with these arguments; those that do already go on."""
        if self._arguments != (options, plan):
            self.stop()
            self._arguments = options, plan
        for surplus in self._processes[count:]:
            surplus.stop()
        del self._processes[count:]
        self.replace_dead()
        for _ in range(count - len(self._processes)):
            self._start()

    def replace_dead(self) -> list[int]:
        """Start a learner for each one that has died; the process ids of the new ones."""
        dead = [process for process in self._processes if not process.is_alive]
        started = []
        for process in dead:
            started.append(self._start().pid)
            self._processes.remove(process)
            process.stop()  # only its pipe is left
        return started

    def _start(self) -> LearnerProcess:
        process = LearnerProcess(self._name, *self._arguments)
        self._processes.append(process)
        return process

    def stop(self) -> None:
        """Have them learn and publish what is recorded, and end; within a bounded time."""
        while self._processes:
            self._processes.pop().stop()

    def _after_fork(self) -> None:
        while self._processes:
            self._processes.pop().abandon()
