"""A checkpoint file, damaged at random again and again: each is refused, or is what it was."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import sona_shm as sona
from sona_shm.checkpoint.format import read_checkpoint
from tests.checkpoints import learn_something, small_config, state_of
from tests.torture.processes import Report


def corrupt(data: bytes, rng: np.random.Generator) -> bytes:
    """One of many kinds of damage, somewhere; half of them near the header."""
    end = min(len(data), 4096) if rng.integers(2) else len(data)
    at = int(rng.integers(end))
    length = int(rng.integers(1, 1 + int(rng.choice([1, 8, 64, 4096]))))
    damaged = bytearray(data)
    kind = int(rng.integers(9))
    if kind == 0:
        damaged[at] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        damaged[at : at + length] = rng.bytes(length)
    elif kind == 2:
        damaged = damaged[:at]
    elif kind == 3:
        damaged[at:at] = rng.bytes(length)
    elif kind == 4:
        del damaged[at : at + length]
    elif kind == 5:
        damaged[at : at + length] = bytes(len(damaged[at : at + length]))
    elif kind == 6:
        damaged[at : at + length] = damaged[-length:]
    elif kind == 7:
        damaged[:8] = int(rng.integers(2**63)).to_bytes(8, "little")
    else:
        damaged += rng.bytes(length)
    return bytes(damaged)


def corrupt_files(name: str, seed: int, corruptions: int) -> Report:
    """Damage the file of an engine that has learned a bit of everything."""
    report = Report("corrupted checkpoints")
    rng = np.random.default_rng(seed)
    refused = unchanged = 0
    with tempfile.TemporaryDirectory(prefix="checkpoint-") as directory:
        path = Path(directory, "saved.safetensors")
        with sona.Engine.create(name, small_config(reservoir=64), "inline") as engine:
            learn_something(engine, rng, 300)
            engine.save(path)
            saved = state_of(engine)
        sona.Engine.destroy(name)
        data = path.read_bytes()
        for _ in range(corruptions):
            path.write_bytes(corrupt(data, rng))
            try:
                unchanged += read_checkpoint(path).state.equals(saved)
            except sona.CheckpointError:
                refused += 1
    report.figures = {"bytes": len(data), "refused": refused, "as it was": unchanged}
    report.check(
        refused + unchanged == corruptions,
        f"{corruptions - refused - unchanged} damaged files were restored as something else",
    )
    return report
