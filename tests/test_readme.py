"""The README's code works as pasted, and every command it names exists."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.conftest import ROOT, remove_everything
from tests.test_cli import sona_command

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_code_works_as_pasted() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(code.splitlines()) <= 30
    try:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code.replace('"router"', '"t-readme"')],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        remove_everything("t-readme")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"(small|large) 0\.\d+\n1\n", done.stdout)


def test_no_placeholder_is_left() -> None:
    assert "@@" not in README


def test_every_command_it_names_exists() -> None:
    commands = set(re.findall(r"`sona (\w+)", README))
    assert {"demo", "learner", "stats", "destroy"} <= commands
    for command in commands:
        assert sona_command(command, "--help").returncode == 0
    targets = set(re.findall(r"make (\w+)", README))
    declared = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert targets <= declared
