"""A worker in a container: routes and learns, to show that containers share an engine."""

from __future__ import annotations

import itertools
import time

import numpy as np

import sona_shm as sona


def attach(name: str, patience: float = 60.0) -> sona.Engine:
    """The engine, as soon as its learner has made it."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return sona.Engine.attach(name)
        except sona.EngineNotFound:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def main() -> None:
    """Ask for ever; the large model is the right one for one half of the requests."""
    rng = np.random.default_rng()
    with attach("router") as engine:
        for request in itertools.count(1):
            x = rng.standard_normal(engine.config.hidden_dim)
            decision = engine.route(x / np.linalg.norm(x))
            time.sleep(0.01)  # what the model takes to answer
            right = "large" if x[0] > 0 else "small"
            engine.feedback(decision.id, quality=1.0 if decision.route == right else 0.2)
            if request % 100 == 0:
                rewards = {row.name: round(row.mean_reward, 3) for row in engine.stats().routes}
                print(
                    f"{request} requests here; mean rewards of all workers: {rewards}", flush=True
                )


if __name__ == "__main__":
    main()
