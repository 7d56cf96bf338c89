"""The page of output: what the figures do not say, the machine, and one table for each mode."""

import os
import platform
import time
from itertools import groupby
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from .results import Row

CAVEATS = """\
Peers hand over bytes and throw them away; the consumer of sona_shm is the learner, which also \
learns from each record and publishes weights. Equal figures are not equal work.
Peers block when there is no room; sona_shm refuses the record, and the producer tries again after \
sleeping for 0.1 ms. So a peer's put cost contains its waiting, ours does not.
multiprocessing.Queue and pyzmq return from a put before the work is done: a thread does it later \
on the same processor, so their put cost is not their cost.
No message is built or parsed inside the clock, so a program that pickles objects pays more.
Each peer has a buffer that no other size tried on 2 cores clearly beat, a few MB at most, which \
can stay in a cache; sona_shm has its default of 10,000 records, 31 MB.
With more processes than processors the scheduler decides much: who runs, in what batches, and \
whether a reader must be woken. Another machine may order the transports otherwise.
Saturation says little about a router, which waits most of the time: there caches are cold and \
the reader sleeps. That is what the paced table is for.
Each figure is one run. The same run again may differ twofold when the machine has other work.
""".splitlines()
"""What to know before believing a figure, printed above the tables."""

SATURATED_COLUMNS = {
    "records/s": "records_per_second",
    "put ns": "put_nanoseconds",
    "refused": "refused_attempts",
    "lost": "lost",
}
PACED_COLUMNS = {
    "median us": "median_microseconds",
    "p99 us": "p99_microseconds",
    "records": "samples",
}
"""The heading of each column, and the figure under it."""


def describe_machine() -> dict[str, Any]:
    """Name what the figures depend on."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load_average_before": os.getloadavg()[0],
        "clock_reading_nanoseconds": clock_reading_nanoseconds(),
    }


def clock_reading_nanoseconds(readings: int = 100_000) -> float:
    """Measure what one reading of the clock adds to every timed put."""
    clock = time.monotonic_ns
    started = clock()
    for _ in range(readings):
        clock()
    return (clock() - started) / readings


def print_page(console: Console, machine: dict[str, Any], rows: list[Row]) -> None:
    """Print the caveats, the machine and the tables."""
    console.print("[bold]Moving 3.1 KB records from some processes to one[/bold]\n")
    console.print("Why benchmarks of this kind mislead:")
    caveats = Table.grid(padding=(0, 1))
    for caveat in CAVEATS:
        caveats.add_row(" -", caveat)
    console.print(caveats)
    console.print(
        f"\nRan on {machine['cores']} cores, Python {machine['python']}, {machine['system']}, "
        f"load average before {machine['load_average_before']:.2f}; a put cost includes one "
        f"reading of the clock, {machine['clock_reading_nanoseconds']:.0f} ns.\n",
        highlight=False,
    )
    saturated = [row for row in rows if row.mode == "saturated"]
    paced = [row for row in rows if row.mode == "paced"]
    console.print(
        table_of(
            saturated,
            "Saturated: received a second, mean cost of a put, refused attempts",
            SATURATED_COLUMNS,
        )
    )
    console.print()
    console.print(
        table_of(
            paced, "Paced at 1,000 records/s: from the put until the consumer has it", PACED_COLUMNS
        )
    )
    reasons = {f"{row.transport}: {row.status}: {row.reason}": None for row in rows if row.reason}
    for reason in reasons:
        console.print(reason, markup=False)


def table_of(rows: list[Row], title: str, columns: dict[str, str]) -> Table:
    """Lay out the rows of one mode, a section for each number of producers."""
    table = Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
    )
    table.add_column("producers", justify="right", no_wrap=True)
    table.add_column("transport", no_wrap=True)
    for heading in (*columns, "x best\npeer"):
        table.add_column(heading, justify="right", no_wrap=True)
    for _, section in groupby(rows, key=lambda row: row.producers):
        table.add_section()
        for row in section:
            table.add_row(*cells_of(row, columns), style="bold" if row.is_ours else None)
    return table


def cells_of(row: Row, columns: dict[str, str]) -> list[str]:
    """Write out one row: its figures, or its status where there are none."""
    if row.figures is None:
        return [str(row.producers), f"{row.transport}: {row.status}"]
    entries = row.as_json()
    figures = [f"{entries[field]:,.0f}" for field in columns.values()]
    ratio = row.ratio_to_best_peer
    comparison = "no peer" if ratio is None else f"{ratio:.2f}"
    return [str(row.producers), row.transport, *figures, comparison]
