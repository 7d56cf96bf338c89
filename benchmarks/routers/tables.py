"""From passes to figures."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np

from routers import linucb, vowpal
from routers.tasks import Result, Task, run_all

PEERS: Final[dict[str, tuple[dict[str, Any], ...]]] = {
    "VowpalWabbit": vowpal.SETTINGS,
    "LinUCB": linucb.SETTINGS,
}
EVEN, ODD, ALL = 0, 1, None
_TUNING_ORDERS: Final = 2
_WINDOW: Final = 100


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean and its standard error."""

    value: float
    error: float

    def __str__(self) -> str:
        return f"{self.value:.4f} ± {self.error:.4f}"


def signed(difference: Mean) -> str:
    """A difference, with a star beyond two standard errors."""
    sure = "*" if abs(difference.value) > 2.0 * difference.error else " "
    return f"{difference.value:+.4f} ± {difference.error:.4f}{sure}"


def plain(value: Any) -> Any:
    """Figures for JSON."""
    if isinstance(value, Mean):
        return {"mean": value.value, "standard_error": value.error}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return [round(float(item), 5) for item in value]
    return value


def mean_of(values: Iterable[float]) -> Mean:
    """Of several orders."""
    array = np.array(list(values))
    error = array.std(ddof=1) / math.sqrt(len(array)) if len(array) > 1 else math.nan
    return Mean(float(array.mean()), float(error))


def freeze(settings: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Settings that can be a part of a task."""
    return tuple(sorted(settings.items()))


def passes(
    router: str, settings: dict[str, Any], stream: str, half: int | None, scenario: str, orders: int
) -> list[Task]:
    """One task for each order."""
    return [Task(router, freeze(settings), stream, half, scenario, seed) for seed in range(orders)]


def grouped(results: Sequence[Result]) -> dict[tuple[Any, ...], list[Result]]:
    """By router, settings, stream, half and scenario; the orders of each in a list."""
    groups: dict[tuple[Any, ...], list[Result]] = {}
    for result in results:
        task = result.task
        key = (task.router, task.settings, task.stream, task.half, task.scenario)
        groups.setdefault(key, []).append(result)
    return groups


def tune(streams: Sequence[str], half: int | None, jobs: int) -> dict[tuple[str, str], list[Any]]:
    """Each peer's settings for each stream, best first, by two orders of these rows."""
    tasks = [
        task
        for stream in streams
        for router, settings in PEERS.items()
        for setting in settings
        for task in passes(router, setting, stream, half, "plain", _TUNING_ORDERS)
    ]
    rows = "even" if half == EVEN else "all"
    ranked: dict[tuple[str, str], list[Any]] = {}
    for key, results in grouped(run_all(tasks, jobs, f"tuning peers on {rows} rows")).items():
        router, setting, stream, _, _ = key
        mean = mean_of(result.mean for result in results).value
        ranked.setdefault((router, stream), []).append((mean, dict(setting)))
    return {
        key: [setting for _, setting in sorted(found, key=lambda pair: -pair[0])]
        for key, found in ranked.items()
    }


def requests_to_recover(results: Sequence[Result], target: float) -> int | None:
    """Requests until the mean reward over the orders and the next 100 requests is at the target."""
    reward = np.mean([result.after for result in results], axis=0)
    return _first_window(reward, target)


def requests_to_share(results: Sequence[Result], route: int, share: float) -> int | None:
    """Requests until a route serves that share of the next 100 requests, over the orders."""
    served = np.mean([result.routes == route for result in results], axis=0)
    return _first_window(served, share)


def _first_window(values: Any, target: float) -> int | None:
    windows = np.convolve(values, np.full(_WINDOW, 1.0 / _WINDOW), mode="valid")
    reached = np.flatnonzero(windows >= target)
    return int(reached[0]) if len(reached) else None
