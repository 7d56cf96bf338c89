"""The torture scenarios in short form; ``make torture`` runs the long one."""

from __future__ import annotations

import numpy as np
import pytest

from tests.torture.background import kill_cycles
from tests.torture.bit_equal import compare_killed_with_unkilled
from tests.torture.checkpoints import kill_while_saving
from tests.torture.kills import kill_learners, kill_workers
from tests.torture.mixed_versions import read_against_tight_writer


def seed_of(rng: np.random.Generator) -> int:
    return int(rng.integers(2**32))


def test_workers_killed_inside_their_calls(name: str, rng: np.random.Generator) -> None:
    report = kill_workers(name, seed_of(rng), kills=25)
    assert report.problems == []


def test_learners_killed_under_load(name: str, rng: np.random.Generator) -> None:
    report = kill_learners(name, seed_of(rng), kills=10)
    assert report.problems == []


def test_cycles_killed_under_load(name: str, rng: np.random.Generator) -> None:
    report = kill_cycles(name, seed_of(rng), kills=3)
    assert report.problems == []


@pytest.mark.parametrize("update_rule", ["exact", "reference"])
def test_final_weights_after_kills_are_those_of_an_unkilled_learner(
    name: str, rng: np.random.Generator, update_rule: str
) -> None:
    report = compare_killed_with_unkilled(name, seed_of(rng), 8, update_rule)
    assert report.problems == []


def test_learners_killed_while_checkpoints_are_written(name: str, rng: np.random.Generator) -> None:
    report = kill_while_saving(name, seed_of(rng), kills=12)
    assert report.problems == []


def test_learners_killed_while_checkpoints_are_written_beside_loop_b(
    name: str, rng: np.random.Generator
) -> None:
    report = kill_while_saving(name, seed_of(rng), kills=12, cycles=True)
    assert report.problems == []


def test_readers_never_see_a_mixed_version(name: str, rng: np.random.Generator) -> None:
    report = read_against_tight_writer(name, seed_of(rng), reads=100_000, writer_kills=4)
    assert report.problems == []
