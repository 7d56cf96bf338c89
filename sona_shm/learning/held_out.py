"""Comparing predictions on outcomes that were observed where a policy chose them."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

#: Standard errors of a paired difference by which something new has to be better.  With one, heads
#: were replaced that then routed worse; with none, patterns.
MARGIN: Final = 2.0
#: No outcome counts more than so many others.
_LARGEST_WEIGHT: Final = 20.0


def inverse_propensity(propensity: Doubles) -> Doubles:
    """Weights, of mean 1, that make of chosen requests a sample of all.

    Parameters
    ----------
    propensity : numpy.ndarray of float64, shape (n,), n at least 1
        With which each was chosen, above 0.

    Examples
    --------
    >>> inverse_propensity(np.array([1.0, 0.25, 0.001])).round(2).tolist()
    [0.12, 0.48, 2.4]

    References
    ----------
    Shimodaira (2000), Improving Predictive Inference under Covariate Shift by Weighting the
    Log-Likelihood Function.
    """
    weight = np.minimum(1.0 / propensity, _LARGEST_WEIGHT)
    scaled: Doubles = weight / weight.mean()
    return scaled


def mean_and_error(values: Doubles, weight: Doubles) -> tuple[float, float]:
    """Weighted mean, and its standard error; the weights have mean 1.

    Examples
    --------
    >>> mean_and_error(np.array([0.0, 1.0]), np.ones(2))[0]
    0.5
    """
    mean = float(values @ weight) / len(values)
    deviations = weight * (values - mean)
    return mean, float(np.sqrt(np.square(deviations).sum())) / len(values)
