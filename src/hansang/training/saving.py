"""Saves what our trainers make: one record of plain numbers, in the container that was asked for.

    json          the record, readable
    pickle        the record, with nothing in it but data: opening it imports and calls nothing
    safetensors   weights as tensors, the rest in the header
    torch         weights as a state dict, the rest as JSON text; opens with `weights_only=True`
    onnx          a graph any ONNX runtime runs (`onnx_graph`)

A record is read back bit-equal from each but ONNX, which is a program.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hansang.core.errors import LoadFailed


def save_record(record: Mapping[str, Any], saved_as: str, file: Path) -> Path:
    """Write `record` to `file`. Raises LoadFailed if the container's library is missing."""
    if saved_as == "json":
        file.write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")
    elif saved_as == "pickle":
        file.write_bytes(pickle.dumps(dict(record), protocol=4))
    elif saved_as == "safetensors":
        _save_safetensors(record, file)
    elif saved_as == "torch":
        _save_torch(record, file)
    else:
        raise AssertionError(f"no container {saved_as}")
    return file


def tensors(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record's numbers as arrays, by the names that containers of tensors use."""
    import numpy as np

    if record["format"] == "hansang.perceptron":
        return {"weight": np.array(record["weights"]), "bias": np.array([record["bias"]])}
    named = {}
    for number, layer in enumerate(record["layers"]):
        named[f"layers.{number}.weight"] = np.array(layer["weight"], dtype=np.float32)
        named[f"layers.{number}.bias"] = np.array(layer["bias"], dtype=np.float32)
    return named


def without_tensors(record: Mapping[str, Any]) -> str:
    """The rest of the record, as JSON."""
    return json.dumps(
        {key: value for key, value in record.items() if key not in ("weights", "bias", "layers")}, ensure_ascii=False
    )


def _save_safetensors(record: Mapping[str, Any], file: Path) -> None:
    from safetensors.numpy import save_file

    save_file(tensors(record), file, metadata={"hansang": without_tensors(record)})
    file.chmod(0o644)


def _save_torch(record: Mapping[str, Any], file: Path) -> None:
    torch = need_torch()
    state = {name: torch.from_numpy(values) for name, values in tensors(record).items()}
    torch.save({"hansang": without_tensors(record), "state_dict": state}, file)


def need_torch() -> Any:
    """PyTorch, or LoadFailed with the command that installs it."""
    try:
        import torch
    except ImportError:
        raise LoadFailed("This needs PyTorch, which is not installed.", hint='pip install "hansang[torch]"') from None
    return torch
