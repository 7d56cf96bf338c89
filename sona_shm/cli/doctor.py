"""``sona doctor [NAME]``: what is wrong with the engines of this host, and what to do about it."""

from __future__ import annotations

import argparse
import json
import time

from rich.console import Console
from rich.table import Table

from sona_shm.errors import EngineNotFound
from sona_shm.monitor.diagnosis import counted
from sona_shm.monitor.figures import plain
from sona_shm.monitor.host import HostEngine, HostReport, look_at_host
from sona_shm.shm.names import names_of


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "doctor",
        help="say what is wrong with the engines of this host, and what to do",
        description="List the engines of this host, what dead processes have left in its shared "
        "memory, and what is wrong with it; with NAME, look at that engine alone and in more "
        "depth. Each finding comes with what to do. Writes nothing to any engine.",
        epilog="Exits with 1 if something is wrong; notes alone are no problem.",
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help="name of one engine")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Look and print."""
    name = options.name
    report = look_at_host(None if name is None else [names_of(name).engine])
    if name is not None and not report.engines:
        raise EngineNotFound(f"no engine {name!r} on this host; sona doctor lists those there are")
    if options.json:
        print(json.dumps(report.to_mapping()))
    else:
        _print(report)
    return 0 if report.healthy else 1


def _print(report: HostReport) -> None:
    total, free = report.total_bytes, report.free_bytes
    print(f"/dev/shm: {free / 1e6:,.0f} of {total / 1e6:,.0f} MB free")
    if report.engines:
        Console().print(engine_table(report.engines))
    # Not through rich, which breaks lines: commands are there to be pasted.
    for finding in sorted(report.findings, key=lambda finding: not finding.problem):
        kind = "problem" if finding.problem else "note"
        print(f"\n{kind}: {finding.about}: {plain(finding.text)}")  # may be anybody's words
        print(f"    {finding.remedy}")
    if report.healthy:
        print("\nnothing is wrong")


def engine_table(engines: list[HostEngine]) -> Table:
    """What there is, one line an engine."""
    table = Table()
    # Whole, whatever the width: names are there to be pasted.
    table.add_column("engine", min_width=max(len(engine.name) for engine in engines))
    for column in ("state", "owner"):
        table.add_column(column)
    for column in ("MB", "learned", "published", "created"):
        table.add_column(column, justify="right")
    for engine in engines:
        stats = engine.stats
        age = None if stats is None else stats.seconds_since_publish
        since = None if engine.created is None else time.time() - engine.created
        table.add_row(
            engine.name,
            _state(engine),
            engine.owner,
            f"{engine.bytes / 1e6:,.1f}",
            "" if stats is None else f"{stats.counters.outcomes_learned:,}",
            "" if stats is None else _ago(age),
            _ago(since) if since is not None else "",
        )
    return table


def _state(engine: HostEngine) -> str:
    stats = engine.stats
    if stats is None or not engine.in_use:
        return engine.state
    workers = sum(lane.alive for lane in stats.lanes)
    return f"{counted(workers, 'worker')}, {'learner' if stats.learner_alive else 'no learner'}"


def _ago(seconds: float | None) -> str:
    """An age in the largest unit that it fills twice."""
    if seconds is None:
        return "never"
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit} ago"
    return f"{max(0.0, seconds):,.0f} s ago"
