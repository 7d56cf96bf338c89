"""The demonstration learns, on the digits and on real routing data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import shared_file
from tests.test_cli import sona_command


def demo(*arguments: str) -> dict[str, Any]:
    done = sona_command("demo", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_the_digits_are_learned_from_bandit_feedback() -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    result = demo()
    assert result["requests"] == 20_000
    assert result["last_quarter"] >= 0.80
    assert result["last_quarter"] > result["first_quarter"] > result["random"]
    assert result["learned"] + sum(result["losses"].values()) == 20_000


def test_real_routing_data_is_learned() -> None:
    result = demo("--data", str(shared_file("data", "llmrouter9.npz")))
    assert result["last_quarter"] >= 0.49
    assert result["requests"] == 2 * 3593
    assert result["learned"] + sum(result["losses"].values()) == result["requests"]


def write_npz(path: Path, **changes: object) -> str:
    rng = np.random.default_rng(0)
    arrays: dict[str, object] = {
        "embedding": rng.standard_normal((20, 3)),
        "quality": np.full((20, 2), 0.5),
        "cost": np.zeros(2),
        "models": np.array(["a", "b"]),
    }
    np.savez(path, **(arrays | changes))  # type: ignore[arg-type]  # arrays by name
    return str(path)


def test_a_stream_without_anything_to_learn_exits_with_1(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "flat.npz")
    done = sona_command("demo", "--data", path, "--requests", "40", "--workers", "1", "--json")
    assert done.returncode == 1
    assert "not better than random" in done.stderr
    assert json.loads(done.stdout)["last_quarter"] == 0.5


@pytest.mark.parametrize(
    "changes", [{"quality": np.zeros((20, 3))}, {"cost": np.zeros(5)}, {"embedding": np.zeros(3)}]
)
def test_shapes_that_do_not_fit_are_named(changes: dict[str, object], tmp_path: Path) -> None:
    done = sona_command("demo", "--data", write_npz(tmp_path / "wrong.npz", **changes))
    assert done.returncode == 1
    assert "expected (N, d), (N, K)" in done.stderr


def test_an_absent_file_is_named() -> None:
    done = sona_command("demo", "--data", "absent.npz")
    assert done.returncode == 1
    assert "cannot read absent.npz" in done.stderr
