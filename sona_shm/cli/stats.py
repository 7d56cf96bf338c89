"""``sona stats NAME``: one look at an engine."""

from __future__ import annotations

import argparse

from rich.console import Console

from sona_shm.engine import Engine
from sona_shm.monitor import tables
from sona_shm.monitor.json_text import to_json


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "stats",
        help="show what an engine's workers and learner have done and lost",
        description="Show what an engine's workers and learner have done and lost. Writes nothing "
        "to the engine and works when learner or workers are dead.",
    )
    parser.add_argument("name", metavar="NAME", help="name of the engine")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the statistics."""
    with Engine.attach(options.name, timeout=0.0) as engine:
        stats = engine.stats()
    if options.json:
        print(to_json(stats.to_mapping()))
    else:
        Console(highlight=False).print(tables.everything(stats))
    return 0
