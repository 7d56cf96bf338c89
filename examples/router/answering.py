"""What the router does with a request: embed, choose, ask, and learn from failures."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

import httpx

import sona_shm as sona
from router.embedders import Embedder, make_embedder
from router.forms import error_event
from router.settings import Settings
from router.upstreams import Upstream, UpstreamError, make_upstream, prompt_of
from sona_shm.engine.ensure import ensure_engine
from sona_shm.integrations.worker import worker_engine

AUTO = "auto"
_ATTEMPTS = 2
_ROUTE_SECONDS = 5.0
#: Some 5,000 tokens, which embedders take; what a prompt is about stands in its beginning.
_EMBEDDED_LETTERS = 20_000
Answer = TypeVar("Answer")


class NoAnswerError(Exception):
    """No upstream that was asked has answered."""


class Router:
    """The upstreams, and the engine that chooses among them.

    Raises
    ------
    sona_shm.SonaError
        If settings, embedder and engine do not fit, with what to do.
    """

    def __init__(self, settings: Settings, client: httpx.AsyncClient) -> None:
        self._name = settings.name
        self._embedder: Embedder = make_embedder(settings.embedder, client)
        self.upstreams: dict[str, Upstream] = {
            table.name: make_upstream(table, client) for table in settings.upstreams
        }
        ensure_engine(settings.name, settings.engine)
        self._require_dimension(settings.embedder.dimension)
        self._offer(settings.engine.routes)
        self.engine.claim_lane()

    @property
    def engine(self) -> sona.Engine:
        """The engine as it is now: it may be destroyed and made anew while workers run."""
        return worker_engine(self._name)

    def _require_dimension(self, dimension: int) -> None:
        expected = self.engine.config.hidden_dim
        if expected != dimension:
            raise sona.ConfigError(
                f"the engine {self._name!r} exists with hidden_dim = {expected}, and the embedder "
                f"makes vectors of length {dimension}; stop all its users and: sona destroy "
                f"{self._name}"
            )

    def _offer(self, routes: Sequence[sona.Route]) -> None:
        """Routes and costs that are new in the settings; the engine may be older than they are."""
        known = {row.name: row.cost for row in self.engine.stats().routes if row.active}
        for route in routes:
            try:
                if route.name not in known:
                    self.engine.add_route(route, timeout=_ROUTE_SECONDS)
                elif known[route.name] != route.cost:
                    self.engine.set_cost(route.name, route.cost, timeout=_ROUTE_SECONDS)
            except sona.ConfigError:
                names = [row.name for row in self.engine.stats().routes if row.active]
                if route.name not in names:  # else another worker was faster
                    raise

    # ---- requests ----

    async def complete(self, body: dict[str, Any]) -> tuple[sona.Decision, dict[str, Any]]:
        """The decision, and the whole answer."""
        return await self._ask(body, lambda upstream: upstream.complete(body))

    async def stream(self, body: dict[str, Any]) -> tuple[sona.Decision, AsyncIterator[bytes]]:
        """The decision, and the answer's events; an error in their midst is the last of them."""
        decision, events = await self._ask(body, lambda upstream: upstream.stream(body))
        return decision, self._watched(decision, events)

    async def _ask(
        self, body: dict[str, Any], call: Callable[[Upstream], Awaitable[Answer]]
    ) -> tuple[sona.Decision, Answer]:
        """Whatever `call` gets from the upstream that is chosen, or else from another one.

        Raises
        ------
        NoAnswerError
            If those that were asked failed, or one that the request names did.
        """
        x = await self._embedder.embed(prompt_of(body)[:_EMBEDDED_LETTERS])
        candidates = list(self.upstreams) if body["model"] == AUTO else [body["model"]]
        failures: list[str] = []
        while candidates and len(failures) < _ATTEMPTS:
            decision = self.engine.route(x, allowed=candidates)
            started = time.monotonic()
            try:
                return decision, await call(self.upstreams[decision.route])
            except UpstreamError as error:
                failures.append(f"{decision.route}: {error}")
                self.engine.feedback(decision.id, 0.0, 1000.0 * (time.monotonic() - started))
                candidates.remove(decision.route)
        raise NoAnswerError("; ".join(failures))

    async def _watched(
        self, decision: sona.Decision, events: AsyncIterator[bytes]
    ) -> AsyncIterator[bytes]:
        try:
            async for event in events:
                yield event
        except UpstreamError as error:
            self.engine.feedback(decision.id, 0.0)
            yield error_event(str(error))
