"""Writes nonsense into an engine's memory and watches that it lives on; a process of its own.

``python -m tests.corruption lanes SEED BATCHES`` damages headers, rings, slots and marks of lanes
beside a producer and a learner; ``... control SEED BATCHES`` damages control and weights.  The
exit status is 0 if nothing crashed, stalled, or raised an error that is not documented.
"""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Callable

import numpy as np

import sona_shm as sona
from sona_shm.learner import Learner
from sona_shm.shm.layout import OFFSETS

HIDDEN = 12
CONFIG = sona.SonaConfig(
    hidden_dim=HIDDEN,
    routes=(sona.Route("a"), sona.Route("b")),
    trajectory_capacity=60,
    max_workers=2,
    pending_decisions=16,
    flush_threshold=8,
)
#: Calls after which a damaged lane must learn again: a full turn of the ring, twice.
HEALING = 2000
#: Steps of the learner after which a lane must be drained, whatever is in it.
STEPS = 200
WORD_OFFSETS = range(0, 256, 8)


class Damage:
    """Random writes into one lane."""

    def __init__(self, engine: sona.Engine, rng: np.random.Generator) -> None:
        sizes = engine._memory.sizes
        self._rng = rng
        self._words = engine._memory.lanes
        self._ring = engine._memory.buffer("ring")
        self._lane = sizes["lanes_offset"] + engine.instant._lane_index * sizes["lane_stride"]
        self._regions = {
            "ring": (sizes["lane_ring_offset"], engine._memory.geometry.lane_bytes),
            "slots": (sizes["lane_slots_offset"], 16 * sizes["slot_bytes"]),
            "marks": (sizes["lane_marks_offset"], 16 * 16),
        }

    def _odd_number(self, present: int) -> int:
        """A word that is near what is there, or extreme, or anything."""
        rng = self._rng
        choices: list[int] = [
            0,
            2**64 - 1,
            2**63,
            present + int(rng.integers(-200, 200)),
            present + 64 * int(rng.integers(-300, 300)),
            present ^ (1 << int(rng.integers(64))),
            int(rng.integers(2**63)),
        ]
        return choices[int(rng.integers(len(choices)))] % 2**64

    def header(self) -> None:
        """One word of the lane's header."""
        at = self._lane + int(self._rng.choice(WORD_OFFSETS))
        self._words.store(at, self._odd_number(self._words.load(at)))

    def word(self, region: str) -> None:
        """One word anywhere in a region."""
        start, length = self._regions[region]
        at = self._lane + start + 8 * int(self._rng.integers(length // 8))
        self._words.store(at, self._odd_number(self._words.load(at)))

    def garbage(self, region: str) -> None:
        """A run of random bytes in a region."""
        start, length = self._regions[region]
        count = int(self._rng.integers(1, min(length, 600)))
        at = self._lane + start + int(self._rng.integers(length - count))
        self._ring[at : at + count] = self._rng.bytes(count)

    def any(self) -> None:
        """One corruption of any kind."""
        kind = int(self._rng.integers(6))
        region = str(self._rng.choice(list(self._regions)))
        if kind < 2:
            self.header()
        elif kind < 4:
            self.word(region)
        else:
            self.garbage(region)


class Producer:
    """Records of all kinds, one after the other."""

    def __init__(self, engine: sona.Engine, rng: np.random.Generator) -> None:
        self._engine, self._rng = engine, rng
        self._last: int | None = None
        self.puts = 0

    def put(self) -> bool:
        """One record: a trajectory of 0 to 2 steps, or feedback to the last decision."""
        rng, engine = self._rng, self._engine
        self.puts += 1
        x = rng.standard_normal(HIDDEN, np.float32)
        if self.puts % 3 == 0:
            self._last = engine.route(x).id
            return engine.feedback(self._last, float(rng.random()))
        t = sona.QueryTrajectory(self.puts, x)
        for _ in range(self.puts % 3):
            t.add_step(sona.TrajectoryStep(rng.standard_normal(HIDDEN, np.float32), [], 0.5))
        t.context_ids = ["c"] * (self.puts % 2)
        return engine.record(t.finalize(float(rng.random())))


def drain(learner: Learner) -> None:
    """Bounded steps must reach the end of every lane."""
    for _ in range(STEPS):
        if learner.step() == 0:
            return
    raise AssertionError(f"the learner did not reach the end of the lanes in {STEPS} steps")


def heal(engine: sona.Engine, learner: Learner, producer: Producer) -> int:
    """Record until a record is learned again; how many that took."""
    for count in range(1, HEALING + 1):
        before = learned(engine, learner)
        producer.put()
        drain(learner)
        if learned(engine, learner) > before:
            return count
    words = ("head", "tail", "epoch", "quarantined", "dropped")
    raise AssertionError(
        f"{HEALING} calls after the damage nothing is learned: "
        f"{engine._memory.lane_words(engine.instant._lane_index, *words)}, {engine.stats()}"
    )


def learned(engine: sona.Engine, learner: Learner) -> int:
    """Signals so far."""
    return learner._drain.working_snapshot().counters["signals_accumulated"]


def damage_lanes(name: str, rng: np.random.Generator, batches: int) -> dict[str, int]:
    """Each batch: up to five corruptions among records, bounded steps, then healing."""
    corruptions = worst = 0
    with sona.Engine.create(name, CONFIG) as engine:
        producer = Producer(engine, rng)
        producer.put()
        damage = Damage(engine, rng)
        learner = Learner(name)
        for batch in range(batches):
            for _ in range(int(rng.integers(1, 6))):
                damage.any()
                corruptions += 1
                for _ in range(int(rng.integers(0, 12))):
                    producer.put()
                if rng.random() < 0.3:
                    learner.step()
            drain(learner)
            if batch % 7 == 0:
                learner._drain.drain_trajectories()
            if batch % 11 == 0:  # a successor starts from what it finds
                learner.close()
                learner = Learner(name)
            if batch % 4 == 0:
                worst = max(worst, heal(engine, learner, producer))
            if batch % 50 == 0:
                engine.flush(0.0)
                engine.stats()
                drain(learner)
        worst = max(worst, heal(engine, learner, producer))
        learner.close()
        counters = engine.instant.metrics
    return {
        "corruptions": corruptions,
        "worst_healing": worst,
        "records_corrupt": counters.records_corrupt,
        "lanes_quarantined": counters.lanes_quarantined,
        "records_lost": counters.records_lost,
        "signals": counters.signals_accumulated,
        "records": producer.puts,
    }


def _attempt(action: Callable[[], object]) -> bool:
    """Whether it succeeded; any error of the documented tree is an answer too."""
    try:
        action()
    except sona.SonaError:
        return False
    return True


def _use_all(name: str, engine: sona.Engine, producer: Producer) -> None:
    """Everything that reads the control or weights segment."""
    _attempt(producer.put)
    _attempt(lambda: engine.apply([0.5] * HIDDEN))
    _attempt(lambda: engine.route([0.5] * HIDDEN))
    _attempt(engine.stats)
    _attempt(lambda: engine.flush(0.0))
    _attempt(engine.instant.micro_lora)
    _attempt(engine.instant.next_id)

    def attach() -> None:
        other = sona.Engine.attach(name, timeout=0.0)
        try:
            _attempt(lambda: other.apply([0.5] * HIDDEN))
            _attempt(lambda: other.route([0.5] * HIDDEN))
            _attempt(other.stats)
        finally:
            other.close()

    _attempt(attach)

    def learn() -> None:
        with Learner(name) as learner:
            for _ in range(4):
                learner.step()

    _attempt(learn)


def damage_control(name: str, rng: np.random.Generator, batches: int) -> dict[str, int]:
    """Each batch: a fresh engine, some words or bytes of control or weights changed, all used."""
    corruptions = 0
    for batch in range(batches):
        kind = ("control", "weights")[batch % 2]
        with sona.Engine.create(name, CONFIG, replace=True) as engine:
            producer = Producer(engine, rng)
            producer.put()
            memory = engine._memory
            buffer = memory.buffer(kind)
            sizes = memory.sizes
            for _ in range(int(rng.integers(1, 6))):
                corruptions += 1
                if kind == "control":
                    spans = [(0, 448), (sizes["owners_offset"], 128), (sizes["config_offset"], 200)]
                else:
                    header = sizes["buffers_offset"]
                    spans = [(0, 64), (sizes["cell_offset"], 256), (header, 4096)]
                start, length = spans[int(rng.integers(3))]
                count = int(rng.choice([1, 8, 8, min(length, 64)]))
                at = start + int(rng.integers(length - count + 1)) // 8 * 8
                buffer[at : at + count] = rng.bytes(count)
            _use_all(name, engine, producer)
        sona.Engine.destroy(name)
    return {"corruptions": corruptions, "words": len(OFFSETS)}


def main() -> int:
    """See the module."""
    kind, seed, batches = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    name = f"corrupt-{secrets.token_hex(4)}"
    rng = np.random.default_rng(seed)
    try:
        result = (damage_lanes if kind == "lanes" else damage_control)(name, rng, batches)
    finally:
        _attempt(lambda: sona.Engine.destroy(name))
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
