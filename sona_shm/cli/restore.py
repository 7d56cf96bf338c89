"""``sona restore NAME PATH``: an engine from a checkpoint, as it was or with other settings."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from datetime import UTC, datetime

from sona_shm.checkpoint.rotation import load_checkpoint
from sona_shm.cli.arguments import add_settings, file_path
from sona_shm.engine import Engine
from sona_shm.errors import EngineExists, EngineInUse


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "restore",
        help="make an engine from a checkpoint, also with another size",
        description="Make an engine from a checkpoint: a file, or the newest valid one of a "
        "directory. Everything is checked before anything is made. With --set, the new engine has "
        "other capacities, ranks or settings; docs/checkpoints.md says what each keeps.",
    )
    parser.add_argument("name", metavar="NAME", help="name of the new engine")
    parser.add_argument("path", metavar="PATH", type=file_path, help="file or directory")
    add_settings(parser, "max_workers=64")
    parser.add_argument(
        "--replace",
        action="store_true",
        help="take the place of an engine of that name that nobody uses",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Restore and say what."""
    logging.basicConfig(format="sona: %(message)s", stream=sys.stderr)
    checkpoint = load_checkpoint(options.path)
    changes = dict(options.settings)
    try:
        engine = Engine.restore(
            options.name, checkpoint.path, changes=changes, replace=options.replace
        )
    except EngineInUse:
        raise
    except EngineExists:
        raise EngineExists(
            f"the name {options.name!r} is taken and nobody uses it; give --replace to put the "
            "restored engine in its place, or restore it under another name"
        ) from None
    with engine:
        stats = engine.stats()
    taken = datetime.fromtimestamp(checkpoint.time_ns / 1e9, UTC).isoformat(timespec="seconds")
    about = {
        "name": options.name,
        "path": str(checkpoint.path),
        "engine": checkpoint.engine,
        "taken": taken,
        "version": stats.version,
        "outcomes_learned": stats.counters.outcomes_learned,
        "trajectories_processed": stats.counters.trajectories_processed,
        "changes": changes,
    }
    if options.json:
        print(json.dumps(about))
    else:
        print(
            f"restored {options.name} from {checkpoint.path}: version {stats.version} of "
            f"{checkpoint.engine}, {stats.counters.outcomes_learned:,} outcomes, taken {taken}"
        )
    return 0
