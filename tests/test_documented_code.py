"""Code and configurations in the documents work as pasted, and every block has a test."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import sona_shm as sona
from tests.conftest import ROOT, remove_everything
from tests.documented_ways import CONFIG, Place, a_journal
from tests.documents import blocks

CODE = blocks("python")


def code_of(file: str) -> str:
    (code,) = [block.text for block in CODE if block.file == file]
    return code


def test_every_block_of_python_has_a_test() -> None:
    # Those of docs/export.md are run by tests/test_export.py and tests/test_peft.py.
    assert [block.file for block in CODE] == [
        "README.md",
        "docs/export.md",
        "docs/export.md",
        "docs/operations.md",
    ]


def test_every_block_of_toml_is_a_configuration() -> None:
    for block in blocks("toml"):
        sona.SonaConfig.from_mapping(tomllib.loads(block.text))
    assert blocks("toml")


def test_the_code_of_the_readme_works_as_pasted() -> None:
    code = code_of("README.md")
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


def test_a_journal_teaches_an_engine_of_another_layout(name: str, tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    exec(code_of("docs/operations.md"), names)
    place = Place(name, tmp_path)
    with a_journal(place):
        config = sona.SonaConfig.from_mapping(tomllib.loads(CONFIG) | {"trajectory_capacity": 4})
        with sona.Engine.create(name, config, "thread") as engine:
            assert names["teach"](engine, str(tmp_path / "DIR")) == 200
            assert engine.stats().counters.outcomes_learned == 200


def test_no_placeholder_is_left() -> None:
    assert "@@" not in (ROOT / "README.md").read_text(encoding="utf-8")
