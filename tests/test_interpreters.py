"""A short form of the suite under each other supported interpreter that is found."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

VERSIONS = ("3.11", "3.12", "3.13")
RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"
SHORT_FORM = ROOT / "tests" / "interpreters" / "short_form.py"
SOURCES = ("pyproject.toml", "setup.py", "setup.cfg", "MANIFEST.in", "README.md", "tools")
INSTALL_SECONDS = 300.0
RUN_SECONDS = 120.0
NO_NETWORK = ("NewConnectionError", "Temporary failure in name resolution", "ConnectTimeout",
              "No matching distribution", "ProxyError", "ReadTimeout")  # fmt: skip


def run(command: list[str], seconds: float, **settings: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload,no-any-return]  # keywords pass through
        command, capture_output=True, text=True, timeout=seconds, check=False, **settings
    )


def find(version: str) -> str:
    """An interpreter of that version that starts: a pyenv shim may name one that does not."""
    found = [shutil.which(f"python{version}")]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found += sorted(map(str, pyenv.glob(f"*/bin/python{version}")))
    for path in filter(None, found):
        answer = run([path, "-c", "import sys; print(sys.version_info[:2])"], 30.0)
        if answer.returncode == 0:
            return path
    pytest.skip(f"no working python{version} on PATH or in {pyenv}")


def install(interpreter: str, folder: Path) -> str:
    """A venv with this package built from a copy of the sources; its Python."""
    source = folder / "source"
    source.mkdir()
    ignored = shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info")
    for part in (*SOURCES, *(path.name for path in ROOT.glob("LICENSE*"))):
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, source / part, ignore=ignored)
        elif (ROOT / part).exists():
            shutil.copy(ROOT / part, source / part)
    shutil.copytree(ROOT / "sona_shm", source / "sona_shm", ignore=ignored)
    made = run([interpreter, "-m", "venv", str(folder / "venv")], INSTALL_SECONDS)
    if made.returncode != 0:
        pytest.skip(f"{interpreter} cannot make a venv: {made.stdout}{made.stderr}")
    python = str(folder / "venv" / "bin" / "python")
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "."]
    installed = run(command, INSTALL_SECONDS, cwd=source)
    if installed.returncode != 0 and any(sign in installed.stderr for sign in NO_NETWORK):
        pytest.skip(f"pip cannot reach a package index: {installed.stderr.strip()[-300:]}")
    assert installed.returncode == 0, installed.stdout + installed.stderr
    return python


@pytest.mark.parametrize("version", [version for version in VERSIONS if version != RUNNING])
def test_short_form(version: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp(f"python{version}")
    python = install(find(version), folder)
    script = shutil.copy(SHORT_FORM, folder / "short_form.py")
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "LD_PRELOAD")}
    answer = run([python, "-W", "error", str(script)], RUN_SECONDS, cwd=folder, env=environment)
    assert (answer.returncode, answer.stderr) == (0, ""), answer.stdout + answer.stderr
    assert f"all ok {version}." in answer.stdout
