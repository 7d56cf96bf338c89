"""One look a second for all who ask: the only place where the web monitor meets the engine."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator
from typing import Any, Final

from sona_shm.monitor.json_text import to_json
from sona_shm.monitor.rates import Rates
from sona_shm.watch import Look, Watch
from sona_shm.web.history import History, sample_of
from sona_shm.web.patterns import PatternPoint, pattern_points

logger = logging.getLogger("sona_shm.web")
PERIOD_SECONDS: Final = 1.0
#: Who wants to know more than the last sample, as a scrape does, looks at most this often.
_FRESH_SECONDS: Final = 0.1


class Sampler:
    """The latest look at an engine, what happened before, and who follows.

    Everything but the looks themselves happens in the event loop.

    Parameters
    ----------
    watch : Watch
    """

    def __init__(self, watch: Watch) -> None:
        self.name = watch.name
        self.ended = False
        self._history = History()
        self._watch = watch
        self._latest = watch.look()
        self._sampled = self._latest
        self._tell("", self._latest)
        self._rates: Rates | None = None
        self._state = ""
        self._histories: dict[float, str] = {}
        self._patterns: tuple[float, list[PatternPoint]] = (-math.inf, [])
        self._looking = asyncio.Lock()
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            started = time.monotonic()
            self._take(await self.look(at_most_seconds_old=0.0))
            await asyncio.sleep(max(0.0, started + PERIOD_SECONDS - time.monotonic()))

    async def look(self, at_most_seconds_old: float = _FRESH_SECONDS) -> Look:
        """The latest look, or a new one where that is too old; never two at once."""
        async with self._looking:
            if time.monotonic() - self._latest.clock > at_most_seconds_old:
                self._latest = await asyncio.to_thread(self._watch.look)
            return self._latest

    async def patterns(self) -> list[PatternPoint]:
        """The learned patterns, at most a second old."""
        async with self._looking:
            taken, points = self._patterns
            if time.monotonic() - taken > PERIOD_SECONDS:
                points = await asyncio.to_thread(self._look_at_patterns)
                self._patterns = time.monotonic(), points
            return points

    def _look_at_patterns(self) -> list[PatternPoint]:
        engine, stats = self._watch.engine, self._latest.stats
        if engine is None or stats is None:
            return []
        return pattern_points(engine.reasoning_bank(), engine.config, stats.routes)

    @property
    def sampled(self) -> Look:
        """The look that the last sample is of."""
        return self._sampled

    @property
    def state(self) -> str:
        """The last sample as JSON, made once for all who ask."""
        if not self._state:
            self._state = to_json(self._state_mapping())
        return self._state

    def history(self, seconds: float) -> str:
        """Columns of the last seconds as JSON, made once a sample for all who ask for as many."""
        if seconds not in self._histories:
            series = self._history.series(seconds, self._sampled.time)
            self._histories[seconds] = to_json(series)
        return self._histories[seconds]

    async def states(self, patience: float) -> AsyncIterator[str | None]:
        """The state now and each following one; None for each time that none came in `patience`."""
        news = None
        while not self.ended:
            if news is not self._news:
                news = self._news
                yield self.state
            try:
                await asyncio.wait_for(news.wait(), patience)
            except TimeoutError:
                yield None

    def end(self) -> None:
        """Let those who follow go."""
        self.ended = True
        self._announce()

    def _take(self, look: Look) -> None:
        """Make a look the sample of this second."""
        before, self._sampled = self._sampled, look
        self._rates = look.rates_since(before)
        self._tell(before.problem, look)
        sample = sample_of(look)
        if sample is not None:
            self._history.add(sample)
        self._state = ""
        self._histories.clear()
        self._announce()

    def _tell(self, problem_before: str, look: Look) -> None:
        """Log what has changed."""
        if look.problem and look.problem != problem_before:
            logger.warning("%s", look.problem)
        elif problem_before and not look.problem:
            logger.info("the engine %r is there", self.name)

    def _announce(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _state_mapping(self) -> dict[str, Any]:
        look = self._sampled
        return {
            "name": self.name,
            "time": look.time,
            "up": look.stats is not None,
            "trouble": look.trouble,
            "max_workers": look.max_workers,
            "stats": None if look.stats is None else look.stats.to_mapping(),
            "rates": None if self._rates is None else self._rates.to_mapping(),
            "shm": {"free_bytes": look.shm_free_bytes, "total_bytes": look.shm_total_bytes},
        }
