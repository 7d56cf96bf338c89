"""Preference pairs: for requests like these, this route was clearly better than that one."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sona_shm.export.json_files import Fields, read_lines, write_lines

#: A route counts in a pattern from this discounted number of outcomes.
LEAST_WEIGHT: Final = 5.0
#: The difference of two means must be more than so many of its standard errors.
STANDARD_ERRORS: Final = 2.0
# Two means take two degrees of freedom; in their place goes as much of this variance, which is
# what the engine expects of qualities, so that few outcomes that agree do not look certain.
_PRIOR_VARIANCE: Final = 0.1
_ROUNDING: Final = 1e-9


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class PreferencePair:
    """One route that was clearly better than another for the requests of one pattern.

    Attributes
    ----------
    pattern : int
        Id of the pattern.
    prompt_embedding : numpy.ndarray of float32, shape (hidden_dim,)
        Its centroid.
    chosen, rejected : str
        Names of the better and the worse route.
    chosen_quality, rejected_quality : float
        Their discounted mean qualities there; prices are left out.
    weight : float
        Discounted number of outcomes of that route of the two which has fewer.

    Examples
    --------
    >>> pair = PreferencePair(0, np.ones(2, np.float32), "large", "small", 0.75, 0.5, 20.0)
    >>> pair.margin
    0.25
    """

    pattern: int
    prompt_embedding: NDArray[np.float32]
    chosen: str
    rejected: str
    chosen_quality: float
    rejected_quality: float
    weight: float

    @property
    def margin(self) -> float:
        """By how much the chosen one was better.

        Examples
        --------
        >>> PreferencePair(0, np.ones(2, np.float32), "b", "a", 1.0, 0.5, 9.0).margin
        0.5
        """
        return self.chosen_quality - self.rejected_quality


def preference_pairs(
    routes: Sequence[str], centroids: NDArray[np.float32], cells: NDArray[np.float32]
) -> Iterator[PreferencePair]:
    """The pairs of routes of which one was clearly better, pattern by pattern.

    With weight n, mean m and scatter v (sum of squared deviations) of each of two routes, that is

    ``|m1 - m2| > 2 sqrt((v1 + v2 + 2*0.1) / (n1 + n2) * (1/n1 + 1/n2))``,

    the pooled standard error; both need a weight of at least 5.

    Parameters
    ----------
    routes : sequence of str
    centroids : numpy.ndarray of float32, shape (patterns, hidden_dim)
    cells : numpy.ndarray of float32, shape (routes, patterns, 3)
        Discounted weight, sum and sum of squares of the qualities.

    Examples
    --------
    >>> cells = np.array([[[20.0, 4.0, 1.0]], [[20.0, 16.0, 13.0]]], np.float32)
    >>> pairs = preference_pairs(["small", "large"], np.ones((1, 2), np.float32), cells)
    >>> [(pair.chosen, round(pair.margin, 3)) for pair in pairs]
    [('large', 0.6)]
    """
    for pattern, centroid in enumerate(centroids):
        weight, total, squares = cells[:, pattern].astype(np.float64).T
        seen: list[int] = np.flatnonzero(weight >= LEAST_WEIGHT).tolist()
        mean = total / np.maximum(weight, LEAST_WEIGHT)
        scatter = np.maximum(squares - total * mean, 0.0)
        for pair in combinations(seen, 2):
            error = _standard_error(weight[list(pair)], scatter[list(pair)])
            rejected, chosen = sorted(pair, key=mean.__getitem__)
            if mean[chosen] - mean[rejected] > STANDARD_ERRORS * error:
                yield PreferencePair(
                    pattern=pattern,
                    prompt_embedding=centroid,
                    chosen=routes[chosen],
                    rejected=routes[rejected],
                    chosen_quality=float(mean[chosen]),
                    rejected_quality=float(mean[rejected]),
                    weight=float(weight[list(pair)].min()),
                )


def _standard_error(weight: NDArray[np.float64], scatter: NDArray[np.float64]) -> float:
    """Of the difference of two means."""
    variance = (scatter.sum() + 2 * _PRIOR_VARIANCE) / weight.sum()
    return math.sqrt(variance * (1.0 / weight).sum())


def write_preferences(path: Path, pairs: Iterable[PreferencePair]) -> None:
    """Write preference pairs; see `read_preferences` for the fields.

    Parameters
    ----------
    path : Path
    pairs : iterable of PreferencePair

    Raises
    ------
    NonFiniteError
        If a pair holds NaN or infinity.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "preferences.jsonl")
    >>> write_preferences(path, []); path.read_text()
    ''
    """
    write_lines(path, map(_plain, pairs))


def _plain(pair: PreferencePair) -> dict[str, object]:
    return {
        "pattern": pair.pattern,
        "chosen": pair.chosen,
        "rejected": pair.rejected,
        "chosen_quality": pair.chosen_quality,
        "rejected_quality": pair.rejected_quality,
        "margin": pair.margin,
        "weight": pair.weight,
        "prompt_embedding": pair.prompt_embedding.tolist(),
    }


def read_preferences(path: str | os.PathLike[str]) -> list[PreferencePair]:
    """Read the preference pairs that `Engine.export` has written.

    Each line is an object with the fields of `PreferencePair` and its margin.  Other fields are
    passed over.

    Parameters
    ----------
    path : path
        A file ``preferences.jsonl``.

    Raises
    ------
    ExportError
        With file, line and field, if one cannot be.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "preferences.jsonl")
    >>> pair = PreferencePair(0, np.ones(2, np.float32), "large", "small", 0.75, 0.5, 20.0)
    >>> write_preferences(path, [pair])
    >>> read_preferences(path)[0].chosen
    'large'
    """
    return [_pair(row) for row in read_lines(path)]


def _pair(row: Fields) -> PreferencePair:
    pair = PreferencePair(
        pattern=row.integer("pattern"),
        prompt_embedding=row.vector("prompt_embedding"),
        chosen=row.text("chosen"),
        rejected=row.text("rejected"),
        chosen_quality=row.number("chosen_quality"),
        rejected_quality=row.number("rejected_quality"),
        weight=row.number("weight", low=0.0),
    )
    if pair.margin <= 0.0 or abs(row.number("margin") - pair.margin) > _ROUNDING:
        raise row.refusal("margin", "chosen_quality - rejected_quality, above 0")
    if pair.chosen == pair.rejected:
        raise row.refusal("rejected", "another route than the chosen one")
    return pair
