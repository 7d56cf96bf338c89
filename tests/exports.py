"""What the tests of export and import share: an engine that has learned, an adapter by hand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

import sona_shm as sona
from sona_shm.learning.snapshot import Patterns, Snapshot
from tests.conftest import ROOT

DIM = 12
ROUTES = ("klein", "größer", "大")
#: Mean quality of each route around each of three directions.
QUALITY = np.array([[0.9, 0.5, 0.1], [0.1, 0.9, 0.5], [0.5, 0.5, 0.5]])


def documented_code() -> list[str]:
    """The programs of docs/export.md."""
    text = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def config(**changes: Any) -> sona.SonaConfig:
    routes = [sona.Route(name) for name in ROUTES]
    settings: dict[str, Any] = {"micro_lora_lr": 1.0, "pattern_clusters": 6}
    return sona.SonaConfig(hidden_dim=DIM, routes=routes, **settings | changes)


def embeddings(rng: np.random.Generator, directions: NDArray[np.int64]) -> NDArray[np.float32]:
    noise = 0.05 * rng.standard_normal((len(directions), DIM))
    return (np.eye(DIM)[directions] + noise).astype(np.float32)


def teach(engine: sona.Engine, rng: np.random.Generator, outcomes: int = 300) -> None:
    """Outcomes with noise, of every route everywhere; trajectories that move the MicroLoRA."""
    directions = rng.integers(0, len(QUALITY), outcomes)
    routes = rng.integers(0, len(ROUTES), outcomes)
    for x, direction, route in zip(embeddings(rng, directions), directions, routes, strict=True):
        quality = np.clip(QUALITY[direction, route] + 0.05 * rng.standard_normal(), 0.0, 1.0)
        assert engine.observe(x, int(route), float(quality))
        trajectory = engine.begin_trajectory(x)
        reward = float(direction == 0)
        trajectory.add_step(np.roll(x, 1), [], reward)
        assert engine.end_trajectory(trajectory, reward)


def published(engine: sona.Engine) -> tuple[Snapshot, Patterns]:
    block, slow = engine._patterns()
    geometry = engine.config.geometry()
    return Snapshot(block, geometry), Patterns(slow, geometry)


def adapt(x: NDArray[Any], a: NDArray[Any], b: NDArray[Any], scale: float) -> NDArray[np.float64]:
    """The adapter's formula in double precision."""
    x, a, b = (values.astype(np.float64) for values in (x, a, b))
    adapted: NDArray[np.float64] = x + scale * (x @ a.T) @ b
    return adapted


def write_foreign(
    directory: Path, a: NDArray[Any], b: NDArray[Any], **settings: Any
) -> dict[str, NDArray[Any]]:
    """An adapter as another program would have written it; B as (rank, hidden_dim)."""
    directory.mkdir()
    about = {"peft_type": "LORA", "r": len(a), "lora_alpha": 1} | settings
    (directory / "adapter_config.json").write_text(json.dumps(about), encoding="utf-8")
    weights = {
        "base_model.model.encoder.out.lora_A.weight": np.ascontiguousarray(a),
        "base_model.model.encoder.out.lora_B.weight": np.ascontiguousarray(b.T),
    }
    safetensors.numpy.save_file(weights, directory / "adapter_model.safetensors")
    return weights
