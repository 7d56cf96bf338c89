"""How the benchmarks time and print; no benchmark of its own."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import timeit
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

ROUNDS = 15


def nanoseconds(
    statement: str,
    names: dict[str, Any],
    count: int,
    *,
    between: Callable[[], object] | None = None,
) -> float:
    """Median over rounds of the mean time of one execution, in nanoseconds.

    Parameters
    ----------
    statement : str
        Runs `count` times in each round in a loop that `timeit` compiles, so that no function
        call of the benchmark is added to what is measured.
    names : dict
        What the statement uses.
    between : callable, optional
        Runs between the rounds, untimed: empties what the statement fills.
    """
    timer = timeit.Timer(statement, globals=names)
    rounds = []
    for _ in range(ROUNDS):
        rounds.append(timer.timeit(count) / count * 1e9)
        if between is not None:
            between()
    return statistics.median(rounds)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load_average_before": round(os.getloadavg()[0], 2),
    }


def report(
    title: str, columns: Sequence[str], rows: Sequence[dict[str, Any]], *, as_json: bool
) -> None:
    """One table, or one JSON object with the same figures."""
    about = machine()
    if as_json:
        json.dump({"benchmark": title, "machine": about, "rows": list(rows)}, sys.stdout, indent=1)
        print()
        return
    console = Console()
    table = Table(title=title, caption=", ".join(f"{k}: {v}" for k, v in about.items()))
    for column in columns:
        table.add_column(column, justify="left" if column == columns[0] else "right")
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    console.print(table)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return (
        f"{value:,.3g}"
        if isinstance(value, float) and value < 100
        else (f"{value:,.0f}" if isinstance(value, float) else str(value))
    )
