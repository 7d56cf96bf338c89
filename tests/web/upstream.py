"""A model server in OpenAI's form that can also fail in all the ways such servers do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

EMBEDDING_LENGTH: Final = 4
LONGEST_TEXT: Final = 24_000


async def _events(how: str) -> AsyncIterator[bytes]:
    for word in ("one", "two"):
        chunk = {"choices": [{"index": 0, "delta": {"content": word}}]}
        yield f"data: {json.dumps(chunk)}\n\n".encode()
    if how == "hanging":
        await asyncio.Event().wait()
    if how == "cutting":
        raise ConnectionError("as the test has asked for")
    yield b"data: [DONE]\n\n"


async def chat(request: Request) -> Response:
    """What the path's first part says: good, or one of the ways to fail below."""
    how = request.path_params["how"]
    if how == "broken":
        return JSONResponse({"error": {"message": "out of memory"}}, 500)
    if how == "refusing":
        return JSONResponse({"error": {"message": "the prompt is too long"}}, 400)
    if how == "nonsense":
        return Response("<html>")
    if how == "unfit":
        return Response('{"half of an emoji": "\\ud83d"}')
    body = await request.json()
    if body.get("stream"):
        return StreamingResponse(_events(how), media_type="text/event-stream")
    content = {"model": body["model"], "key": request.headers.get("authorization")}
    message = {"role": "assistant", "content": json.dumps(content)}
    return JSONResponse({"object": "chat.completion", "choices": [{"message": message}]})


async def embeddings(request: Request) -> Response:
    """Different for texts of different length; none for very long ones."""
    text = (await request.json())["input"]
    if text == "fail":
        return Response("busy", 503)
    if text == "nothing":
        return JSONResponse({"data": [{"embedding": [None] * EMBEDDING_LENGTH}]})
    if len(text) > LONGEST_TEXT:
        return Response("too long", 400)
    length = EMBEDDING_LENGTH - (text == "short")
    return JSONResponse({"data": [{"embedding": [1.0, float(len(text)), *[0.0] * (length - 2)]}]})


app = Starlette(
    routes=[
        Route("/{how}/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/embeddings", embeddings, methods=["POST"]),
    ]
)
