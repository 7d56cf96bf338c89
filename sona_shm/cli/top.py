"""``sona top NAME``: an engine, live."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from typing import Any

from rich.console import Console

from sona_shm.cli.arguments import seconds
from sona_shm.errors import SonaError
from sona_shm.monitor import tables
from sona_shm.monitor.json_text import to_json
from sona_shm.monitor.rates import Rates
from sona_shm.watch import Look, Watch


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "top",
        help="watch an engine's workers, routes and losses live",
        description="Watch an engine's workers, routes and losses in this terminal. Writes nothing "
        "to the engine, works when learner or workers are dead, and waits for an engine of that "
        "name if it is destroyed or replaced meanwhile. Keys: q quit, p pause, s and r sort the "
        "lanes, arrows scroll, ? help.",
    )
    parser.add_argument("name", metavar="NAME", help="name of the engine")
    parser.add_argument(
        "--interval",
        metavar="SECONDS",
        type=seconds,
        default=1.0,
        help="time between two looks (1)",
    )
    parser.add_argument(
        "--once",
        action="store_true",
        help="look twice, an interval apart, print what was found and end; needs no terminal",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object a line after each interval until stopped, or one with --once",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Show the engine once or again and again."""
    with contextlib.closing(Watch(options.name)) as watch:
        first = watch.look()
        if first.problem:
            raise SonaError(first.problem)
        if options.once or options.json:
            _print(watch, first, options)
            return 0
        _require_terminal()
        return _show(watch, options.interval)


def _print(watch: Watch, before: Look, options: argparse.Namespace) -> None:
    while True:
        time.sleep(options.interval)
        look = watch.look()
        rates = look.rates_since(before)
        if options.json:
            print(to_json(_mapping(look, rates)), flush=True)
        elif look.stats is not None:
            Console(highlight=False).print(tables.everything(look.stats, rates))
        if options.once and look.problem:
            raise SonaError(look.problem)
        if options.once:
            return
        before = look


def _mapping(look: Look, rates: Rates | None) -> dict[str, Any]:
    if look.stats is None:
        return {"problem": look.problem}
    return look.stats.to_mapping() | {"rates": None if rates is None else rates.to_mapping()}


def _require_terminal() -> None:
    streams = (sys.stdin, sys.stdout, sys.stderr)
    if os.environ.get("TERM", "dumb") == "dumb" or not all(stream.isatty() for stream in streams):
        raise SonaError(
            "the live view needs a terminal as standard input, output and error, and TERM other "
            "than dumb; use --once or --json"
        )


def _show(watch: Watch, interval: float) -> int:
    try:
        from sona_shm.top.view import TopApp
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "textual":
            raise
        raise SonaError(
            'the live view needs textual: pip install "sona-shm[monitor]"; --once does without'
        ) from None
    app = TopApp(watch, interval)
    app.run()
    return app.return_code or 0
