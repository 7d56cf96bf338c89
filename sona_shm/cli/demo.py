"""``sona demo``: workers route and learn together, on real requests."""

from __future__ import annotations

import argparse
import json
import sys

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from sona_shm.cli.arguments import file_path, whole_number
from sona_shm.demo.run import DemoResult, run_demo
from sona_shm.demo.stream import load_digits, load_npz


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "demo",
        help="serve a stream of real requests with several workers and one learner",
        description="Start one learner process and some worker processes that share one engine, "
        "serve a stream of real requests, and show that they get better. Without --data: "
        "handwritten digits from scikit-learn and ten specialists, each right for one digit; a "
        "worker sees only whether the specialist that it chose was right.",
        epilog="Exits with 1 if the last quarter is not better than random choices.",
    )
    parser.add_argument(
        "--data",
        metavar="FILE.npz",
        type=file_path,
        help="arrays embedding [N, d], quality [N, K], cost [K] or [N, K], models [K]; "
        "reward = quality - 0.2 * cost / max cost",
    )
    parser.add_argument(
        "--workers", type=whole_number(1), default=4, metavar="N", help="processes (default 4)"
    )
    parser.add_argument(
        "--requests",
        type=whole_number(4),
        metavar="N",
        help="default: 20,000 digits, or every row of FILE twice",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the demonstration and print what it measured."""
    stream = load_digits() if options.data is None else load_npz(options.data)
    requests = options.requests or stream.default_requests
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(file=sys.stderr),
    )
    with bar:
        task = bar.add_task(f"{options.workers} workers", total=requests)
        result = run_demo(
            stream, options.workers, requests, lambda done: bar.update(task, completed=done)
        )
    if options.json:
        print(json.dumps(result.to_mapping()))
    else:
        _print(result)
    if not result.beats_random:
        print("sona: the last quarter is not better than random choices", file=sys.stderr)
        return 1
    return 0


def _print(result: DemoResult) -> None:
    table = Table(title=f"{escape(result.stream)}, {result.requests:,} requests", min_width=44)
    table.add_column("mean reward")
    table.add_column("", justify="right")
    table.add_row("random choices", f"{result.random:.3f}")
    table.add_row("first quarter", f"{result.first_quarter:.3f}")
    table.add_row("last quarter", f"[bold]{result.last_quarter:.3f}[/]")
    table.add_row(f"best single: {escape(result.best_single_model)}", f"{result.best_single:.3f}")
    table.add_row("oracle (knows every outcome)", f"{result.oracle:.3f}")
    table.add_section()
    table.add_row(
        "requests per second (each answer takes 0.5 ms)", f"{result.requests_per_second:,.0f}"
    )
    table.add_row("route, median", f"{result.route_median_us:.1f} µs")
    table.add_row("route, p99", f"{result.route_p99_us:.1f} µs")
    table.add_row("learned", f"{result.learned:,}")
    table.add_row("lost", f"{sum(result.losses.values()):,}")
    for name, count in result.losses.items():
        table.add_row(f"  {name}", f"{count:,}")
    table.add_row("flushes", f"{result.flushes:,}")
    Console().print(table)
