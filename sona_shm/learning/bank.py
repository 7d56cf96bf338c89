"""What a bank over other patterns would have predicted."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from sona_shm import _core
from sona_shm.learning.held_out import inverse_propensity, mean_and_error
from sona_shm.learning.reservoir import Outcomes

_HELD_OUT: Final = 0.2


def bank_gain(
    outcomes: Outcomes, pattern: NDArray[np.int64], forgetting: float
) -> tuple[float, float]:
    """By how much a bank over new patterns predicts better than the live one did.

    The new bank goes through the outcomes as the live one does: it predicts each, then learns it.
    Both are compared on the last fifth, where the new one has learned all that the reservoir
    holds, and the live one what came before that, too.

    Parameters
    ----------
    outcomes : Outcomes
    pattern : numpy.ndarray of int64, shape (n,)
        The new pattern that each embedding is nearest to.
    forgetting : float
        `SonaConfig.forgetting`.

    Returns
    -------
    tuple of float
        Mean difference of squared errors, positive where the new one is better, and its standard
        error; outcomes count inversely to their propensity.

    Examples
    --------
    >>> half = np.full(100, 0.5)
    >>> sides = np.arange(100) % 2
    >>> outcomes = Outcomes(np.zeros((100, 1), np.float32), 0 * sides, 1.0 * sides, half, half,
    ...                     half, 2 * half)
    >>> bank_gain(outcomes, sides, forgetting=0.0)[0] > 0.2
    True
    """
    begin = len(outcomes) - int(_HELD_OUT * len(outcomes))
    prior, keep = _core.BANK_PRIOR, 1.0 - forgetting * _core.BANK_DECAY
    cell = np.unique(outcomes.route * (int(pattern.max()) + 1) + pattern, return_inverse=True)[1]
    weight, total = np.zeros(int(cell.max()) + 1), np.zeros(int(cell.max()) + 1)
    predicted = np.empty(len(outcomes))
    for i, (j, base, quality) in enumerate(
        zip(cell.tolist(), outcomes.base.tolist(), outcomes.quality.tolist(), strict=True)
    ):
        predicted[i] = (total[j] + prior * base) / (weight[j] + prior)
        weight[j] = keep * weight[j] + 1.0
        total[j] = keep * total[j] + quality
    live = np.square(outcomes.quality - outcomes.bank)
    gain = (live - np.square(outcomes.quality - predicted))[begin:]
    return mean_and_error(gain, inverse_propensity(outcomes.propensity[begin:]))
