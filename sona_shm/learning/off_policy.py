"""What a policy would have earned, from what another one logged."""

from __future__ import annotations

import dataclasses
import math
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sona_shm.errors import NonFiniteError, OutOfRangeError, ShapeError

#: Of the normal distribution: 95 % lie within so many standard errors.
_QUANTILE: Final = 1.959963984540054


@dataclasses.dataclass(frozen=True, slots=True)
class Estimate:
    """An estimated mean reward with its uncertainty.

    Attributes
    ----------
    value : float
    standard_error : float

    Examples
    --------
    >>> low, high = Estimate(0.5, 0.1).interval
    >>> round(low, 3), round(high, 3)
    (0.304, 0.696)
    """

    value: float
    standard_error: float

    @property
    def interval(self) -> tuple[float, float]:
        """Ends of the 95 % confidence interval, by the normal approximation.

        Examples
        --------
        >>> Estimate(1.0, 0.0).interval
        (1.0, 1.0)
        """
        half = _QUANTILE * self.standard_error
        return self.value - half, self.value + half


def _columns(**columns: ArrayLike) -> list[NDArray[np.float64]]:
    """Arrays of one dimension and the same length, finite, with at least two rows."""
    arrays = {name: np.asarray(values, np.float64) for name, values in columns.items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    lengths = set(shapes.values())
    if len(lengths) != 1 or len(next(iter(lengths))) != 1 or next(iter(lengths))[0] < 2:
        raise ShapeError(f"the columns have shapes {shapes}, expected one shape (n,), n from 2")
    for name, array in arrays.items():
        if not np.all(np.isfinite(array)):
            raise NonFiniteError(f"{name} holds NaN or infinity, expected finite numbers")
    return list(arrays.values())


def importance_weights(propensity: ArrayLike, target_probability: ArrayLike) -> NDArray[np.float64]:
    """How much more likely the target would have made each logged choice.

    Parameters
    ----------
    propensity : array_like, shape (n,)
        Probability with which the logging policy chose what it chose, in (0, 1].
    target_probability : array_like, shape (n,)
        Probability with which the target would have, in [0, 1].

    Raises
    ------
    OutOfRangeError, ShapeError, NonFiniteError

    Examples
    --------
    >>> importance_weights([0.5, 0.25], [1.0, 0.0])
    array([2., 0.])
    """
    logged, target = _columns(propensity=propensity, target_probability=target_probability)
    # A propensity that was stored as float32 may be a little above 1.
    if not np.all((logged > 0.0) & (logged <= 1.0 + 1e-6)):
        raise OutOfRangeError("a propensity lies outside (0, 1]; the log cannot be evaluated")
    if not np.all((target >= 0.0) & (target <= 1.0 + 1e-6)):
        raise OutOfRangeError("a target probability lies outside [0, 1]")
    return target / logged


def effective_sample_size(weights: ArrayLike) -> float:
    """How many equally weighted rows tell as much (Kish 1965).

    Examples
    --------
    >>> effective_sample_size([1.0, 1.0, 0.0, 0.0])
    2.0
    """
    (array,) = _columns(weights=weights)
    square = float(np.square(array).sum())
    return float(array.sum()) ** 2 / square if square > 0.0 else 0.0


def _mean(values: NDArray[np.float64]) -> Estimate:
    return Estimate(float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values)))


def inverse_propensity(weights: ArrayLike, reward: ArrayLike) -> Estimate:
    """Mean of weighted rewards: unbiased, of large variance where weights are large.

    Parameters
    ----------
    weights : array_like, shape (n,)
        From `importance_weights`.
    reward : array_like, shape (n,)

    References
    ----------
    Horvitz & Thompson (1952), A Generalization of Sampling Without Replacement.

    Examples
    --------
    >>> inverse_propensity([2.0, 0.0], [1.0, 1.0]).value
    1.0
    """
    w, r = _columns(weights=weights, reward=reward)
    return _mean(w * r)


def self_normalised(weights: ArrayLike, reward: ArrayLike) -> Estimate:
    """Weighted mean of rewards: slightly biased, bounded; its error by the delta method.

    Raises
    ------
    OutOfRangeError
        If all weights are zero: the target would never have done what was logged.

    References
    ----------
    Swaminathan & Joachims (2015), The Self-Normalized Estimator for Counterfactual Learning.

    Examples
    --------
    >>> self_normalised([3.0, 1.0], [1.0, 0.0]).value
    0.75
    """
    w, r = _columns(weights=weights, reward=reward)
    total = float(w.mean())
    if total <= 0.0:
        raise OutOfRangeError("all weights are 0: the target never does what was logged")
    value = float((w * r).mean()) / total
    return Estimate(value, _mean(w * (r - value) / total).standard_error)


def doubly_robust(
    weights: ArrayLike, reward: ArrayLike, predicted: ArrayLike, expected: ArrayLike
) -> Estimate:
    """Expected prediction, corrected by the weighted error of the prediction of what was logged.

    Unbiased whatever the predictions are, as long as they do not depend on the row's own reward;
    the better they are, the smaller the variance.

    Parameters
    ----------
    weights, reward : array_like, shape (n,)
    predicted : array_like, shape (n,)
        Predicted reward of the logged choice.
    expected : array_like, shape (n,)
        Predicted reward of the target: its probabilities times the predictions of all choices.

    References
    ----------
    Dudík, Langford & Li (2011), Doubly Robust Policy Evaluation and Learning, arXiv:1103.4601.

    Examples
    --------
    >>> doubly_robust([2.0, 0.0], [1.0, 0.0], [0.9, 0.2], [0.9, 0.9]).value
    1.0
    """
    w, r, q, v = _columns(weights=weights, reward=reward, predicted=predicted, expected=expected)
    return _mean(v + w * (r - q))
