"""The smallest applications that use an engine, for servers of both kinds."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from sona_shm.integrations.worker import worker_engine


def _answer(path: str) -> bytes:
    """Route and give feedback; some paths then misbehave."""
    engine = worker_engine(os.environ["ENGINE"])
    decision = engine.route([0.5] * engine.config.hidden_dim)
    recorded = engine.feedback(decision.id, 0.9)
    answer: dict[str, Any] = {"pid": os.getpid(), "recorded": recorded}
    if path == "/hang":
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGABRT, signal.SIGTERM])
        time.sleep(600.0)  # hangs until it is killed
    if path == "/fork":
        answer["child"] = _fork_behind_python()
    return json.dumps(answer).encode()


def _fork_behind_python() -> int:
    """A child that runs none of Python's hooks and waits for a signal."""
    libc = ctypes.PyDLL(None)
    child = int(libc.fork())
    if child == 0:
        libc.pause()
        os._exit(0)
    return child


def wsgi(
    environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], object]
) -> Iterable[bytes]:
    body = _answer(environ["PATH_INFO"])
    start_response("200 OK", [("content-length", str(len(body)))])
    return [body]


Message = dict[str, Any]


async def asgi(
    scope: Message,
    receive: Callable[[], Awaitable[Message]],
    send: Callable[[Message], Awaitable[None]],
) -> None:
    if scope["type"] != "http":
        raise NotImplementedError  # which says that this application has no lifespan
    body = _answer(scope["path"])
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
