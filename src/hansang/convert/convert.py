"""Turns a saved model into a format that is safe to share: JSON, skops, safetensors or ONNX.

A pickle that holds a perceptron, a network of ours or a dict of arrays is read as data; no code of it runs. Any other
must be trusted by its hash, and is then unpickled, which `apart` does in a process without secrets. What is written
is read back and compared before it gets its name. It trains nothing, and serves nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hansang.convert.things import Estimator, Module, Record, Tensors, Thing
from hansang.convert.writers import WRITERS
from hansang.core.errors import HansangError, LoadFailed, UnsafeArtifact
from hansang.core.model import LoadContext
from hansang.core.source import CLASS, Source
from hansang.registry.pickles import convert_pickle_to_perceptron, read_record
from hansang.registry.safety import check_artifact, file_hash
from hansang.runtimes import records, torch_files
from hansang.runtimes.pickle import unpickle
from hansang.runtimes.sklearn import open_skops
from hansang.runtimes.torch import TorchModel, load_weights, record_of
from hansang.scheduling.child import ask_once

FORMATS = ("json", "skops", "safetensors", "onnx")
_TORCH = (".pt", ".pth", ".pt2")
_USUAL: dict[type, str] = {Record: "json", Tensors: "safetensors", Estimator: "skops", Module: "safetensors"}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to convert, and into what. `to` None: the format that fits best. `trusted`: sha256 of what may run."""

    path: Path
    to: str | None = None
    class_: str | None = None
    sample: Any = None
    trusted: str | None = None


def convert_file(wanted: Wanted, output: Path | None, trust: tuple[str, ...]) -> tuple[Path, str]:
    """Convert a file into `output` (default: beside it): where it is, and what was compared. Raises HansangError."""
    path = Source(str(wanted.path), path=wanted.path).file().resolve()
    wanted = replace(wanted, path=path)
    if output is not None and wanted.to is None:
        wanted = replace(wanted, to=output.suffix.lstrip(".").lower())
    folder = path.parent if output is None else output.resolve().parent
    if not folder.is_dir():
        raise LoadFailed(f"There is no folder {folder}.", hint="Make it first, or name another with --output.")
    with tempfile.TemporaryDirectory(prefix=".hansang-", dir=folder) as temporary:
        target = Path(temporary) / "converted"
        try:
            check_artifact(path)
        except UnsafeArtifact as refusal:
            told = _unsafe(wanted, target, trust, refusal)
        else:
            told = convert(wanted, target)
        made = target.with_suffix("." + told["format"])
        check_artifact(made)
        output = output or path.with_suffix(made.suffix)
        if output.resolve() == path:
            raise LoadFailed(f"{path} would be overwritten.", hint="Name another with --output.")
        made.replace(output)
    return output, str(told["compared"])


def _unsafe(wanted: Wanted, target: Path, trust: tuple[str, ...], refusal: UnsafeArtifact) -> Mapping[str, Any]:
    """As data where that is possible, else in a process apart if it is trusted."""
    digest = file_hash(wanted.path)
    if f"sha256:{digest}" in trust:
        return _apart(replace(wanted, trusted=digest), target)
    try:
        return convert(wanted, target)
    except LoadFailed as exc:
        why = exc.message
    except UnsafeArtifact as exc:
        why = exc.message.removeprefix(refusal.message).strip() or "It cannot be converted without running it."
    to = f" --to {wanted.to}" if wanted.to else ""
    raise UnsafeArtifact(
        f"{refusal.message}\n{why}",
        hint="If you trust whoever made it with everything you may do on this machine, it can be converted in a "
        f"process of its own: hansang models convert {wanted.path}{to} --trust sha256:{digest}",
    )


def _apart(wanted: Wanted, target: Path) -> Mapping[str, Any]:
    question = {"op": "convert", "wanted": {**asdict(wanted), "path": str(wanted.path)}, "file": str(target)}
    answer = ask_once(question, wanted.path.name)
    if "error" in answer:
        raise LoadFailed(str(answer["error"]["message"]), hint=answer["error"].get("hint"))
    told = answer["told"]
    if told["format"] not in FORMATS:
        raise LoadFailed(f"The process for {wanted.path.name} gave what is no answer.")
    return told  # type: ignore[no-any-return]


def convert(wanted: Wanted, file: Path) -> dict[str, str]:
    """Write `file` with the ending of its format: that format, and what was compared. Trusted files run here."""
    thing = _read(wanted)
    to = wanted.to or _USUAL[type(thing)]
    writer = WRITERS.get((type(thing), to))
    if writer is None:
        known = ", ".join(format_ for kind, format_ in WRITERS if kind is type(thing))
        raise LoadFailed(
            f"{wanted.path.name} holds {thing.what}, which cannot be made {to}.", hint=f"It can be made {known}."
        )
    return {"format": to, "compared": writer(thing, file.with_suffix("." + to))}


def _read(wanted: Wanted) -> Thing:
    path = wanted.path
    if wanted.trusted is not None:
        return _thing(unpickle(path, wanted.trusted), wanted)
    suffix = path.suffix.lower()
    if suffix == ".skops":
        return Estimator(open_skops(path))
    if suffix == ".json":
        return _record(records.read(path))
    if suffix == ".safetensors":
        return _safetensors(wanted)
    if suffix in _TORCH:
        return _torch(wanted)
    if suffix == ".onnx":
        raise LoadFailed(f"{path.name} is ONNX already, which nothing else is made of.")
    return _pickled_data(path)


def _pickled_data(path: Path) -> Thing:
    """A pickle as data. Raises UnsafeArtifact if only its code could tell what it holds."""
    data = read_record(path)
    if isinstance(data, dict) and data.get("format") == "hansang.mlp":
        return Record(data)
    try:
        return _record(convert_pickle_to_perceptron(path))
    except LoadFailed:
        if _is_state(data):
            return Tensors(data)
        raise


def _record(record: Any) -> Record:
    """A perceptron's JSON may be written by hand, and then does not say what it is."""
    if isinstance(record, Mapping) and "weights" in record:
        record = {"format": "hansang.perceptron", **record}
    if not isinstance(record, Mapping) or record.get("format") not in ("hansang.perceptron", "hansang.mlp"):
        raise LoadFailed("This is neither a perceptron nor a network of ours.", hint='{"weights": [0.5], "bias": 0}')
    return Record(record)


def _is_state(data: Any) -> bool:
    return (
        isinstance(data, Mapping)
        and bool(data)
        and all(isinstance(key, str) and hasattr(value, "shape") for key, value in data.items())
    )


def _safetensors(wanted: Wanted) -> Thing:
    from safetensors.numpy import load_file

    if records.is_ours(wanted.path):
        return _record(records.read(wanted.path))
    return _with_class(wanted) if wanted.class_ else Tensors(load_file(wanted.path))


def _torch(wanted: Wanted) -> Thing:
    """PyTorch's files, but no full pickles."""
    kind = torch_files.kind_of(wanted.path)
    if kind != "saved" or wanted.class_:
        return _with_class(wanted)
    saved = load_weights(wanted.path)
    if isinstance(saved, Mapping) and isinstance(saved.get("hansang"), str):
        return _record(record_of(saved, wanted.path))
    return _thing(saved, wanted)


def _with_class(wanted: Wanted) -> Module:
    """The module that the torch runtime makes of a file."""
    options = {CLASS: wanted.class_} if wanted.class_ else {}
    model = TorchModel(Source(str(wanted.path), path=wanted.path, options=options), wanted.path)
    return _module(model, wanted)


def _module(model: TorchModel, wanted: Wanted) -> Module:
    model.load(LoadContext(sample=wanted.sample))
    field = model.signature.inputs[0] if model.signature else None
    return Module(model.module, field.shape if field else None, field.dtype if field else "float32")


def _thing(found: Any, wanted: Wanted) -> Thing:
    """What an opened file holds."""
    kinds = {f"{cls.__module__}.{cls.__qualname__}" for cls in type(found).__mro__}
    if "sklearn.base.BaseEstimator" in kinds:
        return Estimator(found)
    if "torch.nn.modules.module.Module" in kinds:
        model = TorchModel(Source(str(wanted.path), path=wanted.path), wanted.path, found)
        return _module(model, wanted)
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if _is_state(found):
        return Tensors(found)
    state = found if isinstance(found, Mapping) else vars(found) if hasattr(found, "__dict__") else {}
    if "weights" in state and "bias" in state:
        return _record(_plain_perceptron(state))
    raise LoadFailed(
        f"{wanted.path.name} holds a {type(found).__name__}, which no converter knows.",
        hint="Known are perceptrons, scikit-learn estimators, PyTorch modules and dicts of arrays.",
    )


def _plain_perceptron(state: Mapping[str, Any]) -> dict[str, Any]:
    try:
        weights = [float(value) for value in state["weights"]]
        bias = state["bias"]
        return {"weights": weights, "bias": float(bias[0] if hasattr(bias, "__len__") else bias)}
    except (TypeError, ValueError, IndexError) as exc:
        raise HansangError(f"Its weights and bias are no numbers: {exc}.") from None
