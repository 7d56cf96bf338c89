"""The real PEFT loads our adapters, and we load its own.

Everything is compared on an identity layer, on which a LoRA is what our adapters are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import sona_shm as sona
from tests.exports import DIM, config, documented_code, teach

REASON = "peft and torch are not installed here; run: make test-peft"
torch: Any = pytest.importorskip("torch", reason=REASON)
peft: Any = pytest.importorskip("peft", reason=REASON)


def identity_model() -> Any:
    """A model whose one layer gives what it takes, under the name that our adapters are for."""

    class Identity(torch.nn.Module):  # type: ignore[misc]  # torch may be absent
        def __init__(self) -> None:
            super().__init__()
            self.identity = torch.nn.Linear(DIM, DIM, bias=False)
            torch.nn.init.eye_(self.identity.weight)

        def forward(self, x: Any) -> Any:
            return self.identity(x)

    return Identity()


def computed(model: Any, x: NDArray[np.float32]) -> NDArray[np.float32]:
    model.eval()
    with torch.no_grad():
        result: NDArray[np.float32] = model(torch.from_numpy(x)).numpy()
    return result


def rows(rng: np.random.Generator) -> NDArray[np.float32]:
    """Of about unit length."""
    x: NDArray[np.float64] = rng.standard_normal((100, DIM)) / np.sqrt(DIM)
    return x.astype(np.float32)


def random_adapter(rng: np.random.Generator, rank: int) -> sona.MicroLoRA:
    a, b = (0.3 * rng.standard_normal((2, rank, DIM))).astype(np.float32)
    return sona.MicroLoRA.from_weights(a, b)


def test_peft_computes_our_micro_lora(name: str, tmp_path: Path, rng: np.random.Generator) -> None:
    x = rows(rng)
    with sona.Engine.create(name, config(), "inline") as engine:
        teach(engine, rng)
        engine.export(tmp_path / "out")
        expected = engine.apply(x)
    assert np.abs(expected - x).max() > 1e-2
    model = peft.PeftModel.from_pretrained(identity_model(), tmp_path / "out" / "micro_lora")
    np.testing.assert_allclose(computed(model, x), expected, atol=1e-6)


def test_peft_computes_our_base_lora(name: str, tmp_path: Path, rng: np.random.Generator) -> None:
    x = rows(rng)
    with sona.Engine.create(name, config(), adapter=random_adapter(rng, 5)) as engine:
        engine.export(tmp_path / "out")
        expected = engine.apply(x)
    assert np.abs(expected - x).max() > 1e-2
    model = peft.PeftModel.from_pretrained(identity_model(), tmp_path / "out" / "base_lora")
    np.testing.assert_allclose(computed(model, x), expected, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"r": 4, "lora_alpha": 10},
        {"r": 4, "lora_alpha": 10, "use_rslora": True},
        {"r": 8, "lora_alpha": 16, "lora_dropout": 0.5},
        {"r": 1, "lora_alpha": 1, "init_lora_weights": "gaussian"},
    ],
)
def test_we_compute_what_peft_saved(
    settings: dict[str, Any],
    name: str,
    tmp_path: Path,
    rng: np.random.Generator,
) -> None:
    torch.manual_seed(int(rng.integers(2**31)))
    about = peft.LoraConfig(target_modules=["identity"], **settings)
    model = peft.get_peft_model(identity_model(), about)
    torch.nn.init.normal_(model.base_model.model.identity.lora_B["default"].weight, std=0.1)
    model.save_pretrained(tmp_path / "saved")
    x = rows(rng)
    adapter = sona.read_peft(tmp_path / "saved")
    expected = computed(model, x)
    np.testing.assert_allclose([adapter.forward(row) for row in x], expected, atol=1e-6)
    with sona.Engine.create(name, config(), adapter=adapter) as engine:
        np.testing.assert_allclose(engine.apply(x), expected, atol=1e-6)


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"init_lora_weights": "pissa"}])
def test_what_peft_saved_and_is_no_plain_lora_is_refused(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    about = peft.LoraConfig(r=2, target_modules=["identity"], **settings)
    peft.get_peft_model(identity_model(), about).save_pretrained(tmp_path / "saved")
    with pytest.raises(sona.ExportError, match=next(iter(settings))):
        sona.read_peft(tmp_path / "saved")


def test_the_document_s_model_adds_both_tiers(
    name: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    x = rows(rng)
    with sona.Engine.create(name, config(), "inline", adapter=random_adapter(rng, 8)) as engine:
        teach(engine, rng)
        engine.export(tmp_path / "out")
        expected = engine.apply(x)
    names: dict[str, Any] = {"hidden_dim": DIM, "directory": tmp_path / "out"}
    exec(documented_code()[1], names)
    np.testing.assert_allclose(computed(names["model"], x), expected, atol=1e-6)
