"""``sona learner NAME``: the learner as a daemon."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Final

from sona_shm.config import SonaConfig
from sona_shm.engine import Engine
from sona_shm.errors import EngineExists
from sona_shm.learner import run as run_learner
from sona_shm.loops.drain import LearnerOptions
from sona_shm.loops.reward import load_reward

#: How long one thread may keep the GIL while another one waits; Python's own 5 ms are a stall.
_SWITCH_SECONDS: Final = 1e-4


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "learner",
        help="learn what an engine's workers record, until stopped",
        description="Learn what an engine's workers record. If another learner is at work, stand "
        "by and take over when it ends, however it ends. SIGTERM and SIGINT: learn what is "
        "recorded, publish, end. Logs to standard error, at most one line a second.",
    )
    parser.add_argument("name", metavar="NAME", help="name of the engine")
    parser.add_argument(
        "--create",
        metavar="FILE",
        help="create the engine from this TOML or JSON configuration if it does not exist; one "
        "that exists keeps its own configuration",
    )
    parser.add_argument(
        "--journal",
        metavar="DIR",
        type=Path,
        help="journal every decision and outcome in this directory; see sona replay",
    )
    parser.add_argument(
        "--reward",
        metavar="MODULE:FUNCTION",
        help="reward of an outcome, a function of sona_shm.Outcome; default: quality minus price",
    )
    parser.add_argument("--until-stdin-closes", action="store_true", help=argparse.SUPPRESS)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Be the learner until a signal, the end of standard input, or the engine's destruction."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(name)s %(message)s", stream=sys.stderr
    )
    # The learner shares this process with a thread that waits for Loop B, and with one of refits.
    sys.setswitchinterval(_SWITCH_SECONDS)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if options.until_stdin_closes:
        logging.getLogger().setLevel(logging.WARNING)
        # Ctrl-C reaches the whole group; the parent says when to end.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Thread(target=_watch_stdin, args=(stop,), daemon=True).start()
    if options.create is not None:
        config = SonaConfig.from_file(options.create)
        with contextlib.suppress(EngineExists):
            Engine.create(options.name, config).close()
    reward = None if options.reward is None else load_reward(options.reward)
    run_learner(options.name, stop, LearnerOptions(options.journal, reward))
    return 0


def _watch_stdin(stop: threading.Event) -> None:
    """The parent holds the other end of this pipe and never writes: an end means it is gone.

    Read without Python's buffers, whose lock this thread would hold at the end of the program.
    """
    while os.read(0, 1):
        pass
    stop.set()
