"""Reading adapters, patterns and preferences; engines that start from an adapter."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import sona_shm as sona
from tests.conftest import leftovers
from tests.exports import DIM, adapt, config, published, teach, write_foreign


def weights(rng: np.random.Generator, rank: int, dim: int = DIM) -> Any:
    return rng.standard_normal((2, rank, dim)).astype(np.float32)


def constant(a: float, b: float) -> sona.MicroLoRA:
    shape = (1, DIM)
    return sona.MicroLoRA.from_weights(np.full(shape, a, np.float32), np.full(shape, b, np.float32))


# ---- adapters of other programs ----


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({"lora_alpha": 1, "use_rslora": True}, 1 / math.sqrt(3)),
        ({"lora_alpha": 6.5, "use_rslora": True}, 6.5 / math.sqrt(3)),
        ({"lora_alpha": 16}, 16 / 3),
        ({"lora_alpha": 0, "use_rslora": False}, 0.0),
    ],
)
def test_a_foreign_scale_is_folded_into_b(
    settings: dict[str, Any], scale: float, dtype: Any, tmp_path: Path, rng: np.random.Generator
) -> None:
    # Not so large that what cancels out is more than the tolerance of what is left.
    a, b = (0.3 * weights(rng, 3)).astype(dtype)
    write_foreign(tmp_path / "foreign", a, b, **settings)
    adapter = sona.read_peft(tmp_path / "foreign")
    x = rng.standard_normal(DIM).astype(np.float32)
    np.testing.assert_allclose(adapter.forward(x), adapt(x, a, b, scale), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA'"),
        ({"r": 0}, "r is 0"),
        ({"r": 65}, "r is 65"),
        ({"r": 2.5}, "r is 2.5"),
        ({"r": True}, "r is True"),
        ({"lora_alpha": None}, "lora_alpha is None"),
        ({"lora_alpha": "1"}, "lora_alpha is '1'"),
        ({"lora_alpha": 10**400}, "lora_alpha is 1000"),
        ({"use_rslora": "yes"}, "use_rslora is 'yes'"),
        ({"use_dora": True}, "use_dora is True"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"rank_pattern": {"q": 4}}, "rank_pattern is"),
        ({"modules_to_save": ["head"]}, "modules_to_save is"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
    ],
)
def test_a_configuration_that_is_no_plain_lora_is_refused(
    settings: dict[str, Any], word: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    write_foreign(tmp_path / "foreign", *weights(rng, 2), **settings)
    with pytest.raises(sona.ExportError) as refused:
        sona.read_peft(tmp_path / "foreign")
    assert word in str(refused.value)
    assert "adapter_config.json" in str(refused.value)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"r": NaN}', "[" * 10**5, '"x"', "\xff"])
def test_a_configuration_that_is_no_json_object_is_refused(
    text: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    write_foreign(tmp_path / "foreign", *weights(rng, 2))
    (tmp_path / "foreign" / "adapter_config.json").write_text(text, encoding="latin-1")
    with pytest.raises(sona.ExportError, match=r"adapter_config\.json"):
        sona.read_peft(tmp_path / "foreign")


def changed(tensors: dict[str, Any], change: str) -> dict[str, Any]:
    a, b = tensors
    if change == "a third":
        return tensors | {"base_model.model.head.weight": np.zeros(1, np.float32)}
    if change == "another layer's":
        return {a: tensors[a], b.replace("out", "in"): tensors[b]}
    if change == "none":
        return {}
    if change == "integers":
        return {name: tensor.astype(np.int32) for name, tensor in tensors.items()}
    return {name: tensor.reshape(-1) for name, tensor in tensors.items()}


@pytest.mark.parametrize("change", ["a third", "another layer's", "none", "integers", "flat"])
def test_weights_that_are_not_one_lora_are_refused(
    change: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    tensors = write_foreign(tmp_path / "foreign", *weights(rng, 2))
    file = tmp_path / "foreign" / "adapter_model.safetensors"
    safetensors.numpy.save_file(changed(tensors, change), file)
    with pytest.raises(sona.ExportError, match=r"adapter_model\.safetensors"):
        sona.read_peft(tmp_path / "foreign")


def test_weights_that_are_cut_short_or_absent_are_refused(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    write_foreign(tmp_path / "foreign", *weights(rng, 2))
    file = tmp_path / "foreign" / "adapter_model.safetensors"
    whole = file.read_bytes()
    for length in (0, 4, 100, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(sona.ExportError, match="cannot read"):
            sona.read_peft(tmp_path / "foreign")
    file.unlink()
    with pytest.raises(sona.ExportError, match="cannot read"):
        sona.read_peft(tmp_path / "foreign")
    with pytest.raises(sona.ExportError, match="cannot read"):
        sona.read_peft(tmp_path / "nowhere")


def test_shapes_that_do_not_fit_are_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    a, b = weights(rng, 2)
    write_foreign(tmp_path / "rank", a, b, r=3)
    write_foreign(tmp_path / "square", a, b[:, :5])
    for directory in ("rank", "square"):
        with pytest.raises(sona.ShapeError, match=rf"lora_A has shape \(2, {DIM}\)"):
            sona.read_peft(tmp_path / directory)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path, rng: np.random.Generator) -> None:
    a, b = weights(rng, 2)
    write_foreign(tmp_path / "large", a, b, lora_alpha=1e300)
    a[1, 3] = np.nan
    write_foreign(tmp_path / "nan", a, b)
    for directory in ("large", "nan"):
        with pytest.raises(sona.NonFiniteError, match=directory):
            sona.read_peft(tmp_path / directory)


# ---- engines that start from an adapter ----


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_an_engine_publishes_the_adapter_as_its_base_lora(
    rank: int, name: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    a, b = weights(rng, rank)
    write_foreign(tmp_path / "foreign", a, b, lora_alpha=4)
    x = rng.standard_normal((20, DIM)).astype(np.float32)
    expected = adapt(x, a, b, 4 / rank)
    adapter = sona.read_peft(tmp_path / "foreign")
    with sona.Engine.create(name, config(), adapter=adapter) as engine:
        _, slow = published(engine)
        assert slow.consolidations == 1
        found = adapt(x, slow.base_a, slow.base_b, 1 / math.sqrt(engine.config.base_lora_rank))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
        engine.export(tmp_path / "again")
    again = sona.read_peft(tmp_path / "again" / "base_lora")
    np.testing.assert_array_equal(again.a, slow.base_a)
    np.testing.assert_array_equal(again.b, slow.base_b)


def test_apply_adds_the_adapter_that_the_engine_started_from(
    name: str, rng: np.random.Generator
) -> None:
    a, b = 0.3 * weights(rng, 3)
    adapter = sona.MicroLoRA.from_weights(a, b)
    x = rng.standard_normal((20, DIM)).astype(np.float32)
    with sona.Engine.create(name, config(), adapter=adapter) as engine:
        found = engine.apply(x)
    np.testing.assert_allclose(found, adapt(x, a, b, 1 / math.sqrt(3)), rtol=1e-5, atol=1e-5)


def test_an_adapter_of_the_same_rank_is_published_as_it_is(
    name: str, rng: np.random.Generator
) -> None:
    a, b = weights(rng, 8)
    adapter = sona.MicroLoRA.from_weights(a, b)
    with sona.Engine.create(name, config(), adapter=adapter) as engine:
        _, slow = published(engine)
    np.testing.assert_array_equal(slow.base_a, a)
    np.testing.assert_array_equal(slow.base_b, b)


def test_the_adapter_stays_while_patterns_are_fitted_anew(
    name: str, rng: np.random.Generator
) -> None:
    a, b = 0.1 * weights(rng, 8)
    adapter = sona.MicroLoRA.from_weights(a, b)
    with sona.Engine.create(name, config(), "inline", adapter=adapter) as engine:
        teach(engine, rng)
        snapshot, slow = published(engine)
    assert snapshot.refits > 0
    np.testing.assert_array_equal(slow.base_a, a)
    np.testing.assert_array_equal(slow.base_b, b)


@pytest.mark.parametrize(
    ("adapter", "error", "word"),
    [
        (sona.MicroLoRA(DIM, rank=9), sona.ConfigError, "rank 9"),
        (sona.MicroLoRA(DIM + 1), sona.ShapeError, f"{DIM + 1} dimensions"),
        (
            constant(np.inf, 0.0),
            sona.NonFiniteError,
            "infinity",
        ),
        (
            constant(1.0, 3e38),
            sona.NonFiniteError,
            "infinity",
        ),
        ("somewhere", sona.ConfigError, "read_peft"),
    ],
)
def test_an_adapter_that_does_not_fit_makes_no_engine(
    adapter: Any, error: type[Exception], word: str, name: str
) -> None:
    with pytest.raises(error, match=word):
        sona.Engine.create(name, config(), adapter=adapter)
    assert leftovers(name) == []


# ---- lines ----

PATTERN = {
    "id": 0,
    "pattern_type": "general",
    "cluster_size": 3,
    "total_weight": 2.0,
    "avg_quality": 0.5,
    "created_at": 1.0,
    "last_accessed": 2.0,
    "access_count": 4,
    "routes": {"a": {"quality": 0.5, "weight": 2.0}, "b": {"quality": None, "weight": 0.0}},
    "centroid": [1.0, 0.0],
}
PAIR = {
    "pattern": 0,
    "chosen": "a",
    "rejected": "b",
    "chosen_quality": 0.75,
    "rejected_quality": 0.5,
    "margin": 0.25,
    "weight": 9.0,
    "prompt_embedding": [1.0, 0.0],
}
READERS: dict[str, Any] = {"patterns": sona.read_patterns, "preferences": sona.read_preferences}
GOOD: dict[str, dict[str, Any]] = {"patterns": PATTERN, "preferences": PAIR}
SEEN = {"quality": 0.5, "weight": 2.0}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", READERS)
def test_good_lines_are_read_and_further_fields_passed_over(kind: str, tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", GOOD[kind], GOOD[kind] | {"note": "mine"})
    read = READERS[kind](file)
    assert len(read.patterns if kind == "patterns" else read) == 2


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("patterns", "id", -1),
        ("patterns", "id", 2**63),
        ("patterns", "pattern_type", "magic"),
        ("patterns", "cluster_size", 1.5),
        ("patterns", "total_weight", -1.0),
        ("patterns", "avg_quality", "0.5"),
        ("patterns", "created_at", True),
        ("patterns", "last_accessed", None),
        ("patterns", "access_count", []),
        ("patterns", "routes", []),
        ("patterns", "routes", {"a": 3}),
        ("patterns", "routes", {"a": SEEN, "b": {"quality": "NaN", "weight": 1.0}}),
        ("patterns", "routes", {"b": SEEN, "a": SEEN}),
        ("patterns", "centroid", []),
        ("patterns", "centroid", [1.0, None]),
        ("patterns", "centroid", [1.0, 1e39]),
        ("patterns", "centroid", [1.0, 10**400]),
        ("patterns", "centroid", [1.0, 0.0, 0.0]),
        ("preferences", "pattern", "0"),
        ("preferences", "chosen", ""),
        ("preferences", "rejected", "a"),
        ("preferences", "chosen_quality", None),
        ("preferences", "rejected_quality", {}),
        ("preferences", "margin", 0.3),
        ("preferences", "margin", -0.25),
        ("preferences", "weight", -9.0),
        ("preferences", "prompt_embedding", "x"),
    ],
)
def test_a_wrong_field_is_named_with_file_and_line(
    kind: str, field: str, value: object, tmp_path: Path
) -> None:
    file = write(tmp_path / "rows.jsonl", GOOD[kind], GOOD[kind] | {field: value})
    with pytest.raises(sona.ExportError) as refused:
        READERS[kind](file)
    assert f"{file}, line 2" in str(refused.value)
    assert field in str(refused.value)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("kind", READERS)
def test_a_missing_field_is_named(kind: str, tmp_path: Path) -> None:
    for field in GOOD[kind]:
        row = {name: value for name, value in GOOD[kind].items() if name != field}
        with pytest.raises(sona.ExportError, match=f"line 1: {field} is missing"):
            READERS[kind](write(tmp_path / "rows.jsonl", row))


@pytest.mark.parametrize("line", [b"\n", b"{\n", b"[]\n", b'{"weight": NaN}\n', b"\xff\n", b"["])
@pytest.mark.parametrize("kind", READERS)
def test_a_line_that_is_no_json_object_is_named(kind: str, line: bytes, tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", GOOD[kind])
    file.write_bytes(file.read_bytes() + line)
    with pytest.raises(sona.ExportError, match="line 2"):
        READERS[kind](file)


@pytest.mark.parametrize("number", ["1e999", "-1e999"])
def test_a_number_that_overflows_is_refused(number: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(PAIR).replace("0.75", number) + "\n")
    with pytest.raises(sona.ExportError, match=r"line 1: chosen_quality is -?inf"):
        sona.read_preferences(file)
