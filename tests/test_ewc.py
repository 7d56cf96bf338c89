"""What other tasks need of a head: its penalty, and refits that do not forget it."""

from __future__ import annotations

import numpy as np
import pytest

from sona_shm.errors import ShapeError
from sona_shm.learning.ewc import Anchor
from sona_shm.learning.heads import HeldTo, RouteOutcomes, refit_head

DIM = 12


def anchor_of(rng: np.random.Generator, n: int = DIM) -> Anchor:
    return Anchor(rng.standard_normal(n).astype("f4"), rng.random(n).astype("f4"))


@pytest.mark.parametrize(("weights", "information"), [(3, 4), (0, 1), ((2, 2), (2, 2))])
def test_lengths_that_do_not_match_raise(
    weights: int | tuple[int, int], information: int | tuple[int, int]
) -> None:
    with pytest.raises(ShapeError, match="expected \\(hidden_dim,\\) of both"):
        Anchor(np.zeros(weights, "f4"), np.zeros(information, "f4"))


@pytest.mark.parametrize("length", [0, DIM - 1, DIM + 1])
def test_a_head_or_a_fit_of_another_length_raises_and_changes_nothing(
    rng: np.random.Generator, length: int
) -> None:
    anchor = anchor_of(rng)
    with pytest.raises(ShapeError, match=rf"\({length},\), expected \({DIM},\)"):
        anchor.penalty(np.zeros(length))
    gram, moment = np.ones((length, length)), np.ones(length)
    with pytest.raises(ShapeError):
        anchor.add_to(gram, moment, 1.0)
    gram, moment = np.ones((length, length)), np.ones(DIM)
    with pytest.raises(ShapeError, match="gram has shape"):
        anchor.add_to(gram, moment, 1.0)
    assert (gram == 1.0).all()
    assert (moment == 1.0).all()


def test_the_normal_equations_are_those_of_the_penalty(rng: np.random.Generator) -> None:
    anchor, x = anchor_of(rng), rng.standard_normal((50, DIM))
    target = x @ rng.standard_normal(DIM)
    gram, moment = x.T @ x, x.T @ target
    anchor.add_to(gram, moment, strength=3.0)
    head = np.linalg.solve(gram, moment)

    def loss(w: np.ndarray) -> float:
        return 0.5 * float(np.square(x @ w - target).sum()) + 3.0 * anchor.penalty(w)

    for step in 1e-3 * rng.standard_normal((20, DIM)):
        assert loss(head + step) > loss(head)


def outcomes_of_second_half(
    rng: np.random.Generator, rows: int
) -> tuple[RouteOutcomes, np.ndarray]:
    """A task of the second half of the dimensions, predicted by a head that knows nothing."""
    x = np.zeros((rows, DIM), np.float32)
    x[:, DIM // 2 :] = rng.standard_normal((rows, DIM - DIM // 2))
    needed = np.full(DIM, 0.1)
    quality = 0.5 + x @ needed + 0.05 * rng.standard_normal(rows)
    return RouteOutcomes(x, quality, np.full(rows, 0.5), np.ones(rows)), needed


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_a_refit_keeps_what_other_tasks_need(rng: np.random.Generator, strength: float) -> None:
    outcomes, needed = outcomes_of_second_half(rng, 400)
    information = np.where(np.arange(DIM) < DIM // 2, 30.0, 0.0).astype("f4")
    held_to = HeldTo(Anchor(needed.astype("f4"), information), strength)
    live = np.where(np.arange(DIM) < DIM // 2, 0.1, 0.0).astype("f4")
    refit = refit_head(outcomes, live, 0.5, held_to)
    assert refit is not None
    assert refit.change is not None
    head = live + refit.change
    np.testing.assert_allclose(head[DIM // 2 :], 0.1, atol=0.03)
    if strength:
        np.testing.assert_allclose(head[: DIM // 2], 0.1, atol=0.03)
    else:
        np.testing.assert_allclose(head[: DIM // 2], 0.0, atol=0.03)
