"""``sona stats NAME``: one look at an engine."""

from __future__ import annotations

import argparse
import dataclasses
import json

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sona_shm.engine import Engine
from sona_shm.monitor.stats import EngineStats, LaneStats, RouteStats


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
        print(json.dumps(stats.to_mapping()))
    else:
        _print(stats)
    return 0


def _print(stats: EngineStats) -> None:
    console = Console()
    age = stats.seconds_since_publish
    learner = f"process {stats.learner_pid}" if stats.learner_alive else "none alive"
    console.print(
        f"[bold]{stats.name}[/]  {stats.bytes / 1e6:,.1f} MB  learner: {learner}  "
        f"weights version {stats.version}"
        + (f", published {age:.1f} s ago" if age is not None else ", never published")
    )
    lanes = Table(title="lanes", title_justify="left")
    for column in ("lane", "process", "recorded", "dropped", "decisions", "backlog"):
        lanes.add_column(column, justify="left" if column == "process" else "right")
    for lane in [*stats.lanes, stats.retired]:
        lanes.add_row(*_lane_cells(lane))
    console.print(lanes)
    if stats.routes:
        console.print(_routes(stats.routes))
        weights = ", ".join(f"{name} {w:.2f}" for name, w in stats.expert_weights.items())
        console.print(
            f"experts: {weights}; {stats.patterns} patterns; task {stats.task + 1} of {stats.tasks}"
        )
    counters = Table(title="learner's counters, as of the last publication", title_justify="left")
    counters.add_column("counter")
    counters.add_column("count", justify="right")
    for name, count in dataclasses.asdict(stats.counters).items():
        counters.add_row(name, f"{count:,}")
    console.print(counters)


def _routes(rows: list[RouteStats]) -> Table:
    table = Table(title="routes", title_justify="left")
    table.add_column("route")
    for column in ("cost", "outcomes", "mean reward", "mean latency", "mean tokens"):
        table.add_column(column, justify="right")
    for row in rows:
        latency, tokens = row.mean_latency_ms, row.mean_tokens
        table.add_row(
            escape(row.name) + ("" if row.active else " (retired)"),
            f"{row.cost:g}",
            f"{row.outcomes:,}",
            f"{row.mean_reward:.4f}",
            "" if latency is None else f"{latency:,.0f} ms",
            "" if tokens is None else f"{tokens:,.0f}",
        )
    return table


def _lane_cells(lane: LaneStats) -> tuple[str, ...]:
    process = f"{lane.pid} {escape(lane.label)}" if lane.index >= 0 else lane.label
    state = "" if lane.alive or lane.index < 0 else " (dead)"
    state += " (quarantined)" if lane.quarantined else ""
    return (
        str(lane.index) if lane.index >= 0 else "",
        process + state,
        f"{lane.recorded:,}",
        f"{lane.dropped:,}",
        f"{lane.decisions:,}",
        f"{lane.backlog_bytes:,} B",
    )
