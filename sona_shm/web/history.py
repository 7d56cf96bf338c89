"""What was counted in the last day, thinned out as it grows old.

Samples hold counts and not rates: however many are left out between two of them, the rate over
the time in between is exact.
"""

from __future__ import annotations

import dataclasses
import math
from array import array
from collections import deque
from itertools import pairwise
from typing import Any, Final

from sona_shm.watch import Look

#: Seconds between samples, and how many are kept, of the last hour and of the last day.
_FINE: Final = (1.0, 3600)
_COARSE: Final = (60.0, 1440)
LONGEST_SECONDS: Final = _COARSE[0] * _COARSE[1]
#: Points of an answer, about as many as a chart can show.
_MOST_POINTS: Final = 300
#: Intervals longer than so many steps are gaps: nobody looked, or there was no engine.
_GAP_STEPS: Final = 3.5
_COUNTS: Final = ("recorded", "decisions", "outcomes", "publications", "losses")


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """What a look has counted, in little memory."""

    time: float
    attachment: int
    counts: tuple[int, ...]
    earned: float
    backlog_bytes: int
    routes: tuple[str, ...]
    shares: array[float]


def sample_of(look: Look) -> Sample | None:
    """The sample of a look; None where there was no engine."""
    stats = look.stats
    if stats is None:
        return None
    counts = {
        "recorded": stats.recorded,
        "decisions": stats.decisions,
        "outcomes": sum(route.outcomes for route in stats.routes),
        "publications": stats.version,
        "losses": sum(stats.losses.values()),
    }
    return Sample(
        time=look.time,
        attachment=look.attachment,
        counts=tuple(counts[name] for name in _COUNTS),
        earned=sum(route.outcomes * route.mean_reward for route in stats.routes),
        backlog_bytes=sum(lane.backlog_bytes for lane in stats.lanes),
        routes=tuple(route.name for route in stats.routes),
        shares=array("d", (route.share for route in stats.routes)),
    )


class History:
    """Samples of the last hour, one a second, and of the last day, one a minute.

    Examples
    --------
    >>> history = History()
    >>> for second in range(5):
    ...     counts = (10 * second, 0, 0, 0, 0)
    ...     history.add(Sample(1000.0 + second, 1, counts, 0.0, 0, ("a",), array("d", [1.0])))
    >>> series = history.series(60.0, now=1005.0)
    >>> series["recorded"]
    [10.0, 10.0, 10.0, 10.0]
    """

    def __init__(self) -> None:
        self._fine: deque[Sample] = deque(maxlen=_FINE[1])
        self._coarse: deque[Sample] = deque(maxlen=_COARSE[1])

    def add(self, sample: Sample) -> None:
        """Remember a sample, the latest so far; a clock that was set back starts anew."""
        if self._fine and sample.time <= self._fine[-1].time:
            self._fine.clear()
            self._coarse.clear()
        if self._fine and sample.routes == self._fine[-1].routes:
            # Names are kept once, and not with every sample.
            sample = dataclasses.replace(sample, routes=self._fine[-1].routes)
        self._fine.append(sample)
        if not self._coarse or sample.time - self._coarse[-1].time >= _COARSE[0]:
            self._coarse.append(sample)

    def series(self, seconds: float, now: float) -> dict[str, Any]:
        """Rates and shares of the last `seconds`, column by column.

        Returns
        -------
        dict
            ``step``: seconds between two points; ``time``: of each; counts per second since the
            point before, ``reward``: mean reward of the outcomes in between, ``backlog_bytes``,
            and ``shares``: a column for each route.  None where there is no figure.
        """
        oldest = self._coarse[0].time if self._coarse else now
        step = max(_FINE[0], math.ceil(min(seconds, now - oldest) / _MOST_POINTS))
        chosen = self._one_a_step(now - seconds, step)
        spacing = _FINE[0] if seconds <= _FINE[0] * _FINE[1] else _COARSE[0]
        longest = _GAP_STEPS * max(step, spacing)
        points = [_point(before, after, longest) for before, after in pairwise(chosen)]
        latest = [sample for _, sample in pairwise(chosen)]
        shares = [dict(zip(sample.routes, sample.shares, strict=True)) for sample in latest]
        names = dict.fromkeys(name for routes in shares for name in routes)
        return {
            "step": step,
            "time": [sample.time for sample in latest],
            **{name: [point[name] for point in points] for name in (*_COUNTS, "reward")},
            "backlog_bytes": [sample.backlog_bytes for sample in latest],
            "shares": {name: [routes.get(name) for routes in shares] for name in names},
        }

    def _one_a_step(self, since: float, step: float) -> list[Sample]:
        """The last sample of each step; steps begin at fixed times, so that points stay."""
        oldest_fine = self._fine[0].time if self._fine else math.inf
        samples = [s for s in self._coarse if s.time < oldest_fine] + list(self._fine)
        return list({s.time // step: s for s in samples if s.time >= since}.values())


def _point(before: Sample, after: Sample, longest: float) -> dict[str, float | None]:
    """What happened between two samples; nothing can be said across a gap or another engine."""
    seconds = after.time - before.time
    grown = [b - a for a, b in zip(before.counts, after.counts, strict=True)]
    if before.attachment != after.attachment or seconds > longest or min(grown) < 0:
        return dict.fromkeys((*_COUNTS, "reward"))
    rates: dict[str, float | None] = {
        name: count / seconds for name, count in zip(_COUNTS, grown, strict=True)
    }
    outcomes = grown[_COUNTS.index("outcomes")]
    rates["reward"] = (after.earned - before.earned) / outcomes if outcomes else None
    return rates
