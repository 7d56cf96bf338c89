"""``Engine.export`` and ``sona export``: what is in the files, and what happens to bad ones."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import sona_shm as sona
from sona_shm.export.preferences import preference_pairs
from tests.conftest import remove_everything
from tests.exports import (
    DIM,
    QUALITY,
    ROUTES,
    adapt,
    config,
    documented_code,
    embeddings,
    published,
    teach,
)
from tests.test_cli import PATIENCE, sona_command

FILES = [
    "base_lora/adapter_config.json",
    "base_lora/adapter_model.safetensors",
    "micro_lora/adapter_config.json",
    "micro_lora/adapter_model.safetensors",
    "patterns.jsonl",
    "preferences.jsonl",
]


@pytest.fixture
def engine(name: str, rng: np.random.Generator) -> Iterator[sona.Engine]:
    with sona.Engine.create(name, config(), "inline") as engine:
        teach(engine, rng)
        yield engine


def files(directory: Path) -> list[str]:
    return sorted(str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file())


def strict_lines(path: Path) -> list[dict[str, Any]]:
    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is no JSON")

    text = path.read_text(encoding="utf-8")
    assert text.endswith("\n")
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


# ---- adapters ----


def test_an_export_is_these_files_and_nothing_beside_them(
    engine: sona.Engine, tmp_path: Path
) -> None:
    summary = engine.export(tmp_path / "deep" / "out")
    assert files(tmp_path) == [f"deep/out/{file}" for file in FILES]
    assert summary.version == published(engine)[0].version > 0
    assert summary.patterns == len(strict_lines(tmp_path / "deep/out/patterns.jsonl")) > 0
    assert summary.preferences == len(strict_lines(tmp_path / "deep/out/preferences.jsonl")) > 0


def test_the_micro_lora_s_files_compute_what_apply_does(
    engine: sona.Engine, tmp_path: Path, rng: np.random.Generator
) -> None:
    engine.export(tmp_path / "out")
    about = json.loads((tmp_path / "out/micro_lora/adapter_config.json").read_text())
    weights = safetensors.numpy.load_file(tmp_path / "out/micro_lora/adapter_model.safetensors")
    a = weights["base_model.model.identity.lora_A.weight"]
    b = weights["base_model.model.identity.lora_B.weight"]
    assert (a.shape, b.shape) == ((2, DIM), (DIM, 2))
    assert about["use_rslora"] and about["r"] == 2
    # Of about unit length: float32 rounds larger numbers by more than the tolerance.
    x = (rng.standard_normal((50, DIM)) / math.sqrt(DIM)).astype(np.float32)
    expected = adapt(x, a, b.T, about["lora_alpha"] / math.sqrt(about["r"]))
    assert np.abs(expected - x).max() > 1e-2
    np.testing.assert_allclose(engine.apply(x), expected, atol=1e-6)


def test_an_adapter_that_is_read_back_is_the_same_to_the_bit(
    engine: sona.Engine, tmp_path: Path, rng: np.random.Generator
) -> None:
    engine.export(tmp_path / "out")
    adapter = sona.read_peft(tmp_path / "out" / "micro_lora")
    for x in rng.standard_normal((20, DIM)):
        np.testing.assert_array_equal(adapter.forward(x), engine.apply(x))


def test_without_consolidations_the_base_lora_is_the_identity(
    engine: sona.Engine, tmp_path: Path
) -> None:
    engine.export(tmp_path / "out")
    adapter = sona.read_peft(tmp_path / "out" / "base_lora")
    assert adapter.rank == engine.config.base_lora_rank
    np.testing.assert_array_equal(adapter.forward(np.ones(DIM)), np.ones(DIM, np.float32))


@pytest.mark.parametrize("rank", [1, 2, 3, 64])
def test_every_rank_is_written_and_read(
    rank: int, tmp_path: Path, rng: np.random.Generator
) -> None:
    a, b = rng.standard_normal((2, rank, 5)).astype(np.float32)
    sona.write_peft(tmp_path / "out", sona.MicroLoRA.from_weights(a, b))
    adapter = sona.read_peft(tmp_path / "out")
    np.testing.assert_array_equal(adapter.a, a)
    np.testing.assert_array_equal(adapter.b, b)


def test_an_adapter_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    adapter = sona.MicroLoRA(4)
    adapter.b[0, 2] = np.nan
    with pytest.raises(sona.NonFiniteError):
        sona.write_peft(tmp_path / "out", adapter)
    assert list(tmp_path.iterdir()) == []


# ---- patterns ----


def test_patterns_come_back_as_they_were(engine: sona.Engine, tmp_path: Path) -> None:
    engine.export(tmp_path / "out")
    routes, patterns = sona.read_patterns(tmp_path / "out" / "patterns.jsonl")
    assert routes == ROUTES
    bank = engine.reasoning_bank()
    for read, known in zip(patterns, bank.patterns, strict=True):
        for field in dataclasses.fields(sona.LearnedPattern):
            a, b = getattr(read, field.name), getattr(known, field.name)
            np.testing.assert_array_equal(a, b)
            assert np.asarray(a).dtype == np.asarray(b).dtype
    again = sona.ReasoningBank(bank.projection, patterns)
    x = np.eye(DIM, dtype=np.float32)[0]
    assert [p.id for p in again.find_patterns(x, 3)] == [p.id for p in bank.find_patterns(x, 3)]


def test_a_route_without_outcomes_has_the_quality_null(
    name: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    with sona.Engine.create(name, config(), "inline") as engine:
        for x in embeddings(rng, rng.integers(0, 3, 100)):
            engine.observe(x, ROUTES[0], 0.5)
        engine.export(tmp_path / "out")
    row = strict_lines(tmp_path / "out" / "patterns.jsonl")[0]
    assert row["routes"][ROUTES[1]] == {"quality": None, "weight": 0.0}
    _, patterns = sona.read_patterns(tmp_path / "out" / "patterns.jsonl")
    assert np.isnan(patterns[0].route_quality[1:]).all()


def test_an_engine_without_routes_exports_no_patterns(name: str, tmp_path: Path) -> None:
    with sona.Engine.create(name, sona.SonaConfig(hidden_dim=4)) as engine:
        assert engine.export(tmp_path / "out") == (0, 0, 0)
    assert files(tmp_path / "out") == FILES
    assert sona.read_patterns(tmp_path / "out" / "patterns.jsonl") == ((), [])
    assert sona.read_preferences(tmp_path / "out" / "preferences.jsonl") == []


# ---- preferences ----


def test_preferences_name_the_routes_that_are_better_there(
    engine: sona.Engine, tmp_path: Path
) -> None:
    engine.export(tmp_path / "out")
    pairs = sona.read_preferences(tmp_path / "out" / "preferences.jsonl")
    seen = set()
    for pair in pairs:
        direction = int(np.argmax(pair.prompt_embedding))
        chosen, rejected = ROUTES.index(pair.chosen), ROUTES.index(pair.rejected)
        seen.add((direction, chosen, rejected))
        assert pair.weight >= 5.0
        assert pair.margin > 0.0
        if direction < 2:
            expected = QUALITY[direction, chosen] - QUALITY[direction, rejected]
            assert pair.margin == pytest.approx(expected, abs=0.15)
    assert {(0, 0, 2), (1, 1, 0)} <= seen


def test_preferences_follow_their_formula(engine: sona.Engine) -> None:
    snapshot, patterns = published(engine)
    cells = np.array([snapshot.bank(k) for k in range(len(ROUTES))])
    expected = set()
    for j in range(patterns.count):
        for p, q in combinations(range(len(ROUTES)), 2):
            (n1, s1, v1), (n2, s2, v2) = cells[[p, q], j].astype(float)
            if min(n1, n2) < 5:
                continue
            m1, m2 = s1 / n1, s2 / n2
            scatter = max(v1 - s1 * m1, 0.0) + max(v2 - s2 * m2, 0.0)
            error = ((scatter + 0.2) / (n1 + n2) * (1 / n1 + 1 / n2)) ** 0.5
            if abs(m1 - m2) > 2 * error:
                expected.add((j, ROUTES[p if m1 > m2 else q], ROUTES[q if m1 > m2 else p]))
    found = list(preference_pairs(ROUTES, patterns.full_centroids, cells))
    assert {(pair.pattern, pair.chosen, pair.rejected) for pair in found} == expected
    assert len(found) == len(expected) > 0


@pytest.mark.parametrize(
    ("first", "second", "pairs"),
    [
        ((20, 0.9), (20, 0.2), 1),
        ((20, 0.5), (20, 0.5), 0),
        ((4, 1.0), (20, 0.0), 0),  # too few outcomes
        ((5, 1.0), (5, 0.9), 0),  # they agree, and are few
        ((90, 1.0), (90, 0.9), 1),
    ],
)
def test_only_clear_differences_are_preferences(
    first: tuple[int, float], second: tuple[int, float], pairs: int
) -> None:
    cells = np.array([[(n, n * mean, n * mean**2)] for n, mean in (first, second)], np.float32)
    centroids = np.ones((1, 2), np.float32)
    assert len(list(preference_pairs(["a", "b"], centroids, cells))) == pairs


# ---- where it is written ----


def test_what_exists_is_not_overwritten(engine: sona.Engine, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    for taken in (tmp_path, tmp_path / "mine"):
        with pytest.raises(sona.ExportError, match="exists already"):
            engine.export(taken)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_place_that_cannot_be_written_is_an_error_that_names_it(
    engine: sona.Engine, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no directory")
    with pytest.raises(sona.ExportError, match=r"cannot write .*file/out"):
        engine.export(tmp_path / "file" / "out")
    assert files(tmp_path) == ["file"]


def test_odd_paths_are_errors_too(
    engine: sona.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(sona.ExportError, match=r"cannot write .*loop"):
        engine.export(tmp_path / "loop")
    with pytest.raises(sona.ExportError, match="exists already"):
        engine.export("/")
    assert [path.name for path in tmp_path.iterdir()] == ["loop"]
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(sona.ExportError, match="No such file or directory"):
        engine.export("out")


def test_a_killed_writer_leaves_nothing_under_the_name(tmp_path: Path) -> None:
    program = (
        "import sys; from sona_shm.export.directory import new_directory\n"
        "with new_directory(sys.argv[1]) as work:\n"
        "    (work / 'half').write_text('half'); print('writing', flush=True); sys.stdin.read()\n"
    )
    target = tmp_path / "out"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(target)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
        writer.kill()
        writer.wait(PATIENCE)
    assert not target.exists()
    sona.write_peft(target, sona.MicroLoRA(4))
    assert sona.read_peft(target).rank == 1


# ---- the command ----


def test_the_command_exports_from_another_process_without_a_learner(
    engine: sona.Engine, tmp_path: Path
) -> None:
    engine.close()
    done = sona_command("export", engine.name, str(tmp_path / "out"), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    printed = json.loads(done.stdout)
    assert files(tmp_path / "out") == FILES
    assert printed["directory"] == str(tmp_path / "out")
    assert printed["patterns"] == len(strict_lines(tmp_path / "out" / "patterns.jsonl"))
    assert printed["preferences"] > 0
    assert printed["version"] > 0


def test_the_command_says_what_it_wrote(engine: sona.Engine, tmp_path: Path) -> None:
    done = sona_command("export", engine.name, str(tmp_path / "out"))
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("micro_lora", "base_lora", "patterns", "preference pairs", str(tmp_path / "out")):
        assert word in done.stdout


def test_the_command_refuses_in_one_line(engine: sona.Engine, tmp_path: Path) -> None:
    done = sona_command("export", engine.name, str(tmp_path))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "exists already" in done.stderr
    done = sona_command("export", "t-nowhere", str(tmp_path / "out"))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert not (tmp_path / "out").exists()


def test_the_document_s_code_works_as_pasted() -> None:
    code = documented_code()[0].replace('"first"', '"t-doc-1"').replace('"second"', '"t-doc-2"')
    try:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    finally:
        remove_everything("t-doc-1")
        remove_everything("t-doc-2")
    assert (done.returncode, done.stderr) == (0, "")
    assert "('small', 'large')" in done.stdout
    assert done.stdout.endswith(" large\n")
