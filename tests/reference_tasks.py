"""What the compiled core must make of tasks that come and go, in double-precision numpy.

Written from the formulas of docs/architecture.md, beside `reference_model`.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tests.reference_model import Estimate, ReferenceModel, RouteModel

Doubles = NDArray[np.float64]

HORIZON, SHARE, ALARM = 2000.0, 1.0 / 16.0, 5.0
WARM_UP, LEAST_STAY = 64, 32
LEAST_GATHERED, MOST_GATHERED, NEW = 8, 48, 6.0
EVIDENCE, VARIANCE_HORIZON, LEAST_VARIANCE = 15.0, 200.0, 0.1
LAG, TRANSFER = 64, 0.01
STATE = ("quality", "error", "variance", "bias")


@dataclasses.dataclass
class Memory:
    """A task that was left."""

    centroid: Doubles
    outcomes: int
    mixture: list[Any]
    rows: list[dict[str, Any]]
    heads: list[Doubles]
    information: list[Doubles]


class ReferenceTasks:
    """Watches the embeddings of a reference model's outcomes and moves its state.

    Parameters
    ----------
    model : ReferenceModel
    most : int
        Tasks remembered.
    strength : float
        Of what other tasks need.
    """

    def __init__(self, model: ReferenceModel, most: int, strength: float) -> None:
        self.model, self.most, self.strength = model, most, strength
        self.memories: dict[int, Memory | None] = {}
        self.current, self.stay, self.seen, self.outcomes = 0, 0, 0, 0
        self.spread = self.product = 0.0
        self.centroid = self.recent = self.previous = np.zeros_like(model.mean)
        self.gathered, self.gathering = 0, np.zeros_like(model.mean)
        self.lags: list[tuple[list[Any], list[dict[str, Any]]]] = []
        self.evidence: dict[int, tuple[float, float]] = {}
        self.begun: list[tuple[int, Doubles]] = []
        self.anchors: list[tuple[Doubles, Doubles, float]] = []
        self.errors = [(0.0, 0.0), (0.0, 0.0)]  # of anchors and of heads

    # ---- state ----

    def _state(self) -> tuple[list[Any], list[dict[str, Any]]]:
        m = self.model
        mixture = [m.gram.copy(), m.moment.copy(), m.weight.copy()]
        return mixture, [{f: getattr(r, f) for f in STATE} for r in m.routes]

    def _leave(self) -> None:
        mixture, rows = copy.deepcopy(self.lags[0] if self.lags else self._state())
        old = self.memories.get(self.current)
        information = []
        for i, (route, (_, squared)) in enumerate(zip(self.model.routes, self.begun, strict=True)):
            gained = np.maximum(route.squared - squared, 0.0)
            information.append(gained + (old.information[i] if old else 0.0))
        heads = [route.head.copy() for route in self.model.routes]
        self.memories[self.current] = Memory(
            self.centroid.copy(), self.outcomes, mixture, rows, heads, information
        )

    def _enter(self, task: int, outcomes: int, centroid: Doubles) -> None:
        self.current, self.outcomes = task, outcomes
        self.stay = self.gathered = 0
        self.lags = []
        self.centroid, self.recent = centroid.copy(), centroid.copy()
        usual = self.product / (self.spread + 1e-9)
        self.evidence = dict.fromkeys(range(8), (0.0, usual))
        self.begun = [(r.outcomes, r.squared.copy()) for r in self.model.routes]
        self.errors = [(0.0, 0.0), (0.0, 0.0)]
        self.anchors = [self._anchor(i) for i in range(len(self.model.routes))]

    def _anchor(self, route: int) -> tuple[Doubles, Doubles, float]:
        head = np.zeros_like(self.model.mean)
        information = np.zeros_like(head)
        for task in sorted(self.memories):
            memory = self.memories[task]
            if task == self.current or memory is None:
                continue
            added = memory.information[route]
            total = information + added
            moved = np.divide(added, total, out=np.zeros_like(total), where=total > 0)
            head = head + moved * (memory.heads[route] - head)
            information = total
        return head, information, float(information.sum())

    def _return_to(self, task: int) -> None:
        self._leave()
        memory, left = self.memories[task], self.memories[self.current]
        assert memory is not None
        assert left is not None
        m = self.model
        m.gram, m.moment, m.weight = (part.copy() for part in memory.mixture)
        for i, (route, row) in enumerate(zip(m.routes, memory.rows, strict=True)):
            for field, value in row.items():
                setattr(route, field, value)
            own = memory.information[i] / TRANSFER
            total = own + left.information[i]
            share = np.divide(own, total, out=np.zeros_like(total), where=total > 0)
            route.head = route.head + share * (memory.heads[i] - route.head)
        self._enter(task, memory.outcomes, memory.centroid)

    def _begin(self) -> None:
        self._leave()
        assert len(self.memories) < self.most, "merging is tested elsewhere"
        self.memories[len(self.memories)] = None
        self._enter(len(self.memories) - 1, self.gathered, self.gathering)

    # ---- detection ----

    def _surprise(self, mean: Doubles, share: float) -> float:
        off = float(np.square(mean - self.centroid).sum())
        return (off - share * self.spread) / (share * math.sqrt(2.0 * self.product) + 1e-9)

    def _recognised(self, x: Doubles) -> int | None:
        least = LEAST_VARIANCE * self.product / (self.spread + 1e-9)
        found, strongest = None, EVIDENCE
        for task, memory in self.memories.items():
            if task == self.current or memory is None:
                continue
            line = memory.centroid - self.centroid
            squared, along = float(line @ line), float((x - self.centroid) @ line)
            evidence, variance = self.evidence[task]
            variance += (along**2 / squared - variance) / VARIANCE_HORIZON
            used = max(variance, least) + 1e-9
            evidence = max(0.0, evidence + (along - 0.5 * squared) / used)
            self.evidence[task] = evidence, variance
            if evidence > strongest:
                found, strongest = task, evidence
        return found

    def observe(self, x: Doubles) -> None:
        """The embedding of an outcome that is about to be learned."""
        self.seen += 1
        if self.seen == 1:
            self.memories[0], self.previous = None, x
            self._enter(0, 1, x)
            return
        centred = x - self.centroid
        share = 1.0 / min(self.seen, HORIZON)
        self.spread += share * (float(centred @ centred) - self.spread)
        product = float(centred @ (self.previous - self.centroid))
        self.product += share * (product**2 - self.product)
        self.previous = x
        self.stay += 1
        task = self._recognised(x)
        if task is not None:
            self._return_to(task)
            return
        self.recent = self.recent + SHARE * (x - self.recent)
        if self.gathered:
            self._gather(x)
        else:
            self._watch(x)

    def _gather(self, x: Doubles) -> None:
        self.gathered += 1
        self.gathering = self.gathering + (x - self.gathering) / self.gathered
        surprising = self._surprise(self.gathering, 1.0 / self.gathered) > NEW
        if self.gathered >= LEAST_GATHERED and surprising:
            self._begin()
        elif self.gathered >= MOST_GATHERED:
            self.gathered, self.recent = 0, self.centroid.copy()

    def _watch(self, x: Doubles) -> None:
        self.outcomes += 1
        weight = min(self.outcomes, HORIZON)
        self.centroid = self.centroid + (x - self.centroid) / weight
        if self.stay % LAG == 0:
            self.lags = [*self.lags, copy.deepcopy(self._state())][-2:]
        if self.seen < WARM_UP or self.stay < LEAST_STAY:
            return
        share = SHARE / (2.0 - SHARE) + 1.0 / weight
        if self._surprise(self.recent, share) > ALARM:
            self.gathered, self.gathering = 1, x

    # ---- penalty ----

    def pull(self, k: int, route: RouteModel, scaled: Doubles, quality: float, e: Estimate) -> None:
        """Before the head of route k learns; `scaled` is what it sees."""
        head, information, total = self.anchors[k]
        if self.strength <= 0.0 or total <= 0.0:
            return
        anchored = min(1.0, max(-1.0, float(head @ scaled) + route.bias))
        for i, error in enumerate((quality - anchored, quality - e.linear)):
            old, weight = self.errors[i]
            self.errors[i] = 0.99 * old + error**2, 0.99 * weight + 1.0
        ratio = (self.errors[1][0] + 1.0) / (self.errors[0][0] + 1.0)
        trust = ratio**2 if ratio < 1.0 else 1.0
        own = route.outcomes - self.begun[k][0]
        pull = 0.12 * self.strength * trust / (own + 1.0) * information
        pull = pull / np.sqrt(route.squared + 3e-4)
        route.head = route.head + pull / (1.0 + pull) * (head - route.head)
