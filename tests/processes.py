"""Python processes of their own that a test talks to line by line."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager

PRELUDE = """
import sys
import numpy as np
import sona_shm as sona
engine = sona.Engine.attach(sys.argv[1])
"""


def _command(code: str, engine: str, arguments: tuple[str, ...]) -> list[str]:
    return [sys.executable, "-c", PRELUDE + textwrap.dedent(code), engine, *arguments]


def run_worker(code: str, engine: str, *arguments: str) -> list[str]:
    """Run code with `engine` attached to its end; what it printed, in lines."""
    command = _command(code, engine, arguments)
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return finished.stdout.splitlines()


@contextmanager
def worker(code: str, engine: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process with `engine` attached; killed at the end if it still runs."""
    command = _command(code, engine, arguments)
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: subprocess.Popen[str]) -> str:
    """The next line that the process prints; empty if it ended."""
    assert process.stdout is not None
    return process.stdout.readline().strip()
