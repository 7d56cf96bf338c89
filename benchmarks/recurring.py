"""Tasks that come back: what is remembered of A after B, and what that costs on B.

    python benchmarks/recurring.py            rows that no setting was chosen on, and all rows
    python benchmarks/recurring.py --even     the rows that the settings were chosen on

A stream is split by its tasks into A and B, which have different best routes, and served
A, B, A, B: with every row asked once, or with B staying for several passes before A returns.
Figures are mean rewards of the first 200 requests of a phase and of whole phases, and what each
configuration changes against one that forgets, paired by order.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from routers.recurring import PHASES, Recurring, run
from routers.streams import NAMES, StreamAbsent, load_stream
from routers.tables import ALL, EVEN, ODD, freeze, mean_of, plain, signed
from timing import machine

FIRST: Final = 200
FORGETS: Final = "forgets"
CONFIGURATIONS: Final[dict[str, dict[str, Any]]] = {
    FORGETS: {"max_tasks": 0, "ewc_lambda": 0.0},
    "memory of tasks": {"ewc_lambda": 0.0},
    "memory and penalty (default)": {},
    "the same, Loop B every 500": {"cycle_every": 500},
    "Loop B every 500, forgets": {"max_tasks": 0, "ewc_lambda": 0.0, "cycle_every": 500},
    "penalty 100 times as strong": {"ewc_lambda": 100.0},
}
#: Passes over B before A returns; 0: every row once.
ABSENCES: Final = (0, 6)


def figures_of(phases: list[list[NDArray[np.float32]]]) -> dict[str, list[float]]:
    """Of one configuration: figure by figure, one value for each order."""
    found: dict[str, list[float]] = {}
    for i, phase in enumerate(PHASES):
        found[f"{phase}, first {FIRST}"] = [float(order[i][:FIRST].mean()) for order in phases]
        found[f"{phase}, whole"] = [float(order[i].mean()) for order in phases]
    return found


def compare(
    stream: str, half: int | None, absence: int, orders: int, pool: ProcessPoolExecutor
) -> dict[str, Any]:
    """Every configuration on the same orders."""
    tasks = [
        Recurring(stream, half, freeze(settings), seed, absence)
        for settings in CONFIGURATIONS.values()
        for seed in range(orders)
    ]
    console = Console(stderr=True)
    results = list(track(pool.map(run, tasks), stream, len(tasks), transient=True, console=console))
    by_name = {
        name: figures_of(results[i * orders : (i + 1) * orders])
        for i, name in enumerate(CONFIGURATIONS)
    }
    base = by_name[FORGETS]
    return {
        name: {
            figure: {"mean": mean_of(values), "gain": mean_of(np.subtract(values, base[figure]))}
            for figure, values in found.items()
        }
        for name, found in by_name.items()
    }


def print_comparison(console: Console, title: str, found: dict[str, Any]) -> None:
    """One row for each configuration: returns first, then what they cost."""
    shown = [f"A again, first {FIRST}", f"B again, first {FIRST}", "B, whole", "B again, whole"]
    table = Table(title=title)
    table.add_column("")
    for figure in shown:
        table.add_column(figure, justify="right")
    for name, figures in found.items():
        kind, text = ("mean", str) if name == FORGETS else ("gain", signed)
        table.add_row(name, *(text(figures[figure][kind]) for figure in shown))
    console.print(table)


def main() -> None:
    """Parse the command line, compare, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    streams = [name for name in NAMES if name != "routellm_mmlu"]
    parser.add_argument("--streams", nargs="+", choices=NAMES, default=streams)
    parser.add_argument("--orders", type=int, default=10, help="shuffles (default: 10)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--even", action="store_true", help="the rows settings were chosen on")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = parser.parse_args()
    console = Console(stderr=options.json, width=150)
    figures: dict[str, Any] = {}
    halves = {"even rows": EVEN} if options.even else {"odd rows": ODD, "all rows": ALL}
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        for stream in options.streams:
            try:
                load_stream(stream)
            except StreamAbsent as absent:
                console.print(f"skipped: {absent}")
                continue
            for rows, half in halves.items():
                for absence in ABSENCES:
                    away = f"B stays for {absence} passes" if absence else "every row once"
                    title = f"{stream}, {rows}, {away}"
                    figures[title] = compare(stream, half, absence, options.orders, pool)
                    print_comparison(console, title, figures[title])
    if options.json:
        print(json.dumps({"machine": machine(), "figures": plain(figures)}, indent=1))


if __name__ == "__main__":
    main()
