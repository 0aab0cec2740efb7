"""Models saved as a record of plain numbers: perceptrons (also hand-written JSON) and our trainer's networks.

    *.json          the record
    *.safetensors   weights as tensors, the rest under `hansang` in the header
    *.pkl           a pickle that holds nothing but data: opening it here can import and call nothing

A pickle with anything else in it is refused, by the first name that it would import. `*.pt` is the torch runtime's.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from hansang.core.artifact import first_bytes, looks_like
from hansang.core.errors import LoadFailed
from hansang.core.model import Model
from hansang.core.source import Source
from hansang.runtimes.mlp import MLP
from hansang.runtimes.perceptron import Perceptron

_LARGEST = 64 * 2**20
_BEGINNING = 2**16
_PICKLES = (".pkl", ".pickle")


class RecordRuntime:
    """Claims JSON, pickles, and safetensors files that our trainers wrote."""

    name = "records"
    sources = "a perceptron or a network of ours (*.json, *.safetensors, *.pkl)"

    def claims(self, source: Source) -> bool:
        if source.suffix == ".safetensors":
            return source.path is not None and source.path.is_file() and is_ours(source.path)
        return source.suffix in _READERS

    def open(self, source: Source) -> Model:
        path = source.file()
        reader = _READERS[source.suffix]
        return from_record(lambda: reader(path), _is_network(path), path, _NAMES[source.suffix])


def is_ours(path: Path) -> bool:
    """Whether a safetensors file is one that our trainers wrote."""
    return b'"hansang"' in _header(path)


def read(path: Path) -> Any:
    """The record in a file, as its ending says."""
    return _READERS[path.suffix.lower()](path)


def from_record(read: Callable[[], Any], network: bool, path: Path, container: str) -> Model:
    """The model of a record that is read when it loads."""
    return MLP(read, path, container) if network else Perceptron(read, path, container)


def _is_network(path: Path) -> bool:
    """In every container the record's format stands near the beginning."""
    if path.stat().st_size > _LARGEST:
        raise LoadFailed(f"{path} is larger than {_LARGEST} bytes, too large for a record.", hint="Is it a model?")
    with path.open("rb") as file:
        return b"hansang.mlp" in file.read(_BEGINNING)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as exc:
        what, hint = looks_like(first_bytes(path))
        raise LoadFailed(f"{path} is not JSON text (byte {exc.start}) but {what}.", hint=hint) from None
    except json.JSONDecodeError as exc:
        raise LoadFailed(
            f"{path} is not a saved perceptron: it is not JSON ({exc.msg} at character {exc.pos}).",
            hint="Was it copied to its end?",
        ) from None
    except (ValueError, RecursionError):
        raise LoadFailed(f"{path} holds a number too long, or lists too deep.", hint="Save it again.") from None


class _DataOnly(pickle.Unpickler):
    """An unpickler that can make numbers, texts, lists and dictionaries, and nothing else."""

    def find_class(self, module_name: str, global_name: str, /) -> NoReturn:
        raise LoadFailed(
            f"This pickle would import {module_name}.{global_name}; a pickle is never run unasked.",
            hint="Convert it: hansang models convert FILE; or, if you made it, trust it: --trust sha256:HASH",
        )

    def persistent_load(self, pid: Any) -> NoReturn:
        raise LoadFailed("This pickle refers to objects outside of itself.", hint="Save plain numbers.")


def _read_pickle(path: Path) -> Any:
    with path.open("rb") as file:
        try:
            return _DataOnly(file).load()
        except LoadFailed as exc:
            raise LoadFailed(f"{path}: {exc.message}", hint=exc.hint) from None
        except Exception as exc:
            what, hint = looks_like(first_bytes(path))
            raise LoadFailed(f"{path} is not a whole pickle ({exc}); it begins as {what}.", hint=hint) from None


def _header(path: Path) -> bytes:
    """A safetensors file's header: 8 bytes of length, then JSON."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return file.read(min(length, _LARGEST))


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays = load_file(path)
        record: dict[str, Any] = json.loads(json.loads(_header(path))["__metadata__"]["hansang"])
        return with_tensors(record, {name: array.tolist() for name, array in arrays.items()})
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise LoadFailed(f"{path} is not a whole safetensors file of ours: {exc}.", hint="Save it again.") from None


def with_tensors(record: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """A record put together from its JSON and its tensors, as `training.saving` took it apart."""
    if record.get("format") == "hansang.perceptron":
        return {**record, "weights": values.get("weight"), "bias": values.get("bias")}
    layers: list[Any] = []
    while (name := f"layers.{len(layers)}") + ".weight" in values:
        layers.append({"weight": values[f"{name}.weight"], "bias": values[f"{name}.bias"]})
    return {**record, "layers": layers}


_READERS: dict[str, Callable[[Path], Any]] = {
    ".json": _read_json,
    ".safetensors": _read_safetensors,
    **dict.fromkeys(_PICKLES, _read_pickle),
}
_NAMES = {".json": "JSON", ".safetensors": "safetensors", **dict.fromkeys(_PICKLES, "pickle (data only)")}
