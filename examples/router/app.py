"""The HTTP interface of the router: an ASGI application."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

import sona_shm as sona
from router.answering import AUTO, NoAnswerError, Router
from router.embedders import EmbedderError
from router.forms import BadRequestError, chat_request, error_response, feedback_request
from router.settings import load
from router.upstreams import RefusedError

settings = load()


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Make what a worker needs; where it cannot be made, the worker does not start."""
    # As many connections as requests: to wait for one would be learned as the model's failure.
    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=None)) as client:
        app.state.router = Router(settings, client)
        yield


async def chat(request: Request) -> Response:
    """``POST /v1/chat/completions``."""
    router: Router = request.app.state.router
    body = await chat_request(request, [AUTO, *router.upstreams])
    if body.get("stream"):
        decision, events = await router.stream(body)
        return StreamingResponse(events, headers=_headers(decision), media_type="text/event-stream")
    decision, answer = await router.complete(body)
    answer["sona"] = {
        "decision_id": str(decision.id),  # 63 bits: JavaScript's numbers have 53
        "route": decision.route,
        "propensity": decision.propensity,
    }
    return JSONResponse(answer, headers=_headers(decision))


def _headers(decision: sona.Decision) -> dict[str, str]:
    return {
        "x-sona-decision-id": str(decision.id),
        "x-sona-route": decision.route,
        "x-sona-propensity": f"{decision.propensity:.6g}",
        "x-sona-worker": str(os.getpid()),
    }


async def feedback(request: Request) -> Response:
    """``POST /feedback``."""
    decision_id, quality = await feedback_request(request)
    headers = {"x-sona-worker": str(os.getpid())}
    router: Router = request.app.state.router
    if router.engine.feedback(decision_id, quality):
        return JSONResponse({"recorded": True}, 202, headers)
    return error_response(
        503,
        "nothing was recorded, because this worker's lane is full: is a learner alive?",
        "overloaded",
        headers | {"retry-after": "1"},
    )


async def healthz(request: Request) -> Response:
    """``GET /healthz``: 200 as long as requests can be routed, also while nobody learns."""
    router: Router = request.app.state.router
    lane = router.engine.claim_lane()
    stats = router.engine.stats()
    return JSONResponse(
        {
            "status": "ok" if stats.learner_alive else "routes, but nobody learns",
            "learner_alive": stats.learner_alive,
            "version": stats.version,
            "seconds_since_publish": stats.seconds_since_publish,
            "worker": os.getpid(),
            "lane": lane,
        }
    )


# ---- errors ----


async def _bad_request(_: Request, error: Exception) -> Response:
    assert isinstance(error, BadRequestError)
    return error_response(error.status, str(error), "invalid_request_error")


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    return Response(error.content, error.status, media_type="application/json")


async def _no_answer(_: Request, error: Exception) -> Response:
    return error_response(502, str(error), "upstream_error")


async def _no_engine(_: Request, error: Exception) -> Response:
    return error_response(503, str(error), "engine_error", {"retry-after": "1"})


app = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/feedback", feedback, methods=["POST"]),
        Route("/healthz", healthz),
    ],
    exception_handlers={
        BadRequestError: _bad_request,
        RefusedError: _refused,
        NoAnswerError: _no_answer,
        EmbedderError: _no_answer,
        sona.SonaError: _no_engine,
    },
)
