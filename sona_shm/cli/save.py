"""``sona save NAME PATH``: what an engine has learned, to a file or, again and again, to many."""

from __future__ import annotations

import argparse
import os
import signal

from sona_shm.checkpoint.saver import save_repeatedly
from sona_shm.cli import daemon
from sona_shm.cli.arguments import add_plan_arguments, file_path, plan_of
from sona_shm.engine import Engine
from sona_shm.loops.cycle_process import NICENESS


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "save",
        help="save what an engine has learned",
        description="Save what an engine has learned and published; its workers and its learner go "
        "on. PATH is a file, or a directory in which a new file is made. With --every, save again "
        "and again, into a directory, until stopped.",
    )
    parser.add_argument("name", metavar="NAME", help="name of the engine")
    parser.add_argument("path", metavar="PATH", type=file_path, help="file or directory")
    add_plan_arguments(parser)
    parser.add_argument("--until-stdin-closes", action="store_true", help=argparse.SUPPRESS)
    parser.set_defaults(run=run, usage_error=parser.error)


def run(options: argparse.Namespace) -> int:
    """Save once and say where, or repeatedly."""
    if options.every is not None:
        return _run_repeatedly(options)
    if options.keep is not None:
        options.usage_error("--keep belongs to --every SECONDS")
    with Engine.attach(options.name) as engine:
        print(engine.save(options.path))
    return 0


def _run_repeatedly(options: argparse.Namespace) -> int:
    stop = daemon.begin(until_stdin_closes=options.until_stdin_closes)
    if options.until_stdin_closes:
        # A signal to the whole group is the learner's: it saves once more, and ends this process.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.nice(NICENESS)
    save_repeatedly(options.name, plan_of(options, options.path), stop)
    return 0
