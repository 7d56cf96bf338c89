"""``sona replay JOURNAL``: what another configuration would have earned."""

from __future__ import annotations

import argparse
import json
import sys

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from sona_shm.cli.arguments import add_settings, file_path
from sona_shm.config import SonaConfig
from sona_shm.journal.reader import Journal, read_journal
from sona_shm.replay import ReplayResult, replay, replay_config

#: Below this share of effective rows, the estimates hang on few decisions.
_THIN = 0.05


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "replay",
        help="estimate from a journal what another configuration would have earned",
        description="Estimate from a journal what another configuration would have earned on the "
        "same requests, with 95 % confidence intervals: by inverse propensity, self-normalised, "
        "and doubly robust. Without --config and --set, that of the journal itself.",
    )
    parser.add_argument(
        "journal", metavar="JOURNAL", type=file_path, help="journal file, or directory of them"
    )
    parser.add_argument(
        "--config", metavar="FILE", type=file_path, help="TOML or JSON configuration to evaluate"
    )
    add_settings(parser, "policy=thompson")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Replay and print."""
    journal = read_journal(options.journal)
    changes = dict(options.settings)
    if options.config is None:
        config = replay_config(journal, **changes)
    else:
        given = SonaConfig.from_file(options.config).to_mapping()
        config = SonaConfig.from_mapping(given | changes)
    result = _replay(journal, config)
    if options.json:
        about = {name: getattr(journal, name) for name in _COUNTS}
        print(json.dumps(result.to_mapping() | {"journal": about}))
    else:
        _print(Console(), result, journal)
    return 0


_COUNTS = ("files", "torn", "corrupt", "duplicates", "orphans")


def _replay(journal: Journal, config: SonaConfig) -> ReplayResult:
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("replaying", total=len(journal))
        return replay(journal, config, lambda done: bar.update(task, completed=done))


def _print(console: Console, result: ReplayResult, journal: Journal) -> None:
    table = Table(title=f"mean reward over {result.rows:,} decisions")
    table.add_column("")
    for column in ("estimate", "95 % interval"):
        table.add_column(column, justify="right")
    rows = {
        "logged policy": result.logged,
        "inverse propensity": result.inverse_propensity,
        "self-normalised": result.self_normalised,
        "doubly robust": result.doubly_robust,
    }
    for name, estimate in rows.items():
        low, high = estimate.interval
        table.add_row(name, f"{estimate.value:.4f}", f"{low:.4f} to {high:.4f}")
    console.print(table)
    console.print(f"as much as {result.effective_rows:,.0f} equally weighted decisions would tell")
    if result.skipped:
        console.print(f"{result.skipped:,} decisions without outcome or route were skipped")
    if journal.torn or journal.corrupt:
        console.print(f"{journal.torn} files end unfinished, {journal.corrupt} batches are broken")
    if result.effective_rows < _THIN * result.rows:
        console.print("the two policies differ so much that few decisions tell about the other")
