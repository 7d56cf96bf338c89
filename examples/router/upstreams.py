"""The models behind the router: HTTP endpoints in OpenAI's form, and stubs in this process."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any, Final, Protocol

import httpx

import sona_shm as sona
from router.forms import parsed
from router.settings import UpstreamSettings, authorization
from router.stubs import SUBJECTS, stub_answer

#: The request is at fault and not the model: another one would refuse it too.
_FAULTS_OF_THE_REQUEST: Final = frozenset({400, 413, 422})


class UpstreamError(Exception):
    """A model did not answer; another one may."""


class RefusedError(Exception):
    """A model says that the request is wrong: `status`, and its answer."""

    def __init__(self, status: int, content: bytes) -> None:
        super().__init__(f"status {status}")
        self.status = status
        self.content = content


class Upstream(Protocol):
    """Something that answers a chat request."""

    name: str

    async def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """The whole answer; raises `UpstreamError`, `RefusedError`."""

    async def stream(self, body: dict[str, Any]) -> AsyncIterator[bytes]:
        """The answer's server-sent events; raises `UpstreamError` also while they come."""


class HttpUpstream:
    """``POST {base_url}/chat/completions``."""

    def __init__(self, settings: UpstreamSettings, client: httpx.AsyncClient) -> None:
        self.name = settings.name
        self._client = client
        try:
            self._url = httpx.URL(settings.base_url.rstrip("/") + "/chat/completions")
        except httpx.InvalidURL as error:
            raise sona.ConfigError(
                f"base_url of {self.name} is {settings.base_url!r}: {error}"
            ) from None
        self._model = settings.model or settings.name
        self._headers = authorization(settings.api_key_env)
        self._timeout = settings.timeout_seconds

    async def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """The whole answer."""
        response = await self._send(body)
        try:
            answer = parsed(await response.aread())
        except (httpx.HTTPError, ValueError) as error:
            raise UpstreamError(f"{self._url}: {error!r}") from None
        finally:
            await response.aclose()
        if not isinstance(answer, dict):
            raise UpstreamError(f"{self._url} answered no JSON object")
        return answer

    async def stream(self, body: dict[str, Any]) -> AsyncIterator[bytes]:
        """The events as they come."""
        response = await self._send(body)
        kind = response.headers.get("content-type", "")
        if not kind.startswith("text/event-stream"):
            await response.aclose()
            raise UpstreamError(f"{self._url} answered {kind or 'nothing'}, expected events")
        return self._events(response)

    async def _events(self, response: httpx.Response) -> AsyncIterator[bytes]:
        try:
            async for piece in response.aiter_bytes():
                yield piece
        except httpx.HTTPError as error:
            raise UpstreamError(f"{self._url}: {error!r}") from None
        finally:
            await response.aclose()

    async def _send(self, body: dict[str, Any]) -> httpx.Response:
        request = self._client.build_request(
            "POST",
            self._url,
            json=body | {"model": self._model},
            headers=self._headers,
            timeout=self._timeout,
        )
        try:
            response = await self._client.send(request, stream=True)
            if response.is_success:
                return response
            content = await response.aread()
        except httpx.HTTPError as error:
            raise UpstreamError(f"{self._url}: {error!r}") from None
        await response.aclose()
        if response.status_code in _FAULTS_OF_THE_REQUEST:
            raise RefusedError(response.status_code, content)
        raise UpstreamError(f"{self._url}: status {response.status_code}")


class StubUpstream:
    """``stub://subject,subject``: good about these and bad about others; see `stubs`."""

    def __init__(self, settings: UpstreamSettings) -> None:
        self.name = settings.name
        unknown = set(settings.base_url.removeprefix("stub://").split(",")) - set(SUBJECTS)
        if unknown:
            raise sona.ConfigError(
                f"base_url of {self.name} is {settings.base_url!r}, expected stub:// and some of "
                f"{', '.join(SUBJECTS)}"
            )

    async def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """The whole answer."""
        message = {"role": "assistant", "content": stub_answer(self.name, prompt_of(body))}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return self._envelope(_new_id(), "chat.completion", choice)

    async def stream(self, body: dict[str, Any]) -> AsyncIterator[bytes]:
        """The answer word by word."""
        return self._words(stub_answer(self.name, prompt_of(body)))

    async def _words(self, answer: str) -> AsyncIterator[bytes]:
        answer_id = _new_id()
        for word in answer.split(" "):
            choice = {"index": 0, "delta": {"content": word + " "}, "finish_reason": None}
            chunk = self._envelope(answer_id, "chat.completion.chunk", choice)
            yield f"data: {json.dumps(chunk)}\n\n".encode()
        yield b"data: [DONE]\n\n"

    def _envelope(self, answer_id: str, kind: str, choice: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": answer_id,
            "object": kind,
            "created": int(time.time()),
            "model": self.name,
            "choices": [choice],
        }


def _new_id() -> str:
    return f"chatcmpl-{uuid.uuid4().hex}"


def make_upstream(settings: UpstreamSettings, client: httpx.AsyncClient) -> Upstream:
    """The upstream of a table ``[[upstreams]]``."""
    if settings.base_url.startswith("stub://"):
        return StubUpstream(settings)
    if settings.base_url.startswith(("http://", "https://")):
        return HttpUpstream(settings, client)
    raise sona.ConfigError(
        f"base_url of {settings.name} is {settings.base_url!r}, expected http://, https:// or "
        "stub://"
    )


def prompt_of(body: dict[str, Any]) -> str:
    """The text of the last message that a user wrote; of the last message, if none did."""
    messages = body["messages"]
    asked = [message for message in messages if message.get("role") == "user"]
    content = (asked or messages)[-1].get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return " ".join(text for text in texts if isinstance(text, str))
