"""``sona destroy NAME`` removes an engine, ``sona destroy --dead`` what no living process uses."""

from __future__ import annotations

import argparse
import sys

from rich.console import Console

from sona_shm.cli.doctor import engine_table
from sona_shm.errors import EngineInUse, SonaError
from sona_shm.monitor.diagnosis import counted
from sona_shm.monitor.host import HostEngine, HostReport, look_at_host
from sona_shm.shm.removal import destroy_memory, remove_as_seen


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "destroy",
        help="remove an engine, or all that no living process uses, from this host",
        description="Remove an engine's shared memory. What it has learned is lost. Refuses while "
        "workers or a learner use it. With --dead: remove every engine of yours that no living "
        "process records into or learns for, engines that were never finished, and parts that are "
        "left of others; sona doctor lists them. A process that is attached and has not recorded "
        "yet does not count as a user: it gets EngineNotFound at its first record.",
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help="name of the engine")
    parser.add_argument(
        "--dead", action="store_true", help="remove all that no living process uses"
    )
    parser.add_argument(
        "--yes", action="store_true", help="with --dead: do not ask before engines are removed"
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="with NAME: also while it is in use; its processes keep their memory until they end, "
        "its learner ends",
    )
    parser.set_defaults(run=run, usage_error=parser.error)


def run(options: argparse.Namespace) -> int:
    """Destroy, or say who uses it."""
    if (options.name is None) != options.dead:
        options.usage_error("expected either NAME or --dead")
    if options.dead:
        if options.force:
            options.usage_error("--force belongs to NAME")
        return _destroy_dead(look_at_host(), options.yes)
    if options.yes:
        options.usage_error("--yes belongs to --dead")
    try:
        destroy_memory(options.name, force=options.force)
    except EngineInUse as error:
        print(f"sona: {error}; --force removes it all the same", file=sys.stderr)
        return 1
    return 0


# ---- what no living process uses ----


def _destroy_dead(report: HostReport, sure: bool) -> int:
    dead = [engine for engine in report.engines if engine.is_dead]
    learned = [engine for engine in dead if engine.state not in ("half-made", "leftover")]
    if learned:
        Console().print(engine_table(learned))
        if not (sure or _confirmed(counted(len(learned), "engine"))):
            return 1
    elif not dead:
        print("nothing to remove")
    failures = sum(not remove_dead(engine) for engine in dead)
    return 1 if failures else 0


def _confirmed(what: str) -> bool:
    if not sys.stdin.isatty():
        text = "no terminal to ask on, so nothing was removed; give --yes to remove these engines"
        print(f"sona: {text}", file=sys.stderr)
        return False
    answer = input(f"remove {what} and all that was learned there? [y/N] ")
    return answer.strip().lower() in ("y", "yes")


def remove_dead(engine: HostEngine) -> bool:
    """Remove one if it is still as dead as it was seen, and say so; False if that failed."""
    try:
        removed = remove_as_seen(engine.name, engine.inode)
    except EngineInUse as error:
        print(f"kept {engine.name}: {error}")
    except SonaError as error:
        print(f"sona: {engine.name}: {error}", file=sys.stderr)
        return False
    else:
        gone = f"{engine.name} was removed or made anew meanwhile"
        print(f"removed {engine.name} ({engine.state})" if removed else gone)
    return True
