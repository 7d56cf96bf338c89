"""One published version as files; see `Engine.export`."""

from __future__ import annotations

import os
from typing import NamedTuple

from sona_shm.export.directory import new_directory
from sona_shm.export.patterns import write_patterns
from sona_shm.export.peft import write_peft
from sona_shm.export.preferences import preference_pairs, write_preferences
from sona_shm.learning.lora import LoRA
from sona_shm.learning.snapshot import Patterns, Snapshot
from sona_shm.loops.patterns import bank_cells, published_bank
from sona_shm.shm.layout import Geometry


class ExportSummary(NamedTuple):
    """What was exported.

    Attributes
    ----------
    version : int
        Of the published weights.
    patterns : int
    preferences : int
        Lines of the two files.

    Examples
    --------
    >>> ExportSummary(version=7, patterns=100, preferences=42).patterns
    100
    """

    version: int
    patterns: int
    preferences: int


def export_version(
    directory: str | os.PathLike[str], block: bytes, slow: bytes, geometry: Geometry
) -> ExportSummary:
    """Write the adapters, patterns and preference pairs of one published version."""
    snapshot, patterns = Snapshot(block, geometry), Patterns(slow, geometry)
    bank = published_bank(block, slow, geometry)
    routes = [row.name for row in snapshot.routes()]
    pairs = list(preference_pairs(routes, patterns.full_centroids, bank_cells(snapshot)))
    with new_directory(directory) as work:
        write_peft(work / "micro_lora", LoRA(snapshot.micro_a, snapshot.micro_b))
        write_peft(work / "base_lora", LoRA(patterns.base_a, patterns.base_b))
        write_patterns(work / "patterns.jsonl", routes, bank.patterns)
        write_preferences(work / "preferences.jsonl", pairs)
    return ExportSummary(snapshot.version, len(bank.patterns), len(pairs))
