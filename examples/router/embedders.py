"""What turns a prompt into a vector of length 1."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol

import httpx
import numpy as np
from numpy.typing import NDArray

import sona_shm as sona
from router.settings import EmbedderSettings, authorization

Vector = NDArray[np.float32]


class EmbedderError(Exception):
    """A prompt could not be embedded."""


class Embedder(Protocol):
    """Write one of your own, and name it in `KINDS`."""

    dimension: int

    async def embed(self, text: str) -> Vector:
        """A vector of length 1; raises `EmbedderError`."""


class HashedNgrams:
    """Counts of the 3 to 5 letters long pieces of a text, hashed; needs no model and no network.

    The hash is arithmetic on the text's bytes, so all processes and restarts agree.
    """

    _SIZES: Final = (3, 4, 5)
    _BASE: Final = np.uint64(1_099_511_628_211)
    _MIX: Final = np.uint64(0x9E3779B97F4A7C15)

    def __init__(self, settings: EmbedderSettings, _client: httpx.AsyncClient) -> None:
        self.dimension = settings.dimension

    async def embed(self, text: str) -> Vector:
        """A vector of length 1."""
        return self.vector(text)

    def vector(self, text: str) -> Vector:
        """The same, at once."""
        words = f" {' '.join(text.lower().split())} ".encode()
        letters = np.frombuffer(words, np.uint8).astype(np.uint64)
        total = np.zeros(self.dimension)
        for size in self._SIZES:
            count = len(letters) - size + 1
            if count <= 0:
                continue
            hashed = np.full(count, size, np.uint64)
            for offset in range(size):
                hashed = hashed * self._BASE + letters[offset : offset + count]
            hashed = (hashed * self._MIX) >> np.uint64(20)
            sign = np.where(hashed & np.uint64(1), 1.0, -1.0)
            place = (hashed >> np.uint64(1)) % np.uint64(self.dimension)
            total += np.bincount(place.astype(np.intp), sign, self.dimension)
        return _unit(total)


class SentenceTransformers:
    """A model of the library sentence-transformers, in this process."""

    def __init__(self, settings: EmbedderSettings, _client: httpx.AsyncClient) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise sona.ConfigError(
                'embedder kind "sentence_transformers" needs: pip install sentence-transformers'
            ) from None
        self._model: Any = SentenceTransformer(settings.model)
        self.dimension = int(self._model.get_sentence_embedding_dimension())

    async def embed(self, text: str) -> Vector:
        """A vector of length 1, computed in a thread."""
        return _unit(await asyncio.to_thread(self._model.encode, text))


class OpenAIEmbeddings:
    """An endpoint that speaks OpenAI's form, ``POST {base_url}/embeddings``."""

    def __init__(self, settings: EmbedderSettings, client: httpx.AsyncClient) -> None:
        self._client = client
        self._headers = authorization(settings.api_key_env)
        self._url = settings.base_url.rstrip("/") + "/embeddings"
        self._model = settings.model
        self.dimension = settings.dimension

    async def embed(self, text: str) -> Vector:
        """A vector of length 1."""
        try:
            answer = await self._client.post(
                self._url, json={"model": self._model, "input": text}, headers=self._headers
            )
            answer.raise_for_status()
            values = np.asarray(answer.json()["data"][0]["embedding"], np.float32)
        except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
            raise EmbedderError(f"{self._url}: {error!r}") from None
        if values.shape != (self.dimension,):
            raise EmbedderError(
                f"{self._url} answered shape {values.shape}, expected ({self.dimension},)"
            )
        if not np.isfinite(values).all():
            raise EmbedderError(f"{self._url} answered numbers that are not finite")
        return _unit(values)


def _unit(values: Any) -> Vector:
    length = float(np.linalg.norm(values))
    if length == 0.0:  # an empty text; any direction will do if it is always the same
        values, length = np.eye(1, len(values))[0], 1.0
    return np.asarray(values / length, np.float32)


KINDS: Final[dict[str, Callable[[EmbedderSettings, httpx.AsyncClient], Embedder]]] = {
    "hashed_ngrams": HashedNgrams,
    "sentence_transformers": SentenceTransformers,
    "openai": OpenAIEmbeddings,
}


def make_embedder(settings: EmbedderSettings, client: httpx.AsyncClient) -> Embedder:
    """The embedder that the settings name.

    Raises
    ------
    sona_shm.ConfigError
        If there is none of that kind, or its vectors are not as long as the settings say.
    """
    if settings.kind not in KINDS:
        raise sona.ConfigError(f"embedder kind is {settings.kind!r}, expected {', '.join(KINDS)}")
    embedder = KINDS[settings.kind](settings, client)
    if embedder.dimension != settings.dimension:
        raise sona.ConfigError(
            f"the embedder {settings.model or settings.kind} makes vectors of length "
            f"{embedder.dimension}, router.toml says dimension = {settings.dimension}"
        )
    return embedder
