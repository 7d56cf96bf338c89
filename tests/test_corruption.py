"""Random damage to every part of shared memory: counted and healed, never a crash or a stall."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np

from tests.children import ENVIRONMENT
from tests.conftest import ROOT

LIMIT_SECONDS = 120.0


def damage(kind: str, rng: np.random.Generator, batches: int) -> dict[str, int]:
    """Run tests/corruption.py in a process of its own, so that a crash is a result."""
    seed = int(rng.integers(2**32))
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.corruption"]
    answer = subprocess.run(
        [*command, kind, str(seed), str(batches)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        cwd=ROOT,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert answer.returncode == 0, f"seed {seed}: status {answer.returncode}\n{answer.stderr}"
    figures: dict[str, int] = json.loads(answer.stdout)
    return figures


def test_ten_thousand_corruptions_of_lanes(rng: np.random.Generator) -> None:
    figures = damage("lanes", rng, 4000)
    assert figures["corruptions"] >= 10_000
    for counter in ("records_corrupt", "lanes_quarantined", "records_lost", "signals"):
        assert 0 < figures[counter] <= figures["records"], figures


def test_corrupted_control_and_weights_give_documented_errors(rng: np.random.Generator) -> None:
    figures = damage("control", rng, 800)
    assert figures["corruptions"] >= 2_000
