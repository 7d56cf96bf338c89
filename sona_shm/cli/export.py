"""``sona export NAME DIR``: what an engine has learned, as files for other programs."""

from __future__ import annotations

import argparse
import json

from sona_shm.cli.arguments import file_path
from sona_shm.engine import Engine


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "export",
        help="write what an engine has learned into files for other programs",
        description="Write what an engine has learned into a new directory: micro_lora/ and "
        "base_lora/ as PEFT loads them, patterns.jsonl, and preferences.jsonl. Writes nothing to "
        "the engine and needs no learner.",
    )
    parser.add_argument("name", metavar="NAME", help="name of the engine")
    parser.add_argument(
        "directory", metavar="DIR", type=file_path, help="directory to make; must not exist yet"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Export, and say what."""
    with Engine.attach(options.name, timeout=0.0) as engine:
        summary = engine.export(options.directory)
    if options.json:
        print(json.dumps({"directory": str(options.directory)} | summary._asdict()))
    else:
        print(
            f"weights version {summary.version} in {options.directory}: micro_lora, base_lora, "
            f"{summary.patterns:,} patterns, {summary.preferences:,} preference pairs"
        )
    return 0
