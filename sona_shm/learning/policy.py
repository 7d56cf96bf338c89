"""Exploration policies: which there are and what parameters they take.

The probabilities are computed in C, on the request path; one file a policy in ``_core/``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sona_shm import _core
from sona_shm.config import SonaConfig
from sona_shm.errors import NonFiniteError, OutOfRangeError


def policy_parameters(config: SonaConfig) -> tuple[float, float]:
    """The two numbers that the policy of a configuration takes.

    Examples
    --------
    >>> policy_parameters(SonaConfig(policy="epsilon_greedy", epsilon=0.1))
    (0.1, 0.0)
    """
    if config.policy == "epsilon_greedy":
        return (config.epsilon, 0.0)
    return (config.squarecb_gamma, 0.5)


def route_probabilities(config: SonaConfig, scores: ArrayLike, learned: int) -> NDArray[np.float64]:
    """The probability with which each route would be chosen.

    Parameters
    ----------
    config : SonaConfig
        Its policy and parameters.
    scores : array_like of float32, shape (routes,)
        Expected rewards.
    learned : int
        Outcomes learned so far.

    Returns
    -------
    numpy.ndarray of float64, shape (routes,)
        Positive, with sum 1.

    Raises
    ------
    NonFiniteError, OutOfRangeError

    References
    ----------
    Foster & Rakhlin (2020), Beyond UCB, arXiv:2002.04926 (``squarecb``).

    Examples
    --------
    >>> config = SonaConfig(policy="epsilon_greedy", epsilon=0.5)
    >>> route_probabilities(config, [0.1, 0.9], learned=10)
    array([0.25, 0.75])
    """
    if learned < 0:
        raise OutOfRangeError(f"learned is {learned}, expected a number of outcomes, 0 or more")
    if not np.all(np.isfinite(np.asarray(scores, np.float64))):
        raise NonFiniteError(f"scores is {scores!r}, expected finite numbers")
    parameters = policy_parameters(config)
    return np.array(_core.policy_probabilities(config.policy, scores, learned, parameters))
