"""The pages: metrics, health, state, history, patterns, events, dashboard."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sona_shm.monitor.json_text import to_json
from sona_shm.web.history import LONGEST_SECONDS
from sona_shm.web.metrics import EngineCollector
from sona_shm.web.sampler import Sampler

STATIC: Final = Path(__file__).parent / "static"
#: Everything that is answered is of this moment and for this origin.
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_MOST_FOLLOWERS: Final = 32
#: A comment goes to whoever follows when looking takes longer than this.
_KEEP_ALIVE_SECONDS: Final = 5.0
_DEFAULT_SECONDS: Final = 300.0


class Headers:
    """Puts the same headers on every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve, with headers."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self._app(scope, receive, send_with_headers)


class Pages:
    """What each path answers.

    Parameters
    ----------
    sampler : Sampler
    """

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._collector = EngineCollector(sampler.name)
        self._followers = 0

    async def dashboard(self, _: Request) -> Response:
        """The page for people."""
        return FileResponse(STATIC / "index.html")

    async def metrics(self, request: Request) -> Response:
        """For Prometheus, in the format that it asks for."""
        look = await self._sampler.look()
        text, content_type = self._collector.exposition(look, request.headers.get("accept", ""))
        return Response(text, headers={"Content-Type": content_type})

    async def health(self, _: Request) -> Response:
        """200 while somebody learns, or stands by to."""
        look = self._sampler.sampled
        if look.trouble is not None:
            return JSONResponse({"status": "unavailable", "reason": look.trouble}, 503)
        learner = "alive" if look.stats is not None and look.stats.learner_alive else "standby"
        return JSONResponse({"status": "ok", "engine": self._sampler.name, "learner": learner})

    async def state(self, _: Request) -> Response:
        """The last sample."""
        return _json(self._sampler.state)

    async def history(self, request: Request) -> Response:
        """Columns of the last seconds."""
        given = request.query_params.get("seconds", str(_DEFAULT_SECONDS))
        try:
            seconds = float(given)
        except ValueError:
            seconds = math.nan
        if not 0.0 < seconds <= LONGEST_SECONDS:
            expected = f"expected a number above 0 and at most {LONGEST_SECONDS:g}"
            return JSONResponse({"error": f"seconds is {given!r}, {expected}"}, 400)
        return _json(self._sampler.history(seconds))

    async def patterns(self, _: Request) -> Response:
        """The patterns in the plane."""
        points = await self._sampler.patterns()
        return _json(to_json({"patterns": [dataclasses.asdict(point) for point in points]}))

    async def events(self, _: Request) -> Response:
        """Server-sent events: the state of each second."""
        if self._followers >= _MOST_FOLLOWERS:
            reason = f"{_MOST_FOLLOWERS} clients follow already; close one, or poll /api/state"
            return JSONResponse({"error": reason}, 503, {"Retry-After": "5"})
        return _EventStream(self._follow(), self._count_follower)

    async def _follow(self) -> AsyncIterator[str]:
        async for state in self._sampler.states(_KEEP_ALIVE_SECONDS):
            yield ": nothing new\n\n" if state is None else f"data: {state}\n\n"

    @contextlib.contextmanager
    def _count_follower(self) -> Iterator[None]:
        self._followers += 1
        try:
            yield
        finally:
            self._followers -= 1


class _EventStream(StreamingResponse):
    """Counted for exactly as long as it is sent, however it ends."""

    def __init__(
        self, events: AsyncIterator[str], counted: Callable[[], AbstractContextManager[None]]
    ) -> None:
        super().__init__(events, media_type="text/event-stream")
        self._counted = counted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._counted():
            await super().__call__(scope, receive, send)


def _json(text: str) -> Response:
    return Response(text, media_type="application/json")


def create_app(sampler: Sampler, hosts: Sequence[str]) -> Starlette:
    """The application.

    Parameters
    ----------
    sampler : Sampler
        Runs as long as the application does.
    hosts : sequence of str
        Names that a request may ask for; ``*`` for any.
    """

    @contextlib.asynccontextmanager
    async def sampling(_: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(sampler.run())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    pages = Pages(sampler)
    paths: dict[str, Any] = {
        "/": pages.dashboard,
        "/metrics": pages.metrics,
        "/healthz": pages.health,
        "/api/state": pages.state,
        "/api/history": pages.history,
        "/api/patterns": pages.patterns,
        "/events": pages.events,
    }
    return Starlette(
        routes=[
            *(Route(path, page, methods=["GET"]) for path, page in paths.items()),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        middleware=[
            Middleware(Headers),
            Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False),
        ],
        lifespan=sampling,
    )
