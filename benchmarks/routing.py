"""Who routes best: sona_shm against VowpalWabbit, LinUCB and what supervised learning reaches.

    python benchmarks/routing.py                    the main table
    python benchmarks/routing.py --change           drift, and a model that arrives
    python benchmarks/routing.py --ablation         what each part of ours is worth
    python benchmarks/routing.py --workers          four processes against one
    python benchmarks/routing.py --figure FILE.png  learning curves (needs matplotlib)

Every pass goes over a stream in a shuffled order, with feedback at once; figures are means over
orders with their standard errors.  Settings of the peers are chosen on the even rows and reported
on the odd ones; and, more generously to them, the best of all settings in hindsight is reported on
all rows.  Ours is one default configuration everywhere.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table
from routers.offline import offline_choices
from routers.streams import NAMES, StreamAbsent, load_stream
from routers.tables import (
    ALL,
    EVEN,
    ODD,
    PEERS,
    grouped,
    mean_of,
    passes,
    plain,
    requests_to_recover,
    requests_to_share,
    signed,
    tune,
)
from routers.tasks import Result, run_all, stream_of
from timing import machine

OURS: Final = "sona_shm"
CHANGING: Final = ("routellm_mmlu", "llmrouter9")
RECURRING: Final = ("llmrouter9", "group")
#: Loop B runs once an hour by default, which these passes do not last.
EVERY: Final = {"cycle_every": 500}
ABLATIONS: Final[dict[str, dict[str, Any]]] = {
    "no bank": {"experts": ("linear", "ridge")},
    "no ridge": {"experts": ("linear", "bank")},
    "no linear expert": {"experts": ("ridge", "bank")},
    "no MicroLoRA": {"micro_lora_lr": 0.0},
    "no discounting": {"forgetting": 0.0},
    "uniform exploration": {"policy": "epsilon_greedy"},
    "thompson": {"policy": "thompson"},
    "softmax": {"policy": "softmax"},
    "squarecb": {"policy": "squarecb"},
    "reference rule": {"update_rule": "reference"},
    "no memory of tasks": {"max_tasks": 0},
    "no EWC++ penalty": {"ewc_lambda": 0.0},
    "Loop B every 500 requests": EVERY,
    "Loop B without patterns": EVERY | {"cycle_parts": ("consolidation", "heads")},
    "Loop B without heads": EVERY | {"cycle_parts": ("consolidation", "patterns")},
    "Loop B without consolidation": EVERY | {"cycle_parts": ("heads", "patterns")},
}


def present(names: list[str], console: Console) -> list[str]:
    """The streams whose data is here; says what is not."""
    found = []
    for name in names:
        try:
            load_stream(name)
            found.append(name)
        except StreamAbsent as absent:
            console.print(f"skipped: {absent}")
    return found


# ---- the main table ----


def main_table(streams: list[str], orders: int, jobs: int) -> dict[str, Any]:
    """Ours, peers and bounds for each stream, on odd rows and on all."""
    chosen = tune(streams, EVEN, jobs)
    hindsight = tune(streams, ALL, jobs)
    tasks = []
    for stream in streams:
        for half in (ODD, ALL):
            tasks += passes(OURS, {}, stream, half, "plain", orders)
        for router in PEERS:
            tasks += passes(router, chosen[router, stream][0], stream, ODD, "plain", orders)
            for setting in hindsight[router, stream][:2]:
                tasks += passes(router, setting, stream, ALL, "plain", orders)
    groups = grouped(run_all(tasks, jobs, "passes"))
    return {stream: _stream_figures(stream, groups) for stream in streams}


def _stream_figures(name: str, groups: dict[tuple[Any, ...], list[Result]]) -> dict[str, Any]:
    stream = stream_of(name, ALL)
    offline, _ = offline_choices(stream)
    random = float(stream.reward.mean())
    figures: dict[str, Any] = {
        "random": random,
        "best single": float(stream.reward.mean(axis=0).max()),
        "offline bound": offline,
        "offline bound, odd rows": offline_choices(stream_of(name, ODD))[0],
        "routers": {},
    }
    for router in (OURS, *PEERS):
        mine = {key: found for key, found in groups.items() if key[0] == router and key[2] == name}
        odd = next(found for key, found in mine.items() if key[3] == ODD)
        # Two settings were run on all rows: the better one counts.
        whole = max(
            (found for key, found in mine.items() if key[3] is ALL),
            key=lambda found: mean_of(r.mean for r in found).value,
        )
        figures["routers"][router] = {
            "settings": dict(odd[0].task.settings),
            "settings in hindsight": dict(whole[0].task.settings),
            "odd rows": mean_of(r.mean for r in odd),
            "whole": mean_of(r.mean for r in whole),
            "last quarter": mean_of(r.last_quarter for r in whole),
            "microseconds": float(np.median([r.microseconds for r in whole])),
            "orders": [r.mean for r in whole],
            "curve": np.mean([r.curve for r in whole], axis=0),
        }
    ours, peer = (figures["routers"][r]["orders"] for r in (OURS, "VowpalWabbit"))
    figures["above VowpalWabbit"] = mean_of(np.subtract(ours, peer))
    figures["lift"] = (float(np.mean(ours)) - random) / (offline - random)
    return figures


def print_main(console: Console, figures: dict[str, Any]) -> None:
    """A table for each stream."""
    for name, found in figures.items():
        table = Table(title=name)
        for column in ("", "odd rows", "all rows", "last quarter", "µs"):
            table.add_column(column, justify="left" if not column else "right")
        for router, row in found["routers"].items():
            cells = (row["odd rows"], row["whole"], row["last quarter"])
            table.add_row(router, *map(str, cells), f"{row['microseconds']:.0f}")
        for bound in ("random", "best single", "offline bound"):
            odd = found.get(f"{bound}, odd rows")
            table.add_row(bound, "" if odd is None else f"{odd:.4f}", f"{found[bound]:.4f}", "", "")
        console.print(table)
        console.print(
            f"above VowpalWabbit's best by {found['above VowpalWabbit']}, "
            f"lift {found['lift']:.2f}\n"
        )
    lifts = [found["lift"] for found in figures.values()]
    console.print(f"mean lift {np.mean(lifts):.2f}")


# ---- change ----


def change_table(streams: list[str], orders: int, jobs: int) -> dict[str, Any]:
    """Requests until drift is found and an arrival is used, ours and VowpalWabbit's."""
    hindsight = tune(streams, ALL, jobs)
    tasks = []
    for stream in streams:
        for scenario in ("drop", "swap", "arrival"):
            tasks += passes(OURS, {}, stream, ALL, scenario, orders)
            setting = hindsight["VowpalWabbit", stream][0]
            tasks += passes("VowpalWabbit", setting, stream, ALL, scenario, orders)
    figures: dict[str, Any] = {}
    for key, results in grouped(run_all(tasks, jobs, "changes")).items():
        router, _, stream, _, scenario = key
        row = figures.setdefault(f"{stream}, {scenario}", {})
        row[router] = _requests_after(stream, scenario, results)
    return figures


def _requests_after(name: str, scenario: str, results: list[Result]) -> int | None:
    stream = stream_of(name, ALL)
    if scenario == "arrival":
        best = int(stream.reward.mean(axis=0).argmax())
        share = float((offline_choices(stream)[1] == best).mean())
        return requests_to_share(results, len(stream.price) - 1, 0.5 * share)
    from routers.tasks import SCENARIOS

    after = SCENARIOS[scenario](stream, 0)
    attainable = float((after.quality - stream.price).mean(axis=0).max())
    return requests_to_recover(results, 0.95 * attainable)


def print_change(console: Console, figures: dict[str, Any]) -> None:
    """One row for each change."""
    table = Table(title="requests until a change is followed")
    for column in ("", OURS, "VowpalWabbit"):
        table.add_column(column, justify="left" if not column else "right")
    for name, row in figures.items():
        cells = [row.get(router) for router in (OURS, "VowpalWabbit")]
        table.add_row(name, *("never" if cell is None else str(cell) for cell in cells))
    console.print(table)


# ---- ablation ----


def ablation_table(streams: list[str], orders: int, jobs: int) -> dict[str, Any]:
    """Mean reward of the default, and what each change of one setting costs or brings."""
    columns = [(stream, "plain") for stream in streams]
    columns += [(stream, "drop") for stream in streams if stream in CHANGING]
    columns += [(stream, "recurring") for stream in streams if stream in RECURRING]
    tasks = []
    for settings in ({}, *ABLATIONS.values()):
        for stream, scenario in columns:
            tasks += passes(OURS, settings, stream, ALL, scenario, orders)
    groups = grouped(run_all(tasks, jobs, "ablation"))
    figures: dict[str, Any] = {}
    for stream, scenario in columns:
        column = stream if scenario == "plain" else f"{stream}, {scenario}"
        base = [r.mean for r in groups[OURS, (), stream, ALL, scenario]]
        figures[column] = {"default": mean_of(base)}
        for name, settings in ABLATIONS.items():
            key = (OURS, tuple(sorted(settings.items())), stream, ALL, scenario)
            changed = [r.mean for r in groups[key]]
            figures[column][name] = mean_of(np.subtract(changed, base))
    return figures


def print_ablation(console: Console, figures: dict[str, Any]) -> None:
    """One row for each part, one column for each stream."""
    table = Table(title="difference to the default (paired by order; * beyond two standard errors)")
    table.add_column("")
    for column in figures:
        table.add_column(column, justify="right")
    for row in ("default", *ABLATIONS):
        cells = [(str if row == "default" else signed)(found[row]) for found in figures.values()]
        table.add_row(row, *cells)
    console.print(table)


def main() -> None:
    """Parse the command line, run one part, print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--streams", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--orders", type=int, default=10, help="shuffled passes (default: 10)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--figure", type=Path, help="write learning curves to this file")
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--change", action="store_true", help="drift and arrival")
    part.add_argument("--ablation", action="store_true", help="what each part is worth")
    part.add_argument("--workers", action="store_true", help="four processes against one")
    options = parser.parse_args()
    console = Console(stderr=options.json, width=150)
    streams = present(options.streams, console)
    if options.change or options.workers:
        streams = [stream for stream in streams if stream in CHANGING]
    if options.change:
        figures = change_table(streams, options.orders, options.jobs)
        printed = print_change
    elif options.ablation:
        figures = ablation_table(streams, options.orders, options.jobs)
        printed = print_ablation
    elif options.workers:
        from routers.workers import print_workers, workers_table

        figures = workers_table(streams, options.orders)
        printed = print_workers
    else:
        figures = main_table(streams, options.orders, options.jobs)
        printed = print_main
    if options.json:
        print(json.dumps({"machine": machine(), "figures": plain(figures)}, indent=1))
    else:
        printed(console, figures)
    if options.figure:
        from routers.figure import draw_curves

        draw_curves(figures, options.figure)


if __name__ == "__main__":
    main()
