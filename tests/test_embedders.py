"""The example router's embedders, of which processes and restarts must agree."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys

import httpx
import numpy as np
import pytest
from router.embedders import HashedNgrams, make_embedder
from router.settings import EmbedderSettings

import sona_shm as sona
from tests.conftest import ROOT

TEXTS = ("Fix the bug in this function", "", " ", "é 漢字 🎉", "a" * 100_000)
DIGEST = """
import hashlib
from router.embedders import HashedNgrams
from router.settings import EmbedderSettings
from tests.test_embedders import TEXTS
embedder = HashedNgrams(EmbedderSettings("hashed_ngrams", 64), None)
print(hashlib.sha256(b"".join(embedder.vector(t).tobytes() for t in TEXTS)).hexdigest())
"""


def hashed(dimension: int = 64) -> HashedNgrams:
    return HashedNgrams(EmbedderSettings("hashed_ngrams", dimension), httpx.AsyncClient())


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("dimension", [1, 64, 1000])
def test_vectors_have_length_1(text: str, dimension: int) -> None:
    vector = asyncio.run(hashed(dimension).embed(text))
    assert vector.shape == (dimension,)
    assert vector.dtype == np.float32
    assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-6)


def test_processes_agree() -> None:
    """Python's own hash differs between them."""
    own = hashlib.sha256(b"".join(hashed().vector(text).tobytes() for text in TEXTS)).hexdigest()
    path = os.pathsep.join((str(ROOT), str(ROOT / "examples")))
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", DIGEST]
        printed = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        assert printed.stdout.strip() == own


def test_similar_texts_are_near() -> None:
    one, same, near, far = (
        hashed(256).vector(text)
        for text in (
            "Fix the bug in this python function",
            "fix  the BUG in this Python function",
            "Fix two bugs in these python functions",
            "What will the weather be tomorrow?",
        )
    )
    assert np.array_equal(one, same)
    assert one @ near > 0.5 > one @ far + 0.2


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)  # missing, if it is there too
    settings = EmbedderSettings("sentence_transformers", 384, model="m")
    with pytest.raises(sona.ConfigError, match="pip install sentence-transformers"):
        make_embedder(settings, httpx.AsyncClient())


def test_a_key_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    settings = EmbedderSettings("openai", 4, "m", "http://x", "NO_SUCH_KEY")
    with pytest.raises(sona.ConfigError, match="NO_SUCH_KEY, which is not set"):
        make_embedder(settings, httpx.AsyncClient())
