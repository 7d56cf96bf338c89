"""``sona learn NAME``: have the learner run Loop B now."""

from __future__ import annotations

import argparse
import json
import sys

from sona_shm.cli.arguments import seconds
from sona_shm.engine import Engine
from sona_shm.loops.learn_result import LearnResult


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "learn",
        help="have an engine's learner run a cycle of background learning now",
        description="Have an engine's learner run a cycle of background learning now: fit, prune "
        "and merge patterns, refit heads of routes where that predicts better, fold the MicroLoRA "
        "into the BaseLoRA. Workers and learner go on meanwhile. A cycle that is skipped, since "
        "little was learned since the last one, is no failure; one that is lost, or that nobody "
        "answers, is.",
    )
    parser.add_argument("name", metavar="NAME", help="name of the engine")
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=60.0,
        metavar="SECONDS",
        help="how long to wait for the learner (default: 60)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Ask, wait, print."""
    with Engine.attach(options.name) as engine:
        result = engine.force_learn(options.timeout)
        names = [row.name for row in engine.stats().routes]
    if options.json:
        print(json.dumps(result.to_mapping(), indent=1))
    elif result.status == "done":
        print("\n".join(_lines(result, names)))
    failed = result.status in ("failed", "unanswered")
    if not options.json and result.status != "done":
        print(f"sona: {result.status}: {result.reason}", file=sys.stderr if failed else sys.stdout)
    return 1 if failed else 0


def _lines(result: LearnResult, names: list[str]) -> list[str]:
    """What a person wants to know."""
    took = sum(result.seconds.values())
    lines = [f"learned from {result.rows} outcomes in {took:.2f} s"]
    if result.patterns_found:
        lines.append(
            f"patterns: {result.patterns_found} found, {result.patterns_pruned} pruned, "
            f"{result.patterns_merged} merged, {result.patterns_installed} installed"
        )
    if result.reason:
        lines.append(f"          {result.reason}")
    refitted = [names[head.route] for head in result.heads if head.refitted]
    if result.heads:
        lines.append(
            f"heads:    {len(refitted)} of {len(result.heads)} refitted"
            + (f": {', '.join(refitted)}" if refitted else "")
        )
    if result.consolidated:
        lines.append(
            f"adapters: MicroLoRA folded into BaseLoRA; an adapted embedding of length 1 moves by "
            f"at most {result.truncation_error:.2g}"
        )
    return lines
