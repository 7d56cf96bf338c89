"""Adapters as Hugging Face PEFT stores them: ``adapter_config.json`` and safetensors.

Ours is a LoRA on an identity layer, ``Linear(hidden_dim, hidden_dim)`` without bias:
``lora_A.weight`` is A, ``lora_B.weight`` is B transposed, and the scale ``1/sqrt(rank)`` is that
of rank-stabilised LoRA with ``lora_alpha`` 1.

References
----------
PEFT, "PEFT checkpoint format", https://huggingface.co/docs/peft/developer_guides/checkpoint.
Kalajdzievski (2023), A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA,
arXiv:2312.03732.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Final

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from sona_shm.errors import ExportError, NonFiniteError, ShapeError
from sona_shm.export.directory import new_directory
from sona_shm.export.json_files import Fields, read_object
from sona_shm.learning.lora import MAX_RANK, LoRA

_CONFIG: Final = "adapter_config.json"
_WEIGHTS: Final = "adapter_model.safetensors"
#: What the layer under the adapter is called in the model that PEFT loads it into.
TARGET: Final = "identity"
#: Settings of PEFT under which an adapter is another function than ``x + scale * B A x``.
_UNLIKE_LORA: Final = (
    "alora_invocation_tokens",
    "alpha_pattern",
    "arrow_config",
    "bias",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "modules_to_save",
    "monteclora_config",
    "rank_pattern",
    "use_bdlora",
    "use_dora",
    "use_qalora",
)
#: Starting points that leave the layer below as it is; the others move a part of it into A and B.
_PLAIN_STARTS: Final = (True, False, "gaussian", "eva", "orthogonal")
_DTYPES: Final = ("F64", "F32", "F16")


def write_peft(directory: str | os.PathLike[str], adapter: LoRA) -> None:
    """Write an adapter as a directory that PEFT's ``PeftModel.from_pretrained`` loads.

    Parameters
    ----------
    directory : path
        Of what does not exist yet; it appears with both files, or not at all.
    adapter : LoRA
        a and b of float32, shape (rank, hidden_dim).

    Raises
    ------
    NonFiniteError
        If a weight is NaN or infinite.
    ExportError
        If the directory exists or cannot be written.

    Examples
    --------
    >>> import sona_shm as sona, tempfile
    >>> directory = Path(tempfile.mkdtemp(), "adapter")
    >>> write_peft(directory, sona.MicroLoRA(4, rank=2))
    >>> sorted(path.name for path in directory.iterdir())
    ['adapter_config.json', 'adapter_model.safetensors']

    References
    ----------
    PEFT, "PEFT checkpoint format",
    https://huggingface.co/docs/peft/developer_guides/checkpoint.
    """
    _require_finite(adapter, "the adapter")
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "target_modules": [TARGET],
        "r": adapter.rank,
        "lora_alpha": 1,
        "use_rslora": True,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    layer = f"base_model.model.{TARGET}"
    # The format stores memory as it lies, so a transposed view must become an array of its own.
    weights = safetensors.numpy.save(
        {
            f"{layer}.lora_A.weight": np.ascontiguousarray(adapter.a),
            f"{layer}.lora_B.weight": np.ascontiguousarray(adapter.b.T),
        },
        metadata={"format": "pt"},
    )
    with new_directory(directory) as work:
        (work / _CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        (work / _WEIGHTS).write_bytes(weights)


def read_peft(directory: str | os.PathLike[str]) -> LoRA:
    """Read an adapter that `write_peft`, or PEFT's own ``save_pretrained``, has written.

    Our scale is ``1/sqrt(rank)``; another one (``lora_alpha``, ``use_rslora``) is folded into B,
    so that `LoRA.forward` computes what PEFT does on an identity layer.

    Parameters
    ----------
    directory : path
        With ``adapter_config.json`` and ``adapter_model.safetensors``: one LoRA on one square
        layer, of rank 1 to 64, in float64, float32 or float16.

    Returns
    -------
    LoRA

    Raises
    ------
    ExportError
        If a file is absent or broken, or the adapter is something else than one plain LoRA.
    ShapeError
        If the weights do not have the shapes that the configuration tells.
    NonFiniteError
        If a weight is NaN or infinite.

    Examples
    --------
    >>> import sona_shm as sona, tempfile
    >>> directory = Path(tempfile.mkdtemp(), "adapter")
    >>> write_peft(directory, sona.MicroLoRA(4, rank=2))
    >>> read_peft(directory).forward([1.0, 2.0, 3.0, 4.0])
    array([1., 2., 3., 4.], dtype=float32)

    References
    ----------
    Kalajdzievski (2023), A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA,
    arXiv:2312.03732.
    """
    config = read_object(Path(directory) / _CONFIG)
    rank, factor = _checked_config(config)
    a, b = _read_weights(Path(directory) / _WEIGHTS)
    if a.shape[0] != rank or a.shape[1] < 1 or b.shape != (a.shape[1], rank):
        raise ShapeError(
            f"{directory}: lora_A has shape {a.shape} and lora_B {b.shape}, expected ({rank}, n) "
            f"and (n, {rank}): one layer that takes and gives embeddings of one length"
        )
    with np.errstate(over="ignore"):
        b = factor * b.T.astype(np.float64)
        adapter = LoRA(*(w.astype(np.float32, order="C") for w in (a, b)))
    _require_finite(adapter, f"the adapter in {directory}")
    return adapter


def _checked_config(config: Fields) -> tuple[int, float]:
    """The rank, and PEFT's scale as a multiple of ours."""
    config.text("peft_type", ("LORA",))
    for name in _UNLIKE_LORA:
        if config.get(name, None) not in (None, False, "none", {}, []):
            raise config.refusal(name, "an adapter without it: one plain LoRA")
    if config.get("init_lora_weights", True) not in _PLAIN_STARTS:
        raise config.refusal(
            "init_lora_weights",
            "a start that leaves the layer below as it is; convert the adapter to a plain LoRA "
            "(path_initial_model_for_weight_conversion of save_pretrained)",
        )
    rank = config.integer("r", 1, MAX_RANK)
    alpha = config.number("lora_alpha")
    stabilised = config.get("use_rslora", False)
    if not isinstance(stabilised, bool):
        raise config.refusal("use_rslora", "true or false")
    return rank, alpha if stabilised else alpha / math.sqrt(rank)


def _read_weights(path: Path) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """lora_A and lora_B, as they are stored."""
    try:
        with safetensors.safe_open(path, framework="np") as file:
            names = sorted(file.keys())
            stem = names[0].removesuffix("lora_A.weight") if names else ""
            if names != [f"{stem}lora_A.weight", f"{stem}lora_B.weight"]:
                raise ExportError(
                    f"{path} holds {', '.join(names) or 'nothing'}; expected the lora_A.weight and "
                    "lora_B.weight of one layer"
                )
            for name in names:
                part = file.get_slice(name)
                if part.get_dtype() not in _DTYPES or len(part.get_shape()) != 2:
                    raise ExportError(
                        f"{path}: {name} is {part.get_dtype()} of shape {part.get_shape()}, "
                        f"expected a matrix of {', '.join(_DTYPES)}; convert it to float32"
                    )
            return file.get_tensor(names[0]), file.get_tensor(names[1])
    except (OSError, safetensors.SafetensorError) as error:
        raise ExportError(
            f"cannot read {path}: {error}; expected what PEFT's save_pretrained writes"
        ) from None


def _require_finite(adapter: LoRA, what: str) -> None:
    if not (np.isfinite(adapter.a).all() and np.isfinite(adapter.b).all()):
        raise NonFiniteError(f"{what} holds NaN or infinity, expected finite numbers")
