"""Shared fixtures: names that cannot collide, a seed that is printed, nothing left behind."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import posix_ipc
import pytest

import sona_shm as sona
from sona_shm.shm.names import names_of

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("SONA_SHARED", ROOT.parent / "shared"))
# In the environment, so that the processes that share the tests out have the same.
SEED = int(os.environ.setdefault("SONA_TEST_SEED", str(secrets.randbits(32))))


def pytest_report_header() -> str:
    return f"SONA_TEST_SEED={SEED} (set it to repeat a run); reference data in {SHARED}"


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers of this test, from the seed in the report header."""
    return np.random.default_rng([SEED, *request.node.nodeid.encode()])


@pytest.fixture
def name() -> Iterator[str]:
    """A fresh engine name; what the test leaves under it is removed."""
    engine = f"t-{secrets.token_hex(6)}"
    yield engine
    remove_everything(engine)


def remove_everything(engine: str) -> None:
    """Destroy an engine, if it is there, and the lock of a creator that a test killed."""
    with contextlib.suppress(sona.EngineNotFound):
        sona.Engine.destroy(engine)


def leftovers(engine: str) -> list[str]:
    """What is in the shared-memory namespace under this name."""
    names = names_of(engine)
    found = []
    for object_name in (*names.segments, names.lifecycle):
        try:
            os.close(posix_ipc.SharedMemory(object_name).fd)
            found.append(object_name)
        except posix_ipc.ExistentialError:
            pass
    try:
        posix_ipc.Semaphore(names.semaphore).close()
        found.append(names.semaphore)
    except posix_ipc.ExistentialError:
        pass
    return found


def shared_file(*parts: str) -> Path:
    """A file of the reference data, or a skip that says where it was looked for."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"reference data {path} is absent; set SONA_SHARED to its folder")
    return path
