"""Two tiers of adapters: what is kept of the directions of A after those of B were learned.

    python benchmarks/trajectories.py [--json]

Trajectories of the prompts of `llmrouter9`, split by its tasks into A and B as in recurring.py.
Each task wants embeddings moved along a direction of its own; half of the trajectories go along it
and are good, half go anywhere and are bad.  A, B, A, B are served in turn, and after each the
adapters are asked about prompts that they were not taught: how far an embedding of length 1 is
moved along what its task wants.  With a MicroLoRA alone, and with Loop B that folds it into a
BaseLoRA.
"""

from __future__ import annotations

import argparse
import json
import os
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from routers.episode import rows_of_first
from routers.streams import Stream, StreamAbsent, load_stream
from routers.tables import Mean, mean_of
from timing import machine

import sona_shm as sona

PHASE: Final = 3000
HELD_OUT: Final = 300
#: Rates at which an adapter learns something in so many trajectories, and how often Loop B runs.
RATES: Final = (0.3, 1.0)
EVERY: Final = (0, 1000)


class World:
    """What each task wants, and the prompts of A and B."""

    def __init__(self, stream: Stream, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.stream = stream
        wanted = self.rng.standard_normal((int(stream.task.max()) + 1, stream.embedding.shape[1]))
        self.wanted = (wanted / np.linalg.norm(wanted, axis=1, keepdims=True)).astype(np.float32)
        first = rows_of_first(stream)
        rows = [self.rng.permutation(np.flatnonzero(half)) for half in (first, ~first)]
        self.asked = [half[:HELD_OUT] for half in rows]
        self.taught = [half[HELD_OUT:] for half in rows]

    def teach(self, engine: sona.Engine, half: int) -> None:
        """One trajectory of A (0) or B (1)."""
        row = int(self.rng.choice(self.taught[half]))
        good = self.rng.random() < 0.5
        task = self.stream.task[row] if good else self.rng.integers(len(self.wanted))
        trajectory = engine.begin_trajectory(self.stream.embedding[row])
        trajectory.add_step(self.wanted[task], [], float(good))
        engine.end_trajectory(trajectory, quality=float(good))

    def moved(self, engine: sona.Engine, half: int) -> float:
        """Mean shift of the held-out prompts along what their tasks want."""
        rows = self.asked[half]
        x = self.stream.embedding[rows]
        shift: NDArray[np.float32] = engine.apply(x) - x
        return float((shift * self.wanted[self.stream.task[rows]]).sum(axis=1).mean())


def play(stream: Stream, seed: int, rate: float, every: int) -> list[tuple[float, float]]:
    """How far A and B are moved after each phase."""
    world = World(stream, seed)
    name = f"trajectories-{os.getpid()}"
    config = sona.SonaConfig(
        hidden_dim=stream.embedding.shape[1],
        micro_lora_lr=rate,
        max_workers=1,
        trajectory_capacity=50,
    )
    found = []
    with sona.Engine.create(name, config, learner="inline") as engine:
        for half in (0, 1, 0, 1):
            for i in range(1, PHASE + 1):
                world.teach(engine, half)
                if every and i % every == 0:
                    engine.force_learn()
            engine.flush()
            found.append((world.moved(engine, 0), world.moved(engine, 1)))
    sona.Engine.destroy(name)
    return found


def main() -> None:
    """Play all, print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=10, help="worlds (default: 10)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    console = Console(stderr=options.json, width=130)
    try:
        stream = load_stream("llmrouter9")
    except StreamAbsent as absent:
        console.print(f"skipped: {absent}")
        return
    table = Table(title="shift along what the task wants, after A, B, A, B")
    for column in ("micro_lora_lr", "", "A after B", "B after B", "A after A, B, A, B", "B"):
        table.add_column(column, justify="right")
    figures: dict[str, Any] = {}
    for rate in RATES:
        for every in EVERY:
            runs = np.array([play(stream, seed, rate, every) for seed in range(options.seeds)])
            what = f"Loop B every {every}" if every else "MicroLoRA alone"
            shown = [mean_of(runs[:, phase, half]) for phase in (1, 3) for half in (0, 1)]
            table.add_row(str(rate), what, *(f"{m.value:+.3f} ± {m.error:.3f}" for m in shown))
            figures[f"{rate}, {what}"] = [_plain(m) for m in shown]
    if options.json:
        print(json.dumps({"machine": machine(), "figures": figures}, indent=1))
    else:
        console.print(table)


def _plain(mean: Mean) -> dict[str, float]:
    return {"mean": mean.value, "standard_error": mean.error}


if __name__ == "__main__":
    main()
