"""Heads of routes refitted from the reservoir, where that predicts better."""

from __future__ import annotations

import dataclasses
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sona_shm.learning.ewc import Anchor
from sona_shm.learning.held_out import MARGIN, inverse_propensity, mean_and_error

Doubles = NDArray[np.float64]

#: Rows of a route below which its head is left alone.
FEWEST_ROWS: Final = 60
#: Share of the rows that is held out, and of the others that shrinkage is chosen on.
_HELD_OUT: Final = 0.2
_SHRINKAGES: Final = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
# Outcomes that are predicted exactly tell nothing of the noise.
_LEAST_NOISE: Final = 1e-3


@dataclasses.dataclass(frozen=True, eq=False)
class RouteOutcomes:
    """Outcomes of one route, oldest first.

    Attributes
    ----------
    x : numpy.ndarray of float32, shape (n, hidden_dim)
        What the head sees: adapted, centred, scaled embeddings.
    quality : numpy.ndarray of float64, shape (n,)
    predicted : numpy.ndarray of float64, shape (n,)
        By the live head, each before it learned the outcome.
    propensity : numpy.ndarray of float64, shape (n,)
        With which the route was chosen, above 0.
    """

    x: NDArray[np.float32]
    quality: Doubles
    predicted: Doubles
    propensity: Doubles

    def part(self, begin: int, end: int) -> RouteOutcomes:
        """Rows from begin to end."""
        rows = slice(begin, end)
        return RouteOutcomes(
            self.x[rows], self.quality[rows], self.predicted[rows], self.propensity[rows]
        )

    @property
    def weight(self) -> Doubles:
        """Makes of requests that chose this route a sample of all requests; mean 1."""
        return inverse_propensity(self.propensity)


@dataclasses.dataclass(frozen=True, eq=False)
class HeldTo:
    """What a refit must not forget.

    Attributes
    ----------
    anchor : Anchor
    strength : float
        ``ewc_lambda`` of the configuration.
    """

    anchor: Anchor
    strength: float


@dataclasses.dataclass(frozen=True, eq=False)
class HeadRefit:
    """What came of refitting one head.

    Attributes
    ----------
    rows : int
        Outcomes of the route.
    improvement : float
        By how much the mean squared error on held-out outcomes is smaller; negative where the
        live head is better.
    change : numpy.ndarray of float32, shape (hidden_dim,), or None
        What to add to the live head; None: it stays.
    """

    rows: int
    improvement: float
    change: NDArray[np.float32] | None


def refit_head(
    outcomes: RouteOutcomes,
    live: NDArray[np.float32],
    bias: float,
    held_to: HeldTo | None = None,
) -> HeadRefit | None:
    """Fit a head by ridge regression, and say whether to replace the live one.

    The last fifth of the rows is held out: the refitted head, made of the others, is compared with
    what the live head predicted for each of them before it learned it (progressive validation), so
    neither has seen what it is judged by.  The live head could go on learning meanwhile, so where
    the two are alike it stays.  Shrinkage is chosen on the last fifth of the rows that are not
    held out.  A head that is better by more than two standard errors of the paired difference of
    squared errors is fitted once more, to all rows, and replaces the live one.

    A route is chosen where it is thought to be good, but its head is asked about every request: so
    outcomes count inversely to the probability with which the route was chosen, in the fit and in
    the comparison.  Without that, heads were replaced by such that knew only their own successes.

    Parameters
    ----------
    outcomes : RouteOutcomes
    live : numpy.ndarray of float32, shape (hidden_dim,)
        The head as it is.
    bias : float
        Of the route, which stays.
    held_to : HeldTo, optional
        What other tasks need of the head: counts like outcomes of theirs, which the reservoir may
        not hold any more.

    Returns
    -------
    HeadRefit or None
        None for too few rows.

    Examples
    --------
    >>> x = np.eye(4, dtype=np.float32)[np.arange(400) % 4]
    >>> outcomes = RouteOutcomes(x, 0.1 + 0.2 * (np.arange(400) % 4), np.zeros(400), np.ones(400))
    >>> refit_head(outcomes, np.zeros(4, np.float32), 0.4).change.round(1)
    array([-0.3, -0.1,  0.1,  0.3], dtype=float32)

    References
    ----------
    Hoerl & Kennard (1970), Ridge Regression; Blum, Kalai & Langford (1999), Beating the Hold-Out:
    Bounds for K-fold and Progressive Cross-Validation; Shimodaira (2000), Improving Predictive
    Inference under Covariate Shift by Weighting the Log-Likelihood Function; Kirkpatrick et al.
    (2017), Overcoming Catastrophic Forgetting in Neural Networks.
    """
    n = len(outcomes.quality)
    if n < FEWEST_ROWS:
        return None
    held = n - int(_HELD_OUT * n)
    chosen = held - int(_HELD_OUT * held)
    fit, test = _Ridge(outcomes.part(0, chosen), held_to), outcomes.part(chosen, held)
    errors = [mean_and_error(fit.squared_error(s, test), test.weight)[0] for s in _SHRINKAGES]
    shrinkage = _SHRINKAGES[int(np.argmin(errors))]

    test = outcomes.part(held, n)
    refitted = _Ridge(outcomes.part(0, held), held_to).squared_error(shrinkage, test)
    gain = np.square(test.quality - test.predicted) - refitted
    improvement, error = mean_and_error(gain, test.weight)
    if improvement <= MARGIN * error:
        return HeadRefit(n, improvement, None)
    change = _Ridge(outcomes, held_to, bias).head(shrinkage) - live
    return HeadRefit(n, improvement, change.astype(np.float32))


class _Ridge:
    """Ridge regression for any shrinkage, from one decomposition of the smaller Gram matrix."""

    def __init__(
        self, outcomes: RouteOutcomes, held_to: HeldTo | None, bias: float | None = None
    ) -> None:
        rows = outcomes.x.astype(np.float64)
        mean, _ = mean_and_error(outcomes.quality, outcomes.weight)
        self._bias = mean if bias is None else bias
        root = np.sqrt(outcomes.weight)
        target = root * (outcomes.quality - self._bias)
        rows *= root[:, None]
        n, d = rows.shape
        if d <= n or held_to is not None:
            gram, moment = rows.T @ rows, rows.T @ target
            if held_to is not None:
                # Squared gradients are squared inputs times squared errors.
                errors = np.square(outcomes.quality - outcomes.predicted)
                noise = max(mean_and_error(errors, outcomes.weight)[0], _LEAST_NOISE)
                held_to.anchor.add_to(gram, moment, held_to.strength / noise)
            self._values, self._basis = np.linalg.eigh(gram)
            self._weights = self._basis.T @ moment
        else:
            self._values, vectors = np.linalg.eigh(rows @ rows.T)
            self._basis = rows.T @ vectors
            self._weights = vectors.T @ target

    def head(self, shrinkage: float) -> Doubles:
        """Weights that minimise the squared error plus `shrinkage` times their squared length."""
        values = np.maximum(self._values, 0.0)
        head: Doubles = self._basis @ (self._weights / (values + shrinkage))
        return head

    def squared_error(self, shrinkage: float, test: RouteOutcomes) -> Doubles:
        """On other outcomes, with predictions limited as the engine limits them."""
        predicted = np.clip(test.x @ self.head(shrinkage) + self._bias, -1.0, 1.0)
        errors: Doubles = np.square(test.quality - predicted)
        return errors
