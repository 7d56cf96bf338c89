"""A /dev/shm of a test's own: a tmpfs in a mount namespace of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.children import ENVIRONMENT, PATIENCE, PREAMBLE
from tests.conftest import ROOT


def run_in_private_shm(code: str, size: str = "1m") -> str:
    """Run Python where /dev/shm is empty and has that size; its output."""
    mount = f"mount -t tmpfs -o size={size} tmpfs /dev/shm"
    permitted = ["unshare", "-m", "sh", "-c", mount]
    try:
        probe = subprocess.run(permitted, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no unshare command (util-linux): cannot mount a /dev/shm of our own")
    if probe.returncode != 0:
        pytest.skip(f"cannot mount a /dev/shm of our own here: {probe.stderr.strip()}")
    python = f'{mount} && exec "$0" "$@"'
    answer = subprocess.run(
        ["unshare", "-m", "sh", "-c", python, sys.executable, "-c", PREAMBLE + code, "private"],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        cwd=ROOT,
        timeout=PATIENCE,
        check=False,
    )
    assert (answer.returncode, answer.stderr) == (0, ""), answer.stderr
    return answer.stdout
