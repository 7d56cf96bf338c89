"""Parses the command line and hands over to the command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from sona_shm.cli import (
    demo,
    destroy,
    doctor,
    export,
    learn,
    learner,
    replay,
    restore,
    save,
    serve,
    size,
    stats,
    top,
)
from sona_shm.errors import SonaError

EXIT_CODES = """\
exit codes:
  0  done
  1  it could not be done; the reason is on standard error
  2  the command line is wrong
"""


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="sona",
        description="Shared-memory online learning for LLM routers that run as many processes.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in (
        *(demo, size, learner, learn, stats, top, serve, doctor),
        *(save, restore, replay, export, destroy),
    ):
        command.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    options = build_parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except SonaError as error:
        print(f"sona: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone, as `head` does; what is still buffered must not raise.
        sys.stderr.close()
        return 1
    return code
