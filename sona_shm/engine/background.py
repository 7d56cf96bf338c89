"""Loop B, as a worker sees it: ask for a cycle, look at what it keeps."""

from __future__ import annotations

from sona_shm.engine.routes import RouteChanges
from sona_shm.learning.lora import LoRA
from sona_shm.learning.snapshot import Patterns
from sona_shm.loops.learn_result import LearnResult


class BackgroundRequests(RouteChanges):
    """The part of `Engine` that asks for background learning.

    Examples
    --------
    >>> import sona_shm as sona
    >>> issubclass(sona.Engine, BackgroundRequests)
    True
    """

    def force_learn(self, timeout: float = 60.0) -> LearnResult:
        """Have a cycle of Loop B run now, and not only every ``background_interval_ms``.

        Patterns are fitted anew, pruned and merged, heads of routes refitted where that predicts
        better, and the MicroLoRA is folded into the BaseLoRA.  Workers go on meanwhile.  A cycle
        that is under way answers this request too.  Where learning is inline, it runs in the
        calling process, and this is the only way to have one.

        Parameters
        ----------
        timeout : float
            Seconds to wait for a learner in another process.

        Returns
        -------
        LearnResult
            Its ``status`` says whether the cycle is done, skipped for want of trajectories, lost,
            or not answered; an unanswered request stands.

        Raises
        ------
        EngineClosed
            After close().
        EngineNotFound
            If the engine was destroyed before.

        Examples
        --------
        >>> import numpy as np, sona_shm as sona
        >>> config = sona.SonaConfig(hidden_dim=4, routes=[sona.Route("a"), sona.Route("b")])
        >>> with sona.Engine.create("doc-force", config, learner="inline") as engine:
        ...     for x in np.eye(4).repeat(30, axis=0):
        ...         _ = engine.observe(x, "a", float(x[0]))
        ...     result = engine.force_learn()
        >>> result.status, result.rows
        ('done', 120)
        >>> sona.Engine.destroy("doc-force")
        """
        return self.instant.force_learn(timeout)

    def base_lora(self) -> LoRA:
        """The published BaseLoRA, as a copy; zero before the first consolidation.

        Returns
        -------
        LoRA
            With a and b of shape (base_lora_rank, hidden_dim).

        Examples
        --------
        >>> import sona_shm as sona
        >>> with sona.Engine.create("doc-base", sona.SonaConfig(hidden_dim=2)) as engine:
        ...     engine.base_lora().rank
        8
        >>> sona.Engine.destroy("doc-base")
        """
        patterns = Patterns(self._patterns()[1], self._memory.geometry)
        return LoRA(patterns.base_a, patterns.base_b)
