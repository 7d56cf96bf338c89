"""Learned patterns as JSONL, one a line."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sona_shm.errors import ExportError
from sona_shm.export.json_files import Fields, read_lines, write_lines
from sona_shm.learning.reasoning_bank import PATTERN_TYPES, LearnedPattern


class PatternTable(NamedTuple):
    """Patterns, and the routes that their qualities and weights are of.

    Attributes
    ----------
    routes : tuple of str
        Names, in the order of `LearnedPattern.route_quality`.
    patterns : list of LearnedPattern

    Examples
    --------
    >>> PatternTable(("small", "large"), []).routes
    ('small', 'large')
    """

    routes: tuple[str, ...]
    patterns: list[LearnedPattern]


def write_patterns(path: Path, routes: Sequence[str], patterns: Iterable[LearnedPattern]) -> None:
    """Write patterns; see `read_patterns` for the fields.

    Parameters
    ----------
    path : Path
    routes : sequence of str
        Names, in the order of the patterns' arrays.
    patterns : iterable of LearnedPattern

    Raises
    ------
    NonFiniteError
        If a pattern holds NaN or infinity elsewhere than in the quality of a route.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "patterns.jsonl")
    >>> write_patterns(path, [], [LearnedPattern(0, np.ones(2, np.float32), 1)])
    >>> len(path.read_text().splitlines())
    1
    """
    write_lines(path, (_plain(routes, pattern) for pattern in patterns))


def _plain(routes: Sequence[str], pattern: LearnedPattern) -> dict[str, object]:
    of_routes = zip(routes, pattern.route_quality, pattern.route_weight, strict=True)
    return {
        "id": pattern.id,
        "pattern_type": pattern.pattern_type,
        "cluster_size": pattern.cluster_size,
        "total_weight": pattern.total_weight,
        "avg_quality": pattern.avg_quality,
        "created_at": pattern.created_at,
        "last_accessed": pattern.last_accessed,
        "access_count": pattern.access_count,
        "routes": {
            name: {
                "quality": None if np.isnan(quality) else float(quality),
                "weight": float(weight),
            }
            for name, quality, weight in of_routes
        },
        "centroid": pattern.centroid.tolist(),
    }


def read_patterns(path: str | os.PathLike[str]) -> PatternTable:
    """Read the patterns that `Engine.export` has written.

    Each line is an object with the fields of `LearnedPattern`; instead of its two arrays,
    ``routes`` has for each route ``{"quality": number or null, "weight": number}``.  Other fields
    are passed over.

    Parameters
    ----------
    path : path
        A file ``patterns.jsonl``.

    Returns
    -------
    PatternTable

    Raises
    ------
    ExportError
        With file, line and field, if one cannot be; if centroids differ in length, or lines in
        their routes.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "patterns.jsonl")
    >>> seen = LearnedPattern(0, np.ones(2, np.float32), 1)
    >>> seen.route_quality, seen.route_weight = np.array([0.5, np.nan]), np.array([3.0, 0.0])
    >>> write_patterns(path, ["small", "large"], [seen])
    >>> routes, patterns = read_patterns(path)
    >>> routes, patterns[0].route_quality
    (('small', 'large'), array([0.5, nan]))
    """
    routes: tuple[str, ...] = ()
    patterns: list[LearnedPattern] = []
    for row in read_lines(path):
        of_routes = row.table("routes")
        pattern = _pattern(row, of_routes)
        if not patterns:
            routes = tuple(of_routes)
        elif tuple(of_routes) != routes:
            raise row.refusal("routes", f"those of line 1, {', '.join(routes)}, in their order")
        elif len(pattern.centroid) != len(patterns[0].centroid):
            raise ExportError(
                f"{row.place}: centroid has {len(pattern.centroid)} numbers, expected as many as "
                f"in line 1, {len(patterns[0].centroid)}"
            )
        patterns.append(pattern)
    return PatternTable(routes, patterns)


def _pattern(row: Fields, of_routes: dict[str, Fields]) -> LearnedPattern:
    return LearnedPattern(
        id=row.integer("id"),
        centroid=row.vector("centroid"),
        cluster_size=row.integer("cluster_size"),
        total_weight=row.number("total_weight", low=0.0),
        avg_quality=row.number("avg_quality"),
        created_at=row.number("created_at", low=0.0),
        last_accessed=row.number("last_accessed", low=0.0),
        access_count=row.integer("access_count"),
        pattern_type=row.text("pattern_type", PATTERN_TYPES),
        route_quality=np.array([_quality(route) for route in of_routes.values()], np.float64),
        route_weight=np.array(
            [r.number("weight", low=0.0) for r in of_routes.values()], np.float64
        ),
    )


def _quality(route: Fields) -> float:
    return np.nan if route.get("quality", 0) is None else route.number("quality")
