"""A worker at full speed: routes, gives feedback, records trajectories, counts each call."""

from __future__ import annotations

import numpy as np

import sona_shm as sona
from tests.torture.processes import Table

ROUTES = (sona.Route("small", 0.1), sona.Route("middle", 0.4), sona.Route("large", 1.0))
#: Few enough that no slot is overwritten: then no feedback may expire.
DECISIONS = 1 << 14
HIDDEN = 16


def torture_config(seed: int, max_workers: int, capacity: int = 2000) -> sona.SonaConfig:
    """An engine whose lanes wrap and fill, and whose slots are never overwritten."""
    return sona.SonaConfig(
        hidden_dim=HIDDEN,
        routes=ROUTES,
        trajectory_capacity=capacity,
        max_workers=max_workers,
        pending_decisions=DECISIONS,
        flush_threshold=32,
        seed=seed,
    )


def trajectories(rng: np.random.Generator) -> list[sona.QueryTrajectory]:
    """Some of each length, with and without a route and strings."""
    made = []
    for number in range(32):
        t = sona.QueryTrajectory(number, rng.standard_normal(HIDDEN, np.float32))
        for index in range(number % 4):
            activations = rng.standard_normal(HIDDEN, np.float32)
            attention = rng.random(number % 3, np.float32)
            t.add_step(sona.TrajectoryStep(activations, attention, rng.random(), index))
        if number % 5 == 0:
            t.model_route = "middle"
            t.context_ids = ["context"] * (number % 7)
        made.append(t.finalize(rng.random(), number))
    return made


def work(name: str, table: Table, row: int, seed: int) -> None:
    """Body of a worker: until it is killed, or row 0 of the first column's table says stop."""
    cells = table.writer(row)
    stop = table.writer(0)["lane"]
    rng = np.random.default_rng(seed)
    made = trajectories(rng)
    embeddings = rng.standard_normal((64, HIDDEN), np.float32)
    engine = sona.Engine.attach(name)
    engine.instant._claim()
    index = engine.instant._lane_index
    decided = engine._memory.lane_words(index, "decisions")["decisions"]
    cells["lane"][0] = index + 1

    def feedback(id: int, column: str) -> bool:
        cells["begun_feedbacks"][0] += 1
        done = engine.feedback(id, quality)
        if done:
            cells[column][0] += 1
        return done

    turn = 0
    while not stop[0]:
        turn += 1
        quality = float(rng.random())
        if turn % 8 == 0 and decided < DECISIONS:
            decided += 1
            decision = engine.route(embeddings[turn % 64]).id
            repeats = feedback(decision, "done_feedbacks") and turn % 3 == 0
            if repeats and feedback(decision, "done_feedbacks"):
                cells["repeated_feedbacks"][0] += 1
        else:
            cells["begun_trajectories"][0] += 1
            if engine.record(made[turn % len(made)]):
                cells["done_trajectories"][0] += 1
    engine.close()
