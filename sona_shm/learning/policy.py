"""Exploration policies: which there are and what parameters they take.

The probabilities are computed in C, on the request path; one file a policy in ``_core/``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sona_shm import _core
from sona_shm.config import SonaConfig
from sona_shm.errors import NonFiniteError, OutOfRangeError, ShapeError
from sona_shm.shm.layout import LARGEST_ROUTES


def policy_strength(config: SonaConfig) -> float:
    """The strength of exploration of a configuration; NaN for the policy's usual one.

    Examples
    --------
    >>> policy_strength(SonaConfig(policy="epsilon_greedy", exploration=0.1))
    0.1
    """
    return float("nan") if config.exploration is None else float(config.exploration)


def route_probabilities(
    config: SonaConfig, scores: ArrayLike, learned: int, deviations: ArrayLike | None = None
) -> NDArray[np.float64]:
    """The probability with which each route would be chosen.

    Parameters
    ----------
    config : SonaConfig
        Its policy and exploration.
    scores : array_like of float32, shape (routes,)
        Expected rewards, at most 1,024.
    learned : int
        Outcomes learned so far.
    deviations : array_like of float32, shape (routes,), optional
        Standard deviations of the scores, not negative; 0.1 each if not given.

    Returns
    -------
    numpy.ndarray of float64, shape (routes,)
        Positive, with sum 1.

    Raises
    ------
    NonFiniteError, OutOfRangeError, ShapeError

    References
    ----------
    Foster & Rakhlin (2020), Beyond UCB, arXiv:2002.04926 (``squarecb``).  Thompson (1933).
    Bian & Jun (2022), Maillard Sampling, arXiv:2111.03290.

    Examples
    --------
    >>> config = SonaConfig(policy="epsilon_greedy", exploration=0.5)
    >>> route_probabilities(config, [0.1, 0.9], learned=10)
    array([0.25, 0.75])
    """
    if learned < 0:
        raise OutOfRangeError(f"learned is {learned}, expected a number of outcomes, 0 or more")
    if np.size(scores) > LARGEST_ROUTES:
        raise ShapeError(f"{np.size(scores)} scores were given, expected at most {LARGEST_ROUTES}")
    if deviations is None:
        deviations = np.full(np.shape(scores), 0.1, np.float32)
    for name, values in (("scores", scores), ("deviations", deviations)):
        if not np.all(np.isfinite(np.asarray(values, np.float64))):
            raise NonFiniteError(f"{name} is {values!r}, expected finite numbers")
    if np.any(np.asarray(deviations) < 0.0):
        raise OutOfRangeError(f"deviations is {deviations!r}, expected numbers from 0")
    return np.array(
        _core.policy_probabilities(
            config.policy, scores, deviations, learned, policy_strength(config)
        )
    )
