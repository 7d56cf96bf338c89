"""VowpalWabbit's contextual bandit, ``--cb_explore_adf``, from PyPI."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from routers.episode import Episode

_COMMON: Final = "--cb_explore_adf --quiet -q sa --ignore_linear s"
_EXPLORATION: Final = (
    "--epsilon 0.02",
    "--epsilon 0.05",
    "--softmax --lambda 10",
    "--softmax --lambda 30",
    "--squarecb --gamma_scale 10",
    "--squarecb --gamma_scale 100",
    "--cover 3 --epsilon 0.02",
)
#: Every exploration with VowpalWabbit's usual step and a larger one.
SETTINGS: Final[tuple[dict[str, Any], ...]] = tuple(
    {"arguments": f"{exploration} -l {rate}"} for exploration in _EXPLORATION for rate in (0.5, 2.0)
)


class VowpalRouter:
    """The usual form: the embedding is shared, each action has a feature of its own, crossed."""

    def __init__(self, episode: Episode, seed: int, settings: dict[str, Any]) -> None:
        from vowpalwabbit import Workspace

        self._stream = episode.stream
        self._routes = episode.routes
        self._workspace = Workspace(f"{_COMMON} {settings['arguments']} --random_seed {seed}")
        self._rng = np.random.default_rng(seed)
        self._shared: dict[int, str] = {}
        self._probability = 0.0

    def _context(self, row: int) -> str:
        """The embedding as text; made once for each row."""
        if row not in self._shared:
            values = " ".join(f"{i}:{v:.5g}" for i, v in enumerate(self._stream.embedding[row]))
            self._shared[row] = f"shared |s {values} constant:0.3"
        return self._shared[row]

    def decide(self, row: int) -> int:
        """Draw from its probabilities."""
        actions = [f"|a r{k}" for k in range(self._routes)]
        probabilities = np.array(self._workspace.predict([self._context(row), *actions]))
        probabilities /= probabilities.sum()
        route = int(np.searchsorted(probabilities.cumsum(), self._rng.random()))
        route = min(route, self._routes - 1)
        self._probability = float(probabilities[route])
        return route

    def learn(self, row: int, route: int, quality: float) -> None:
        """It minimises cost, which is minus the reward."""
        cost = self._stream.price[route] - quality
        actions = [f"|a r{k}" for k in range(self._routes)]
        actions[route] = f"0:{cost:.5g}:{self._probability:.6g} {actions[route]}"
        self._workspace.learn([self._context(row), *actions])

    def add_route(self) -> None:
        """One action more."""
        self._routes += 1

    def close(self) -> None:
        """Let the workspace go."""
        self._workspace.finish()
