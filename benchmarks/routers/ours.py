"""sona_shm: one engine that learns in the calling process."""

from __future__ import annotations

import itertools
import os
from typing import Any

import sona_shm as sona
from routers.episode import Episode
from routers.streams import COST_WEIGHT
from sona_shm.loops.cycle import PARTS

_NUMBERS = itertools.count()


def engine_name() -> str:
    """One that no other engine of this run has."""
    return f"bench-{os.getpid()}-{next(_NUMBERS)}"


def engine_config(
    episode: Episode, seed: int, workers: int, settings: dict[str, Any]
) -> sona.SonaConfig:
    """The default configuration, and where a table says so, one setting of it changed."""
    price = episode.stream.price
    return sona.SonaConfig(
        hidden_dim=episode.stream.embedding.shape[1],
        routes=tuple(_route(k, price[k]) for k in range(episode.routes)),
        max_routes=len(price),
        cost_weight=COST_WEIGHT,
        seed=seed,
        max_workers=workers,
        **({"trajectory_capacity": 2000} | settings),
    )


def _route(index: int, price: float) -> sona.Route:
    return sona.Route(f"route {index}", float(price) / COST_WEIGHT)


class OurRouter:
    """The engine behind the interface of the benchmark."""

    def __init__(self, episode: Episode, seed: int, settings: dict[str, Any]) -> None:
        self._episode = episode
        self._name = engine_name()
        # Settings of the benchmark, not of the engine: Loop B after so many requests, and which
        # of its parts.
        self._cycle_every = settings.pop("cycle_every", 0)
        parts = settings.pop("cycle_parts", PARTS)
        self._requests = 0
        config = engine_config(episode, seed, 1, settings)
        self._engine = sona.Engine.create(self._name, config, learner="inline")
        drain = self._engine.instant._drain
        assert drain is not None
        drain.background.parts = frozenset(parts)
        self._decision = 0

    def decide(self, row: int) -> int:
        """The engine's choice."""
        decision = self._engine.route(self._episode.stream.embedding[row])
        self._decision = decision.id
        return decision.index

    def learn(self, row: int, route: int, quality: float) -> None:
        """Feedback on it."""
        self._engine.feedback(self._decision, quality)
        self._requests += 1
        if self._cycle_every and self._requests % self._cycle_every == 0:
            self._engine.force_learn()

    def add_route(self) -> None:
        """The last column of the stream."""
        last = len(self._episode.stream.price) - 1
        self._engine.add_route(_route(last, self._episode.stream.price[last]))

    def close(self) -> None:
        """Remove the engine."""
        self._engine.close()
        sona.Engine.destroy(self._name)
