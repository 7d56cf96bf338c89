"""What the compiled core must compute, in plain double-precision numpy, written from the formulas.

docs/architecture.md gives them; nothing here is shared with the C code but the constants.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from tests.reference_tasks import ReferenceTasks

Doubles = NDArray[np.float64]

FEATURES = 32
LEAST_QUALITY = -1.0
ROUTE_DECAY, RIDGE_DECAY, BANK_DECAY = 2e-4, 0.002, 0.01
MIXTURE_DECAY, ERROR_DECAY, VARIANCE_DECAY = 1e-3, 0.02, 0.01
HEAD_RATE, HEAD_EPSILON = 0.12, 3e-4


def clip(value: float) -> float:
    return min(1.0, max(LEAST_QUALITY, value))


@dataclasses.dataclass
class RouteModel:
    """One route."""

    head: Doubles
    squared: Doubles
    ridge: Doubles
    covariance: Doubles
    seen: Doubles  # (patterns, 2): weight and sum
    price: float = 0.0
    bias: float = 0.0
    outcomes: int = 0
    quality: tuple[float, float] = (0.0, 0.0)  # sum, weight
    error: tuple[float, float] = (0.0, 0.0)
    variance: tuple[float, float] = (0.0, 0.0)


@dataclasses.dataclass
class Estimate:
    """What is thought of one route and one embedding."""

    base: float
    linear: float
    deviations: Doubles
    value: float
    deviation: float


class ReferenceModel:
    """Predicts and learns like an engine whose MicroLoRA does not move."""

    def __init__(
        self, dim: int, prices: list[float], forgetting: float, tasks: int = 8, ewc: float = 1.0
    ) -> None:
        self.forgetting = forgetting
        self.mean, self.spread, self.seen = np.zeros(dim), 0.0, 0
        self.common, self.outcomes = 0.5, 0
        self.gram, self.moment = np.zeros((3, 3)), np.zeros(3)
        self.weight = np.full(3, 1.0 / 3.0)
        self.projection: Doubles | None = None
        self.offset, self.centroids = np.zeros(0), np.zeros((0, 0))
        self.routes = [self._route(dim, price) for price in prices]
        self.tasks = ReferenceTasks(self, tasks, ewc)

    def _route(self, dim: int, price: float) -> RouteModel:
        return RouteModel(
            head=np.zeros(dim),
            squared=np.zeros(dim),
            ridge=np.zeros(FEATURES),
            covariance=np.eye(FEATURES) / 8.0,
            seen=np.zeros((0, 2)),
            price=price,
        )

    def install(self, projection: Doubles, offset: Doubles, centroids: Doubles) -> None:
        """New patterns: ridges and banks begin anew."""
        self.projection, self.offset, self.centroids = projection, offset, centroids
        for route in self.routes:
            route.ridge, route.covariance = np.zeros(FEATURES), np.eye(FEATURES) / 8.0
            route.seen = np.zeros((len(centroids), 2))

    # ---- predicting ----

    def _project(self, x: Doubles) -> tuple[Doubles, int]:
        assert self.projection is not None
        z = self.projection @ x - self.offset
        nearest = int(np.square(self.centroids - z).sum(axis=1).argmin())
        return np.append(z, 0.3), nearest

    def _scaled(self, x: Doubles) -> Doubles:
        return (x - self.mean) / math.sqrt(max(self.spread, 1e-6))

    def estimate(self, x: Doubles, k: int) -> Estimate:
        route = self.routes[k]
        total, weight = route.quality
        base = (total + 2.0 * self.common) / (weight + 2.0)
        bias = route.bias if route.outcomes else self.common
        linear = clip(float(route.head @ self._scaled(x)) + bias)
        deviations = np.array([linear - base, 0.0, 0.0])
        if self.projection is not None:
            z, j = self._project(x)
            seen, summed = route.seen[j]
            deviations[1] = clip(self.common + float(route.ridge @ z)) - base
            deviations[2] = (summed + 6.0 * base) / (seen + 6.0) - base
        correction = route.error[0] / (route.error[1] + 30.0)
        value = clip(base + correction + float(self.weight @ deviations))
        variance = (route.variance[0] + 0.6) / (route.variance[1] + 6.0) + 0.003
        return Estimate(base, linear, deviations, value, math.sqrt(variance / (weight + 1.0)))

    # ---- learning ----

    def relearn(self, x: Doubles, k: int, quality: float, baseline: float) -> None:
        """Ridge and bank alone."""
        route = self.routes[k]
        z, j = self._project(x)
        grown = route.covariance / (1.0 - self.forgetting * RIDGE_DECAY)
        gain = grown @ z / (1.0 + z @ grown @ z)
        route.ridge = route.ridge + gain * (quality - baseline - route.ridge @ z)
        covariance = grown - np.outer(gain, z @ grown)
        shrink = np.sqrt(np.minimum(1.0, 0.125 / np.diag(covariance)))
        route.covariance = covariance * np.outer(shrink, shrink)
        route.seen[j] = route.seen[j] * (1.0 - self.forgetting * BANK_DECAY) + (1.0, quality)

    def _mix(self, e: Estimate, quality: float) -> None:
        keep = 1.0 - self.forgetting * MIXTURE_DECAY
        self.gram = keep * self.gram + np.outer(e.deviations, e.deviations)
        self.moment = keep * self.moment + e.deviations * (quality - e.base)
        solved = np.linalg.solve(self.gram + 0.6 * np.eye(3), self.moment + 0.2)
        self.weight = np.clip(solved, 0.0, 1.5)

    def _linear(self, route: RouteModel, x: Doubles, error: float) -> None:
        gradient = error * self._scaled(x)
        route.squared = route.squared + gradient**2
        route.head = route.head + HEAD_RATE * gradient / np.sqrt(route.squared + HEAD_EPSILON)
        route.bias += error * max(1.0 / (route.outcomes + 3.0), 0.01)

    def learn(self, x: Doubles, k: int, quality: float) -> None:
        """One outcome."""
        self.tasks.observe(x)
        route, e = self.routes[k], self.estimate(x, k)
        correction = route.error[0] / (route.error[1] + 30.0)
        self._mix(e, quality)
        if route.outcomes == 0:
            route.bias = self.common
        self.tasks.pull(k, route, self._scaled(x), quality, e)
        self._linear(route, x, quality - e.linear)
        if self.projection is not None:
            self.relearn(x, k, quality, self.common)
        error = quality - e.value
        route.error = _discounted(route.error, self.forgetting * ERROR_DECAY, error + correction)
        route.variance = _discounted(
            route.variance, self.forgetting * VARIANCE_DECAY, error * error
        )
        for other in self.routes:
            total, weight = other.quality
            keep = 1.0 - self.forgetting * ROUTE_DECAY
            other.quality = (total * keep, weight * keep)
        route.quality = (route.quality[0] + quality, route.quality[1] + 1.0)
        route.outcomes += 1
        self.outcomes += 1
        self.common += (quality - self.common) / self.outcomes
        centred = x - self.mean
        self.seen += 1
        self.spread += (float(centred @ centred) - self.spread) / self.seen
        self.mean = self.mean + centred / self.seen


def _discounted(sums: tuple[float, float], decay: float, value: float) -> tuple[float, float]:
    return (sums[0] * (1.0 - decay) + value, sums[1] * (1.0 - decay) + 1.0)
