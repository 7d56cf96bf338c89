"""Rewards that a caller's own function computes."""

from __future__ import annotations

import importlib
import logging
import math
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeAlias

from sona_shm.errors import ConfigError

_LOG_SECONDS: Final = 1.0
logger = logging.getLogger("sona_shm.learner")


class Outcome(NamedTuple):
    """What a reward function gets.

    Attributes
    ----------
    route : str
    quality : float
        In [0, 1].
    price : float
        ``cost_weight * cost`` of the route.
    latency_ms : float or None
        Where the feedback told it.
    tokens : int or None
        Where the feedback told it.

    Examples
    --------
    >>> Outcome("small", 0.9, 0.1, 350.0, None).quality
    0.9
    """

    route: str
    quality: float
    price: float
    latency_ms: float | None
    tokens: int | None


RewardFunction: TypeAlias = Callable[[Outcome], float]


def reward_hook(
    reward: RewardFunction | None,
    route_name: Callable[[int], str],
    note: Callable[[str, Exception], None],
) -> Callable[[int, float, float, int, int], float] | None:
    """The function in the form that the compiled core calls; what it raises is noted."""
    if reward is None:
        return None
    names: dict[int, str] = {}
    quiet_until = 0.0

    def hook(route: int, quality: float, price: float, latency_us: int, tokens: int) -> float:
        nonlocal quiet_until
        if route not in names:
            names[route] = route_name(route)
        latency_ms = latency_us / 1000.0 if latency_us else None
        outcome = Outcome(names[route], quality, price, latency_ms, tokens or None)
        try:
            return float(reward(outcome))
        except Exception as error:
            note("reward", error)
            if time.monotonic() >= quiet_until:
                logger.exception("the reward of %s has failed; its outcome is not learned", outcome)
                quiet_until = time.monotonic() + _LOG_SECONDS
            return math.nan  # counted as reward_failed

    return hook


def reward_path(reward: RewardFunction) -> str:
    """How another process imports a function, ``module:name``.

    Raises
    ------
    ConfigError
        If it cannot.

    Examples
    --------
    >>> import math
    >>> reward_path(math.fsum)
    'math:fsum'
    """
    module = getattr(reward, "__module__", None)
    name = getattr(reward, "__qualname__", None)
    path = f"{module}:{name}"
    if module in (None, "__main__") or name is None or load_reward(path) is not reward:
        raise ConfigError(
            f"reward is {reward!r}, which a learner process cannot import; define it at the top "
            "level of a module, or use learner='thread'"
        )
    return path


def load_reward(path: str) -> RewardFunction:
    """The function that ``module:name`` names.

    Raises
    ------
    ConfigError
        If there is none.

    Examples
    --------
    >>> load_reward("math:fsum").__name__
    'fsum'
    """
    module, _, name = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"the reward {path!r} cannot be imported: {error}") from None
    if not callable(found):
        raise ConfigError(f"the reward {path!r} is {found!r}, expected a function")
    reward: RewardFunction = found  # more than that it is callable cannot be checked
    return reward
