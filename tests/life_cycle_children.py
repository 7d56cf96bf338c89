"""What spawned children of tests/test_life_cycle.py run: it must be importable there."""

from __future__ import annotations

import sona_shm as sona


def attach_and_record(name: str) -> None:
    """One record, then an ordinary end."""
    engine = sona.Engine.attach(name)
    x = [0.1] * engine.config.hidden_dim
    assert engine.record(sona.QueryTrajectory(1, x).finalize(0.7))
