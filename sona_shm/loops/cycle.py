"""What one cycle of Loop B finds out, from what is published; it writes nothing.

It runs in a process of its own beside a learner, or in the calling process where learning is
inline.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sona_shm import _core
from sona_shm.config import SonaConfig
from sona_shm.learning.bank import bank_gain
from sona_shm.learning.clustering import nearest_centroid
from sona_shm.learning.heads import HeadRefit, HeldTo, RouteOutcomes, refit_head
from sona_shm.learning.held_out import MARGIN
from sona_shm.learning.lora import LoRA
from sona_shm.learning.pruning import prune_and_merge
from sona_shm.learning.reasoning_bank import PatternFit, fit_patterns
from sona_shm.learning.reservoir import Outcomes
from sona_shm.learning.snapshot import Patterns, Snapshot
from sona_shm.loops.refit import needs_refits, one_thread
from sona_shm.shm.memory import EngineMemory

#: What a cycle does, for an ablation to leave something out.
PARTS: Final = frozenset({"patterns", "consolidation", "heads"})
#: Parts of which `Findings.seconds` tells the time.
TIMED: Final = frozenset({"reading", "patterns", "heads"})
#: Outcomes below which there is nothing to fit patterns to; as many as a first refit needs.
FEWEST_OUTCOMES: Final = 32


@dataclasses.dataclass(frozen=True, eq=False)
class Findings:
    """What a cycle has found, to be installed.

    Attributes
    ----------
    rows : int
        Outcomes that it learned from.
    refits : int
        Scheduled refits there were: after another one, `fit` is stale.
    fit : PatternFit or None
        None where the patterns in use predict better.
    found, pruned, merged : int
        Patterns.
    improvement : float
        By how much the bank's mean squared error on held-out outcomes is smaller with them.
    heads : dict of int to HeadRefit
        By route; without those that have too few outcomes.
    seconds : dict of str to float
        By part.
    """

    rows: int
    refits: int
    fit: PatternFit | None = None
    found: int = 0
    pruned: int = 0
    merged: int = 0
    improvement: float = 0.0
    heads: dict[int, HeadRefit] = dataclasses.field(default_factory=dict)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)


def find(memory: EngineMemory, config: SonaConfig, parts: frozenset[str] = PARTS) -> Findings:
    """Fit patterns and heads to the reservoir.

    Parameters
    ----------
    memory : EngineMemory
        Only read.
    config : SonaConfig
    parts : frozenset of str
        Of `PARTS`; consolidation is no matter of the reservoir, and done where it is installed.

    Returns
    -------
    Findings
    """
    seconds: dict[str, float] = {}
    with _timed(seconds, "reading"):
        snapshot, patterns, outcomes = _read(memory)
    findings = Findings(len(outcomes), snapshot.refits, seconds=seconds)
    if len(outcomes) < FEWEST_OUTCOMES:
        return findings
    with one_thread():
        if "patterns" in parts and needs_refits(config):
            with _timed(seconds, "patterns"):
                findings = _with_patterns(findings, outcomes, config)
        if "heads" in parts and "linear" in config.experts:
            with _timed(seconds, "heads"):
                heads = _heads(snapshot, patterns, outcomes, config.ewc_lambda)
                findings = dataclasses.replace(findings, heads=heads)
    return findings


@contextmanager
def _timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[part] = time.perf_counter() - started


def _read(memory: EngineMemory) -> tuple[Snapshot, Patterns, Outcomes]:
    geometry = memory.geometry
    reader = _core.Reader(memory.buffer("weights"), geometry)
    try:
        block, slow = reader._patterns()
        snapshot = Snapshot(block, geometry)
        end = snapshot.reservoir_position
        rows = reader._rows(max(0, end - geometry.reservoir), end)
    finally:
        reader._release()
    return snapshot, Patterns(slow, geometry), Outcomes.from_rows(rows, geometry)


def _with_patterns(findings: Findings, outcomes: Outcomes, config: SonaConfig) -> Findings:
    fit = fit_patterns(outcomes.embeddings, config.pattern_clusters, seed=findings.refits)
    tidy = prune_and_merge(fit, outcomes.embeddings)
    points = tidy.fit.projection.project(outcomes.embeddings)
    nearest = nearest_centroid(points, tidy.fit.centroids)
    improvement, error = bank_gain(outcomes, nearest, config.forgetting)
    # Without a bank in the mixture only the projection counts, and newer is better.
    better = improvement > MARGIN * error or "bank" not in config.experts
    return dataclasses.replace(
        findings,
        fit=tidy.fit if better else None,
        found=len(fit.sizes),
        pruned=tidy.pruned,
        merged=tidy.merged,
        improvement=improvement,
    )


def _heads(
    snapshot: Snapshot, patterns: Patterns, outcomes: Outcomes, strength: float
) -> dict[int, HeadRefit]:
    seen = linear_features(snapshot, patterns, outcomes.embeddings)
    heads = {}
    for route in range(snapshot.route_count):
        mine = outcomes.route == route
        rows = RouteOutcomes(
            seen[mine],
            outcomes.quality[mine],
            outcomes.linear[mine],
            outcomes.propensity[mine],
        )
        anchor = patterns.anchor(route) if strength > 0.0 else None
        held_to = HeldTo(anchor, strength) if anchor is not None else None
        refit = refit_head(rows, snapshot.head(route), snapshot.bias(route), held_to)
        if refit is not None:
            heads[route] = refit
    return heads


def linear_features(
    snapshot: Snapshot, patterns: Patterns, embeddings: NDArray[np.float32]
) -> NDArray[np.float32]:
    """What the linear expert sees of embeddings: adapted, centred, scaled."""
    micro = LoRA(snapshot.micro_a, snapshot.micro_b)
    base = LoRA(patterns.base_a, patterns.base_b)
    adapted = embeddings + micro.shift(embeddings) + base.shift(embeddings)
    scale = np.float32(1.0 / np.sqrt(max(snapshot.spread, _core.LEAST_SPREAD)))
    features: NDArray[np.float32] = (adapted - snapshot.feature_mean) * scale
    return features
