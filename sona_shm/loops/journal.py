"""What a learner writes into the journal, before each publication."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sona_shm import _core
from sona_shm.config import SonaConfig
from sona_shm.journal.format import decision_dtype, outcome_dtype
from sona_shm.journal.writer import JournalWriter
from sona_shm.learning.snapshot import RouteRow, Snapshot
from sona_shm.shm.memory import EngineMemory


def _plain(routes: list[RouteRow]) -> list[dict[str, object]]:
    return [{"name": row.name, "cost": row.cost, "active": row.active} for row in routes]


class LearnerJournal:
    """One term's journal: rows that the core gathers go to files.

    Parameters
    ----------
    directory : Path
    memory : EngineMemory
    config : SonaConfig
    core : _core.Learner
    """

    def __init__(
        self, directory: Path, memory: EngineMemory, config: SonaConfig, core: _core.Learner
    ) -> None:
        self._core = core
        self._errors = memory.errors
        self._geometry = memory.geometry
        self._decision = decision_dtype(config.hidden_dim, memory.sizes["allowed_words"])
        self._outcome = outcome_dtype()
        self._routes = self._current_routes()
        header = config.to_mapping() | {
            "engine": memory.names.engine,
            "routes": _plain(self._routes),
        }
        self._writer = JournalWriter(directory, header)

    def _current_routes(self) -> list[RouteRow]:
        rows = Snapshot(memoryview(self._core), self._geometry).routes()
        # Only what a journal tells: statistics change with every outcome.
        return [
            row._replace(outcomes=0, reward_mean=0.0, latency_ms=None, tokens=None) for row in rows
        ]

    def write(self) -> None:
        """Take what was gathered, and write it."""
        decisions, outcomes = self._core.take_journal()
        if not decisions and not outcomes:
            return
        dropped = self._writer.dropped
        routes = self._current_routes()
        if routes != self._routes:
            self._routes = routes
            self._writer.append_routes(_plain(routes))
        self._writer.append(
            np.frombuffer(decisions, self._decision), np.frombuffer(outcomes, self._outcome)
        )
        if self._writer.dropped > dropped and self._writer.last_error is not None:
            self._errors.note("journal", self._writer.last_error)

    def close(self) -> None:
        """Sync and close the file."""
        self._writer.close()
