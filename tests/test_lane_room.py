"""A lane that is full must become free again, also when nothing new can be recorded into it."""

from __future__ import annotations

import sona_shm as sona
from sona_shm.learner import Learner
from sona_shm.shm.layout import OFFSETS

CONFIG = sona.SonaConfig(hidden_dim=64, trajectory_capacity=20, max_workers=1)


def record(engine: sona.Engine, share: float) -> bool:
    """A record that takes that share of the lane."""
    t = sona.QueryTrajectory(1, [0.1] * 64)
    fixed = 64 + 4 * 64 + 80
    t.context_ids = ["x" * int(share * engine._memory.geometry.lane_bytes - fixed)]
    return engine.record(t.finalize(0.5))


def test_large_records_are_not_shut_out_by_learned_ones(name: str) -> None:
    """Learned trajectories are kept for `drain_trajectories` only while there is room."""
    with sona.Engine.create(name, CONFIG) as engine, Learner(name) as learner:
        done = []
        for share in [0.10, 0.45] + [0.47] * 20:
            done.append(record(engine, share))
            learner.step()
        assert done.count(False) <= 1, done  # a drop tells the learner that room is wanted


def test_a_spoiled_tail_is_mended_when_the_lane_is_full_and_learned(name: str) -> None:
    with sona.Engine.create(name, CONFIG) as engine, Learner(name) as learner:
        while record(engine, 0.1):
            pass
        learner.step()
        memory = engine._memory
        tail = memory.sizes["lanes_offset"] + OFFSETS["lane_header.tail"]
        memory.lanes.store(tail, 2**63 + 5)
        done = []
        for _ in range(20):
            done.append(record(engine, 0.1))
            learner.step()
        assert sum(done) >= 18, done
