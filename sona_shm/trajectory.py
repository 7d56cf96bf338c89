"""What workers record and what one record teaches."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import msgpack
import numpy as np
from numpy.typing import ArrayLike, NDArray

from sona_shm.arrays import as_float32
from sona_shm.errors import ShapeError


class Decision(NamedTuple):
    """One routing decision.

    Attributes
    ----------
    id : int
        What feedback needs to name this decision; below 2**63, from any process, any time.
    route : str
        Name of the chosen route.
    index : int
        Its place in ``SonaConfig.routes``.
    propensity : float
        The exact probability, in (0, 1], with which this route was chosen.

    Examples
    --------
    >>> Decision(id=7, route="small", index=0, propensity=0.75).route
    'small'
    """

    id: int
    route: str
    index: int  # type: ignore[assignment]  # hides tuple.index, which no decision needs
    propensity: float


class Prediction(NamedTuple):
    """What the engine thinks of one request; nothing was decided.

    Attributes
    ----------
    reward : numpy.ndarray of float64, shape (routes,)
        Predicted reward of each route; NaN where it is retired or not allowed.
    deviation : numpy.ndarray of float64, shape (routes,)
        Standard deviation of the prediction; NaN there, too.
    probability : numpy.ndarray of float64, shape (routes,)
        With which `Engine.route` would choose each; 0 there.

    Examples
    --------
    >>> Prediction(np.zeros(2), np.ones(2), np.full(2, 0.5)).probability
    array([0.5, 0.5])
    """

    reward: NDArray[np.float64]
    deviation: NDArray[np.float64]
    probability: NDArray[np.float64]


class TrajectoryStep:
    """One step of a request.

    Parameters
    ----------
    activations : array_like of float32, shape (hidden_dim,)
        What the step computed; kept by reference until recorded.
    attention_weights : array_like of float32, shape (any,)
        May be empty.
    reward : float
        How good the step was; any finite number, usually in [0, 1].
    step_idx : int
        Position of the step in its trajectory.
    layer_name : str, optional
        For people to read.

    Examples
    --------
    >>> TrajectoryStep([0.5, 0.5], [], 0.8, 0).reward
    0.8
    """

    __slots__ = ("activations", "attention_weights", "layer_name", "reward", "step_idx")

    def __init__(
        self,
        activations: ArrayLike,
        attention_weights: ArrayLike = (),
        reward: float = 0.0,
        step_idx: int = 0,
        layer_name: str | None = None,
    ) -> None:
        self.activations = activations
        self.attention_weights = attention_weights
        self.reward = reward
        self.step_idx = step_idx
        self.layer_name = layer_name

    def __repr__(self) -> str:
        return f"TrajectoryStep(reward={self.reward!r}, step_idx={self.step_idx!r})"


class QueryTrajectory:
    """One request: its embedding, the steps taken, and how good the answer was.

    Parameters
    ----------
    id : int
        From ``InstantLoop.next_id()``, or any number from 0 to 2**64 - 1.
    query_embedding : array_like of float32, shape (hidden_dim,)
        Kept by reference until recorded; checked then.

    Attributes
    ----------
    steps : list of TrajectoryStep
    final_quality : float
        In [0, 1]; set by `finalize`.
    latency_us : int
        Microseconds; set by `finalize`.
    model_route : str or None
        Name of the route that answered, if any: then its head learns from this trajectory too.
    context_ids : list of str

    Examples
    --------
    >>> t = QueryTrajectory(1, [0.1, 0.2])
    >>> t.add_step(TrajectoryStep([0.5, 0.5], [], 0.8, 0))
    >>> t.finalize(0.8, latency_us=1000).final_quality
    0.8
    """

    __slots__ = (
        "context_ids",
        "final_quality",
        "id",
        "latency_us",
        "model_route",
        "query_embedding",
        "steps",
    )

    def __init__(self, id: int, query_embedding: ArrayLike) -> None:
        self.id = id
        self.query_embedding = query_embedding
        self.steps: list[TrajectoryStep] = []
        self.final_quality = 0.0
        self.latency_us = 0
        self.model_route: str | None = None
        self.context_ids: list[str] = []

    def add_step(self, step: TrajectoryStep) -> None:
        """Append a step.

        Examples
        --------
        >>> t = QueryTrajectory(1, [0.1]); t.add_step(TrajectoryStep([0.5])); len(t.steps)
        1
        """
        self.steps.append(step)

    def finalize(self, quality: float, latency_us: int = 0) -> QueryTrajectory:
        """Set the outcome and return the trajectory.

        Parameters
        ----------
        quality : float
            In [0, 1]; checked when the trajectory is recorded.
        latency_us : int
            Microseconds.

        Examples
        --------
        >>> QueryTrajectory(1, [0.1]).finalize(0.9).final_quality
        0.9
        """
        self.final_quality = quality
        self.latency_us = latency_us
        return self

    def total_reward(self) -> float:
        """Sum of the rewards of the steps.

        Examples
        --------
        >>> QueryTrajectory(1, [0.1]).total_reward()
        0.0
        """
        return float(sum(step.reward for step in self.steps))

    def __repr__(self) -> str:
        return (
            f"QueryTrajectory(id={self.id!r}, steps={len(self.steps)}, "
            f"final_quality={self.final_quality!r})"
        )


class TrajectoryBuilder:
    """Collects the parts of a trajectory while a request runs, and its latency.

    Parameters
    ----------
    id : int
    query_embedding : array_like of float32, shape (hidden_dim,)

    Examples
    --------
    >>> builder = TrajectoryBuilder(3, [0.1, 0.2])
    >>> builder.add_step([0.5, 0.5], [], 0.8)
    >>> builder.build(quality=0.7).steps[0].step_idx
    0
    """

    def __init__(self, id: int, query_embedding: ArrayLike) -> None:
        self._trajectory = QueryTrajectory(id, query_embedding)
        self._started_ns = time.monotonic_ns()

    def add_step(
        self,
        activations: ArrayLike,
        attention_weights: ArrayLike = (),
        reward: float = 0.0,
        layer_name: str | None = None,
    ) -> None:
        """Append a step; its index is the number of steps before it.

        Examples
        --------
        >>> b = TrajectoryBuilder(1, [0.1]); b.add_step([0.5], [], 0.2, "head"); b.step_count
        1
        """
        steps = self._trajectory.steps
        steps.append(TrajectoryStep(activations, attention_weights, reward, len(steps), layer_name))

    def set_model_route(self, route: str) -> None:
        """Name the route that answered.

        Examples
        --------
        >>> b = TrajectoryBuilder(1, [0.1]); b.set_model_route("small")
        >>> b.build(1.0).model_route
        'small'
        """
        self._trajectory.model_route = route

    def add_context(self, context_id: str) -> None:
        """Note a context that the request used.

        Examples
        --------
        >>> b = TrajectoryBuilder(1, [0.1]); b.add_context("doc-1"); b.build(1.0).context_ids
        ['doc-1']
        """
        self._trajectory.context_ids.append(context_id)

    @property
    def step_count(self) -> int:
        """Number of steps so far.

        Examples
        --------
        >>> TrajectoryBuilder(1, [0.1]).step_count
        0
        """
        return len(self._trajectory.steps)

    @property
    def latency_us(self) -> int:
        """Microseconds since the builder was made.

        Examples
        --------
        >>> TrajectoryBuilder(1, [0.1]).latency_us >= 0
        True
        """
        return (time.monotonic_ns() - self._started_ns) // 1000

    def build(self, quality: float) -> QueryTrajectory:
        """The finished trajectory, with the time since the builder was made as its latency.

        Parameters
        ----------
        quality : float
            In [0, 1].

        Examples
        --------
        >>> TrajectoryBuilder(1, [0.1]).build(0.9).final_quality
        0.9
        """
        return self._trajectory.finalize(quality, self.latency_us)


class LearningSignal(NamedTuple):
    """What one trajectory teaches the MicroLoRA by the exact rule.

    Attributes
    ----------
    query_embedding : numpy.ndarray of float32, shape (hidden_dim,)
    direction : numpy.ndarray of float32, shape (hidden_dim,)
        Where the adapted embedding is moved along; only its direction counts.
    target : float
        In [-1, 1]: how far along the direction the adapter is to move this embedding; negative
        for an outcome below the baseline, which pushes away.

    Examples
    --------
    >>> t = QueryTrajectory(1, [1.0, 0.0]).finalize(0.2)
    >>> LearningSignal.from_trajectory(t, quality_baseline=0.5).target < 0
    True
    """

    query_embedding: NDArray[np.float32]
    direction: NDArray[np.float32]
    target: float

    @classmethod
    def from_trajectory(
        cls,
        trajectory: QueryTrajectory,
        quality_baseline: float = 0.5,
        reward_baseline: float = 0.5,
    ) -> LearningSignal:
        """The signal of a trajectory over population baselines.

        Each step is credited half with its own reward's advantage and half with the final
        quality's; activations count by direction only.  Without steps, the embedding itself is
        the direction and the quality's advantage the target.

        Parameters
        ----------
        trajectory : QueryTrajectory
        quality_baseline, reward_baseline : float
            Running means over earlier trajectories; the learner keeps them in its snapshot.

        Examples
        --------
        >>> t = QueryTrajectory(1, [1.0, 0.0]).finalize(0.9)
        >>> t.add_step(TrajectoryStep([0.0, 2.0], [], 0.7))
        >>> round(LearningSignal.from_trajectory(t).target, 3)
        0.3
        """
        x = as_float32(trajectory.query_embedding, "query_embedding")
        advantage = trajectory.final_quality - quality_baseline
        step_credits = [
            float(np.clip(0.5 * (step.reward - reward_baseline + advantage), -1.0, 1.0))
            for step in trajectory.steps
        ]
        if not step_credits:
            return cls(x, x, float(np.clip(advantage, -1.0, 1.0)))
        activations = [as_float32(step.activations, "activations") for step in trajectory.steps]
        if any(a.shape != x.shape for a in activations):
            raise ShapeError(
                f"activations have shapes {[a.shape for a in activations]}, expected {x.shape}"
            )
        if len(step_credits) == 1:
            return cls(x, activations[0], step_credits[0])
        gradient = np.zeros_like(x)
        for credit, a in zip(step_credits, activations, strict=True):
            norm = float(np.linalg.norm(a))
            if norm > 0.0:
                gradient += np.float32(credit / (norm * len(step_credits))) * a
        return cls(x, gradient, float(np.linalg.norm(gradient)))


def pack_extra(trajectory: QueryTrajectory) -> bytes:
    """The strings of a trajectory as msgpack; called by the C core where there are any."""
    layers = [step.layer_name for step in trajectory.steps]
    packed: bytes = msgpack.packb([trajectory.model_route, list(trajectory.context_ids), layers])
    return packed


def unpack_trajectory(
    decoded: tuple[
        int,
        NDArray[np.float32],
        Sequence[tuple[NDArray[np.float32], NDArray[np.float32], float, int]],
        float,
        int,
        bytes,
    ],
) -> QueryTrajectory:
    """A trajectory from what the C core decoded."""
    trajectory_id, embedding, steps, quality, latency_us, extra = decoded
    trajectory = QueryTrajectory(trajectory_id, embedding).finalize(quality, latency_us)
    for step in steps:
        trajectory.add_step(TrajectoryStep(*step))
    if extra:
        _unpack_extra(trajectory, extra)
    return trajectory


def _unpack_extra(trajectory: QueryTrajectory, extra: bytes) -> None:
    """Set the strings; bytes that a stray write has spoiled leave the trajectory without them."""
    try:
        route, contexts, layers = msgpack.unpackb(extra)
        named = list(zip(trajectory.steps, layers, strict=True))
    except (ValueError, TypeError):
        return
    trajectory.model_route, trajectory.context_ids = route, contexts
    for step, layer in named:
        step.layer_name = layer
