"""Requests and errors in OpenAI's form."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse

#: Room for a few images in base64; embedding and parsing hold up a worker's other requests.
_MOST_BYTES: Final = 32 * 2**20


class BadRequestError(Exception):
    """What is wrong with a request, for its sender, and the status that says so."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def error_body(message: str, kind: str) -> dict[str, Any]:
    """An error as OpenAI's clients expect it."""
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def error_response(
    status: int, message: str, kind: str, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """The response with such an error."""
    return JSONResponse(error_body(message, kind), status, headers)


def error_event(message: str) -> bytes:
    """The last event of an answer that broke off."""
    return f"data: {json.dumps(error_body(message, 'upstream_error'))}\n\n".encode()


def parsed(content: bytes | bytearray) -> Any:
    """JSON that can be passed on as JSON.

    Raises
    ------
    ValueError
        For anything else, such as NaN, half of an emoji, or a hundred thousand brackets.
    """
    try:
        value = json.loads(content)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


async def json_object(request: Request) -> dict[str, Any]:
    """The body of a request.

    Raises
    ------
    BadRequestError
        If it is no JSON object, or too large.
    """
    content = bytearray()
    async for piece in request.stream():
        content += piece
        if len(content) > _MOST_BYTES:
            raise BadRequestError(f"the body is longer than {_MOST_BYTES:,} bytes", 413)
    try:
        body = parsed(content)
    except ValueError as error:
        raise BadRequestError(f"the body is no JSON: {error}") from None
    if not isinstance(body, dict):
        raise BadRequestError(f"the body is {_shown(body)}, expected a JSON object")
    return body


async def chat_request(request: Request, models: list[str]) -> dict[str, Any]:
    """The body of a chat request, checked as far as the router uses it.

    Raises
    ------
    BadRequestError
        If it is no chat request, or for a model that is none of `models`.
    """
    body = await json_object(request)
    if body.get("model") not in models:
        raise BadRequestError(
            f"model is {_shown(body.get('model'))}, expected one of {', '.join(models)}"
        )
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequestError(f"messages is {_shown(messages)}, expected a non-empty list")
    for message in messages:
        if not isinstance(message, dict):
            raise BadRequestError(
                f'a message is {_shown(message)}, expected {{"role": ..., "content": ...}}'
            )
    if not isinstance(body.get("stream"), bool | None):
        raise BadRequestError(f"stream is {_shown(body['stream'])}, expected true or false")
    return body


async def feedback_request(request: Request) -> tuple[int, float]:
    """Decision id and quality.

    Raises
    ------
    BadRequestError
        If either is not what it must be.
    """
    body = await json_object(request)
    decision_id, quality = body.get("decision_id"), body.get("quality")
    if not isinstance(decision_id, str) or not re.fullmatch("[0-9]{1,19}", decision_id):
        raise BadRequestError(
            f"decision_id is {_shown(decision_id)}, expected the string of digits that the answer "
            "has in sona.decision_id"
        )
    if isinstance(quality, bool) or not isinstance(quality, int | float) or not 0 <= quality <= 1:
        raise BadRequestError(f"quality is {_shown(quality)}, expected a number from 0 to 1")
    return int(decision_id), float(quality)


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
