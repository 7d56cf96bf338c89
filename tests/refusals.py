"""That something is refused, in the right words, and changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import sona_shm as sona

DIM = 4
X = np.ones(DIM, np.float32)


def trajectory(
    embedding: Any = X,
    activations: Any = X,
    attention: Any = (),
    reward: Any = 0.5,
    quality: Any = 0.7,
) -> sona.QueryTrajectory:
    """A trajectory of one step, good but for what the caller spoils."""
    made = sona.QueryTrajectory(1, embedding)
    made.add_step(sona.TrajectoryStep(activations, attention, reward))
    return made.finalize(quality)


def state_of(engine: sona.Engine) -> tuple[object, ...]:
    """All that a refused call must leave alone."""
    stats = engine.stats()
    counts = (stats.recorded, stats.dropped, stats.decisions, stats.version)
    return (*counts, engine.instant.metrics, engine.instant.pending_count(), engine._snapshot())


@contextmanager
def raises_exactly(error: type[Exception], builtin: type[Exception], *named: str) -> Iterator[None]:
    """The block raises `error`, a `builtin` too, and the message names all of `named`."""
    with pytest.raises(builtin) as caught:
        yield
    assert caught.type is error
    assert issubclass(error, sona.SonaError)
    missing = [part for part in named if part not in str(caught.value)]
    assert not missing, f"{missing} not in {str(caught.value)!r}"


@contextmanager
def refused(
    engine: sona.Engine, error: type[Exception], builtin: type[Exception], *named: str
) -> Iterator[None]:
    """As `raises_exactly`, and nothing in the engine changes."""
    before = state_of(engine)
    with raises_exactly(error, builtin, *named):
        yield
    assert state_of(engine) == before
