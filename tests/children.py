"""Fresh interpreters that run a few lines, and pipes to wait on."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import textwrap
from typing import Final

import sona_shm as sona
from tests.conftest import ROOT

PATIENCE: Final = 30.0
#: Every warning is printed, also in the resource tracker's own process, and `run` and `finish`
#: take anything printed for an error.  (``-W error`` would hide the tracker's: it swallows what
#: its warnings raise.)
WARNINGS: Final = "always"
ENVIRONMENT: Final = {**os.environ, "PYTHONWARNINGS": WARNINGS, "PYTHONPATH": str(ROOT)}
SMALL: Final = sona.SonaConfig(
    hidden_dim=8,
    routes=(sona.Route("a"), sona.Route("b")),
    trajectory_capacity=200,
    max_workers=4,
    pending_decisions=64,
)
PREAMBLE: Final = """
import os, signal, sys, threading
import numpy as np
import sona_shm as sona

def record(engine, count=1):
    x = np.full(engine.config.hidden_dim, 0.1, np.float32)
    for i in range(count):
        assert engine.record(sona.QueryTrajectory(i, x).finalize(0.7))

def say(word):
    print(word, flush=True)

def hear():
    return sys.stdin.readline().strip()

name = sys.argv[1]
"""


def trajectory(config: sona.SonaConfig = SMALL, quality: float = 0.7) -> sona.QueryTrajectory:
    """A trajectory without steps."""
    return sona.QueryTrajectory(1, [0.1] * config.hidden_dim).finalize(quality)


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    """A fresh Python that runs the code, with pipes; `name` in it is the first argument."""
    return subprocess.Popen(
        [sys.executable, "-W", WARNINGS, "-c", PREAMBLE + textwrap.dedent(code), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )


def run(code: str, *arguments: str, timeout: float = PATIENCE) -> str:
    """Run to the end; its output.  Anything on standard error, and any failure, is an error."""
    with start(code, *arguments) as child:
        try:
            output, errors = child.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            child.kill()
            raise
    assert child.returncode == 0, f"exit status {child.returncode}:\n{output}{errors}"
    assert errors == ""
    return output


def hear(child: subprocess.Popen[str], timeout: float = PATIENCE) -> str:
    """The next line that the child says."""
    assert child.stdout is not None
    readable, _, _ = select.select([child.stdout], [], [], timeout)
    assert readable, f"process {child.pid} said nothing for {timeout:g} s"
    line = child.stdout.readline()
    if not line:
        _, errors = child.communicate(timeout=timeout)
        raise AssertionError(f"process {child.pid} ended, status {child.returncode}: {errors}")
    return line.strip()


def tell(child: subprocess.Popen[str], word: str = "go on") -> None:
    """One line to the child."""
    assert child.stdin is not None
    child.stdin.write(word + "\n")
    child.stdin.flush()


def end(child: subprocess.Popen[str]) -> None:
    """Kill what still runs, and close the pipes."""
    child.kill()
    child.communicate(timeout=PATIENCE)


def finish(child: subprocess.Popen[str], word: str = "go on") -> str:
    """Tell the child to end; its last words.  It must succeed and complain of nothing."""
    output, errors = child.communicate(word + "\n", timeout=PATIENCE)
    assert (child.returncode, errors) == (0, "")
    return output
