"""``sona learner NAME``: the learner as a daemon."""

from __future__ import annotations

import argparse
import sys
from typing import Final

from sona_shm.checkpoint.saver import make_directory
from sona_shm.cli import daemon
from sona_shm.cli.arguments import add_plan_arguments, file_path, plan_of
from sona_shm.config import SonaConfig
from sona_shm.engine.ensure import ensure_engine
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
        "recorded, publish, save, end. Logs to standard error, at most one line a second.",
    )
    parser.add_argument("name", metavar="NAME", help="name of the engine")
    parser.add_argument(
        "--create",
        metavar="FILE",
        type=file_path,
        help="make the engine from this TOML or JSON configuration if it does not exist, from the "
        "newest valid checkpoint if there is one; an engine that exists keeps its configuration",
    )
    parser.add_argument(
        "--checkpoint",
        metavar="DIR",
        type=file_path,
        help="save what was learned in this directory, and once more at an orderly end",
    )
    add_plan_arguments(parser)
    parser.add_argument(
        "--journal",
        metavar="DIR",
        type=file_path,
        help="journal every decision and outcome in this directory; see sona replay",
    )
    parser.add_argument(
        "--reward",
        metavar="MODULE:FUNCTION",
        help="reward of an outcome, a function of sona_shm.Outcome; default: quality minus price",
    )
    parser.add_argument("--until-stdin-closes", action="store_true", help=argparse.SUPPRESS)
    parser.set_defaults(run=run, usage_error=parser.error)


def run(options: argparse.Namespace) -> int:
    """Be the learner until a signal, the end of standard input, or the engine's destruction."""
    if options.checkpoint is None and (options.every or options.keep):
        options.usage_error("--every and --keep belong to --checkpoint DIR")
    # The learner shares this process with a thread that waits for Loop B, and with one of refits.
    sys.setswitchinterval(_SWITCH_SECONDS)
    stop = daemon.begin(until_stdin_closes=options.until_stdin_closes)
    plan = None
    if options.checkpoint is not None:
        plan = plan_of(options, options.checkpoint)
        make_directory(plan.directory)
    if options.create is not None:
        ensure_engine(options.name, SonaConfig.from_file(options.create), options.checkpoint)
    reward = None if options.reward is None else load_reward(options.reward)
    run_learner(options.name, stop, LearnerOptions(options.journal, reward), plan)
    return 0
