"""One row for each measurement, and the comparison of each with the best peer."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from .paced import PacedFigures
from .saturated import SaturatedFigures

Mode = Literal["saturated", "paced"]
Figures = SaturatedFigures | PacedFigures


@dataclass(frozen=True)
class Row:
    """What came of one transport in one mode with one number of producers."""

    mode: Mode
    transport: str
    is_ours: bool
    producers: int
    status: Literal["measured", "not installed", "failed"]
    figures: Figures | None = None
    reason: str | None = None
    ratio_to_best_peer: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the row with its figures beside the rest."""
        entries = asdict(self)
        return entries | (entries.pop("figures") or {})


def with_ratios(rows: list[Row]) -> list[Row]:
    """Divide each row's headline figure by that of the best peer beside it in the same run."""
    return [replace(row, ratio_to_best_peer=ratio_to_best_peer(row, rows)) for row in rows]


def ratio_to_best_peer(row: Row, rows: list[Row]) -> float | None:
    """Compare one row with the peers measured in its mode with as many producers."""
    if row.figures is None:
        return None
    peers = [
        other.figures.headline
        for other in rows
        if other.figures is not None
        and not other.is_ours
        and (other.mode, other.producers) == (row.mode, row.producers)
    ]
    if not peers:
        return None
    best = max(peers) if row.figures.larger_is_better else min(peers)
    return row.figures.headline / best
