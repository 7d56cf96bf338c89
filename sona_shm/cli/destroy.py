"""``sona destroy NAME``: remove an engine."""

from __future__ import annotations

import argparse
import sys

from sona_shm.engine import Engine
from sona_shm.errors import CorruptSegment, EngineNotReady, LayoutMismatch
from sona_shm.monitor.stats import EngineStats


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "destroy",
        help="remove an engine from this host",
        description="Remove an engine's shared memory. What it has learned is lost. Refuses while "
        "workers or a learner use it.",
    )
    parser.add_argument("name", metavar="NAME", help="name of the engine")
    parser.add_argument(
        "--force",
        action="store_true",
        help="also while it is in use, and whatever state it is in; its processes keep their "
        "memory until they end, its learner ends",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Destroy, or say who uses it."""
    if not options.force and (users := _users(options.name)):
        print(
            f"sona: {options.name} is in use by {users}; stop them first, or give --force",
            file=sys.stderr,
        )
        return 1
    Engine.destroy(options.name)
    return 0


def _users(name: str) -> str:
    """Who uses the engine, for people; empty if nobody does or it is no engine yet."""
    try:
        with Engine.attach(name, timeout=0.0) as engine:
            stats: EngineStats = engine.stats()
    except (EngineNotReady, LayoutMismatch, CorruptSegment):
        return ""
    users = [f"worker {lane.pid}" for lane in stats.lanes if lane.alive]
    if stats.learner_alive:
        users.append(f"learner {stats.learner_pid}")
    return ", ".join(users)
