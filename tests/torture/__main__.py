"""``python -m tests.torture [--json] [--quick] [--seed N]``: all scenarios in their long form."""

from __future__ import annotations

import argparse
import dataclasses
import json
import secrets
import sys
import time
from collections.abc import Callable

from tests.torture.background import kill_cycles
from tests.torture.bit_equal import compare_killed_with_unkilled
from tests.torture.checkpoints import kill_while_saving
from tests.torture.corruptions import corrupt_files
from tests.torture.kills import kill_learners, kill_workers
from tests.torture.mixed_versions import read_against_tight_writer
from tests.torture.processes import Report


def scenarios(quick: bool) -> list[Callable[[str, int], Report]]:
    """Every scenario as a function of engine name and seed."""
    part = 20 if quick else 1
    return [
        lambda name, seed: kill_workers(name, seed, kills=300 // part),
        lambda name, seed: kill_learners(name, seed, kills=100 // part),
        lambda name, seed: kill_cycles(name, seed, kills=100 // part),
        lambda name, seed: compare_killed_with_unkilled(name, seed, kills=100 // part),
        lambda name, seed: compare_killed_with_unkilled(
            name, seed, kills=60 // part, update_rule="reference"
        ),
        lambda name, seed: kill_while_saving(name, seed, kills=200 // part),
        lambda name, seed: kill_while_saving(name, seed, kills=200 // part, cycles=True),
        lambda name, seed: corrupt_files(name, seed, corruptions=10_000 // part),
        lambda name, seed: read_against_tight_writer(
            name, seed, reads=1_000_000 // part, writer_kills=20 // part
        ),
    ]


def main() -> int:
    """Run all; the exit status says whether there were problems."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object at the end")
    parser.add_argument("--quick", action="store_true", help="a twentieth of everything")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", file=sys.stderr)
    reports = []
    for run in scenarios(arguments.quick):
        begun = time.monotonic()
        report = run(f"torture-{secrets.token_hex(4)}", arguments.seed)
        report.figures["seconds"] = round(time.monotonic() - begun, 1)
        reports.append(report)
        if not arguments.json:
            print(f"{'ok  ' if not report.problems else 'FAIL'} {report.scenario}", flush=True)
            for key, value in report.figures.items():
                print(f"       {key}: {value}")
            for problem in report.problems:
                print(f"     ! {problem}", flush=True)
    if arguments.json:
        print(
            json.dumps(
                {"seed": arguments.seed, "reports": [dataclasses.asdict(r) for r in reports]},
                indent=2,
            )
        )
    return 1 if any(report.problems for report in reports) else 0


if __name__ == "__main__":
    sys.exit(main())
