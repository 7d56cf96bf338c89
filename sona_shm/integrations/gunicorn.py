"""Hooks for ``gunicorn.conf.py``.

::

    from sona_shm.integrations.gunicorn import GunicornHooks

    sona = GunicornHooks("router", "engine.toml", learners=2)
    on_starting, on_reload, on_exit = sona.on_starting, sona.on_reload, sona.on_exit
    post_fork, child_exit = sona.post_fork, sona.child_exit

What gunicorn calls where, and what is done there:

===============  ========  ========================================================================
hook             process   what
===============  ========  ========================================================================
``on_starting``  master    make the engine unless it exists; start learners
``on_reload``    master    the same, after SIGHUP: what runs already goes on
``post_fork``    worker    attach, claim a lane
``child_exit``   master    say what the worker did and whether its lane is free; replace learners
                           that have died
``on_exit``      master    stop the learners, which learn what is recorded and publish
===============  ========  ========================================================================

The engine stays when gunicorn ends: what it has learned is there at the next start, until
``sona destroy`` or a reboot.

SIGHUP runs the configuration file again, and so makes new hooks while the learners of the former
ones are at work.  Hence learners are kept here, in the module.  gunicorn collects every child of
the master that ends, learners too, and calls no hook for those: a learner that died is replaced
when the next worker comes to its end, or at SIGHUP; meanwhile the standby learns.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Protocol

from sona_shm.checkpoint.saver import CheckpointPlan, make_directory
from sona_shm.config import SonaConfig
from sona_shm.engine import Engine
from sona_shm.engine.ensure import ensure_engine
from sona_shm.errors import ConfigError, NoFreeLaneError, SonaError
from sona_shm.integrations.learners import LearnerPool
from sona_shm.integrations.worker import worker_engine
from sona_shm.loops.drain import LearnerOptions
from sona_shm.monitor.departed import last_lane_of
from sona_shm.shm.memory import EngineMemory
from sona_shm.shm.waiting import wait_until

_pools: Final[dict[str, LearnerPool]] = {}
#: A program that a dead worker was just starting has the lane's descriptor until it is executed.
_RELEASE_SECONDS: Final = 0.1
_LOOK_SECONDS: Final = 0.05


class Arbiter(Protocol):
    """What of gunicorn's master is used."""

    log: logging.Logger  # or rather something with the same methods
    cfg: Any


class Worker(Protocol):
    """What of a gunicorn worker is used."""

    log: logging.Logger  # or rather something with the same methods
    cfg: Any
    pid: int

    def notify(self) -> None:
        """Tell the master that the worker is alive."""


class GunicornHooks:
    """Makes the workers of a gunicorn server use one engine, and has it learn.

    Parameters
    ----------
    name : str
        Of the engine; handlers get it with ``worker_engine(name)``.
    config : SonaConfig or path
        Of the engine where it has to be made; a path is that of a TOML or JSON file.
    learners : int
        Learner processes that the master keeps: 1, or 2 with a standby that takes over within
        20 ms.  0 where a daemon learns (``sona learner``), which also takes a reward function.
    journal : path, optional
        Directory in which the learner journals decisions and outcomes.
    checkpoint : path, optional
        Directory in which the learner saves every five minutes and at its end, and from whose
        newest file the engine begins where it has to be made.

    Raises
    ------
    ConfigError
        For an impossible number of learners, or directories of learners that there are none of.

    Examples
    --------
    >>> hooks = GunicornHooks("router", "engine.toml", learners=2)
    >>> post_fork = hooks.post_fork
    """

    def __init__(
        self,
        name: str,
        config: SonaConfig | str | os.PathLike[str],
        *,
        learners: int = 1,
        journal: str | os.PathLike[str] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> None:
        if type(learners) is not int or not 0 <= learners <= 16:
            raise ConfigError(f"learners is {learners!r}, expected an integer from 0 to 16")
        if not learners and (journal is not None or checkpoint is not None):
            raise ConfigError(
                "journal and checkpoint belong to learners, and learners is 0; give them to the "
                "daemon: sona learner NAME --journal DIR --checkpoint DIR"
            )
        self.name = name
        self._config = config if isinstance(config, SonaConfig) else Path(config)
        self._learners = learners
        self._journal = None if journal is None else Path(journal)
        self._checkpoint = None if checkpoint is None else Path(checkpoint)

    # ---- in the master ----

    def on_starting(self, server: Arbiter) -> None:
        """Make the engine unless it exists, and start the learners; gunicorn ends if it cannot."""
        try:
            self._prepare(server)
        except SonaError as error:
            server.log.error("sona: %s", error)
            sys.exit(1)

    def on_reload(self, server: Arbiter) -> None:
        """The same after SIGHUP; where it fails, everything goes on as it was."""
        with _survived(server.log, "going on as before"):
            self._prepare(server)

    def _prepare(self, server: Arbiter) -> None:
        config = self._config
        if not isinstance(config, SonaConfig):
            config = SonaConfig.from_file(config)
        if not config.group:
            _require_one_user(server.cfg)
        plan = None
        if self._checkpoint is not None:
            plan = CheckpointPlan(self._checkpoint)
            make_directory(plan.directory)
        ensure_engine(self.name, config, self._checkpoint)
        lanes = worker_engine(self.name).config.max_workers
        _require_lanes(self.name, lanes, server)
        pool = _pools.setdefault(self.name, LearnerPool(self.name))
        pool.arrange(self._learners, LearnerOptions(self._journal), plan)
        server.log.info(
            "sona: engine %s, %d lanes, %d learner processes", self.name, lanes, self._learners
        )

    def child_exit(self, server: Arbiter, worker: Worker) -> None:
        """After a worker's end, SIGKILL included: its lane has fallen free by itself."""
        with _survived(server.log, f"worker {worker.pid} has gone"):
            _report(self.name, server.log, worker.pid)
        with _survived(server.log, "the next exit of a worker tries again to replace a learner"):
            for pid in _pools[self.name].replace_dead() if self.name in _pools else ():
                server.log.warning("sona: a learner of %s had died; started %d", self.name, pid)

    def on_exit(self, server: Arbiter) -> None:
        """Have the learners learn and publish what is recorded, and end; the engine stays."""
        if self.name in _pools:
            _pools.pop(self.name).stop()
        server.log.info("sona: engine %s stays; sona destroy %s removes it", self.name, self.name)

    # ---- in a worker ----

    def post_fork(self, _server: Arbiter, worker: Worker) -> None:
        """Attach and claim a lane, before the first request.

        At SIGHUP the former workers may still have all lanes; they are waited for.  A worker that
        gets none ends, and gunicorn starts another one: it would have to fail its requests.
        """
        with _survived(worker.log, "requests fail until that is mended"):
            try:
                lane = _claim(worker_engine(self.name), worker)
            except NoFreeLaneError as error:
                worker.log.error("sona: %s", error)
                sys.exit(1)
            worker.log.info("sona: worker %d has lane %d of %s", worker.pid, lane, self.name)


@contextlib.contextmanager
def _survived(log: logging.Logger, consequence: str) -> Iterator[None]:
    """Log what goes wrong.  What a hook raises would end the master, and all workers with it."""
    try:
        yield
    except SonaError as error:
        log.error("sona: %s; %s", error, consequence)
    except Exception:
        log.exception("sona: %s", consequence)


def _require_one_user(cfg: Any) -> None:
    if cfg.uid != os.geteuid():
        raise ConfigError(
            f"gunicorn runs as user {os.geteuid()} and its workers as {cfg.uid}, but an engine "
            "belongs to one user; start gunicorn as the workers' user (in systemd: User=) and "
            "leave out its setting user, or name a group in the engine's configuration"
        )


def _require_lanes(name: str, lanes: int, server: Arbiter) -> None:
    workers = server.cfg.workers
    if lanes < workers:
        raise ConfigError(
            f"{workers} workers need as many lanes, and {name!r} was created with max_workers = "
            f"{lanes}; start fewer, or make it anew: sona restore --replace --set max_workers=N"
        )
    if lanes < 2 * workers:
        server.log.warning(
            "sona: %d workers and %d lanes: at SIGHUP new workers wait until old ones have gone; "
            "max_workers should be twice the number of workers",
            workers,
            lanes,
        )


def _claim(engine: Engine, worker: Worker) -> int:
    """A lane, as soon as there is one within the time that former workers have to go."""
    deadline = time.monotonic() + worker.cfg.graceful_timeout
    while True:
        try:
            return engine.claim_lane()
        except NoFreeLaneError:
            if time.monotonic() >= deadline:
                raise
        worker.notify()
        time.sleep(_LOOK_SECONDS)


def _report(name: str, log: logging.Logger, pid: int) -> None:
    memory = worker_engine(name)._memory
    wait_until(lambda: not _holds_lane(memory, pid), _RELEASE_SECONDS)
    departed = last_lane_of(memory, pid)
    if departed is None:
        log.info("sona: worker %d has gone, and has no lane any more", pid)
    elif departed.held:
        log.warning(
            "sona: worker %d has gone, but lane %d is held: a process that it started without "
            "Python's fork hooks has its descriptors; the lane is lost until that one ends",
            *(pid, departed.lane),
        )
    else:
        log.info(
            "sona: worker %d has gone; lane %d is free; it decided %d, recorded %d, dropped %d",
            *(pid, departed.lane, departed.decisions, departed.recorded, departed.dropped),
        )


def _holds_lane(memory: EngineMemory, pid: int) -> bool:
    departed = last_lane_of(memory, pid)
    return departed is not None and departed.held
