"""Scheduled refits of the patterns, beside the learner.

``_core/refit.h`` says when a refit begins and when it is installed; here is the thread in between.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import AbstractContextManager
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import ThreadpoolController

from sona_shm import _core
from sona_shm.config import SonaConfig
from sona_shm.learning.reasoning_bank import PatternFit, fit_patterns
from sona_shm.shm.memory import EngineMemory

if TYPE_CHECKING:
    from typing_extensions import CapsuleType

logger = logging.getLogger("sona_shm.learner")


def needs_refits(config: SonaConfig) -> bool:
    """Whether some expert lives on patterns or the projection."""
    return bool({"ridge", "bank"} & set(config.experts))


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


def one_thread() -> AbstractContextManager[object]:
    """BLAS without threads: its own wait in tight loops, and would take the cores from workers."""
    limited: AbstractContextManager[object] = _blas().limit(limits=1, user_api="blas")
    return limited


def prepare(core: _core.Learner, fit: PatternFit, rows: int, *, scheduled: bool) -> CapsuleType:
    """Repeat the reservoir over a fit, without the GIL; what `install_refit` takes."""
    return core.prepare_refit(
        fit.projection.matrix,
        fit.projection.offset,
        fit.centroids,
        fit.full_centroids,
        fit.sizes.astype(np.uint64),
        rows,
        time.time_ns(),
        scheduled,
    )


class Refit:
    """Fits patterns to the reservoir in a thread of its own, one at a time.

    Parameters
    ----------
    memory : EngineMemory
    config : SonaConfig
    core : _core.Learner
    """

    def __init__(self, memory: EngineMemory, config: SonaConfig, core: _core.Learner) -> None:
        self._core = core
        self._errors = memory.errors
        self._hidden_dim = config.hidden_dim
        self._clusters = config.pattern_clusters
        self._thread: threading.Thread | None = None
        self._prepared: CapsuleType | None = None

    def begin_if_due(self) -> None:
        """Start the next refit, if enough was learned for it and it does not run yet."""
        if self._thread is None and self._core.refit_may_begin:
            self._thread = threading.Thread(target=self._fit, name="sona refit", daemon=True)
            self._thread.start()

    def install(self) -> None:
        """Wait for the refit and make it part of the working block; the caller publishes next."""
        self.begin_if_due()
        self.wait()
        prepared, self._prepared = self._prepared, None
        if prepared is not None:
            self._core.install_refit(prepared)
        self._core.end_scheduled_refit(prepared is not None)

    def wait(self) -> None:
        """Until no refit runs: it computes on what it has, so this is bounded."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def abandon(self) -> None:
        """In a forked child there is no such thread."""
        self._thread = None

    def _fit(self) -> None:
        try:
            rows = np.frombuffer(self._core.refit_rows(), np.float32)
            embeddings = rows.reshape(-1, self._hidden_dim)
            with one_thread():
                fit = fit_patterns(embeddings, self._clusters, seed=self._core.refits)
            self._prepared = prepare(self._core, fit, len(embeddings), scheduled=True)
        except Exception as error:
            # The learner counts it as refits_failed, and goes on with the patterns there are.
            logger.exception("refit %d has failed", self._core.refits)
            self._errors.note("refit", error)
