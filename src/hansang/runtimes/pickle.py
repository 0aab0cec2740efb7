"""Pickles that somebody trusts, by the hash of their very bytes: `hansang serve clf.pkl --trust sha256:...`.

Trust is given on the command line or in the configuration only, to content and not to a name or a place; so an upload
over HTTP whose bytes are trusted is served too, and any other is refused. In the server such a file is only a name:
it is unpickled in a process of its own, which has none of the server's secrets, and nowhere else.

What may come out: a scikit-learn estimator, a PyTorch module, a record of ours, an object with `predict` (its class is
imported from the file's own folder, as `model.py` beside it), or a function.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hansang.core.artifact import looks_like
from hansang.core.errors import LoadFailed
from hansang.core.model import LoadContext, Model
from hansang.core.source import HOSTED, TRUSTED, Source
from hansang.tasks.tabular import TABULAR

_NEVER = (".onnx", ".safetensors", ".json")
_TORCH_OLD = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_TORCH = (".pt", ".pth", ".pt2")


class PickleRuntime:
    """Claims whatever is trusted and may be a pickle, in whatever coat."""

    name = "pickle"
    sources = "a pickle that you trust (*.pkl, *.joblib, *.pt ... with --trust sha256:...)"

    def claims(self, source: Source) -> bool:
        return TRUSTED in source.options and source.suffix not in _NEVER

    def open(self, source: Source) -> Model:
        if HOSTED not in source.options:
            return TrustedPickle(source)
        return served(unpickle(source.file(), source.options[TRUSTED]), source)


class TrustedPickle(Model):
    """What stands for it in the server, until it has its process."""

    task = TABULAR
    placement = "process"

    def __init__(self, source: Source) -> None:
        self.source = source

    def load(self, context: LoadContext) -> None:
        """Only the process loads it, whatever the configuration says."""
        raise LoadFailed(
            f"{self.source.text} is a pickle, and runs in a process of its own or not at all.",
            hint='Take placement out of its configuration; it is "process".',
        )


def unpickle(path: Path, sha256: str) -> Any:
    """What a file holds. RUNS ITS CODE, so only bytes that have the trusted hash are opened: those, read once."""
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise LoadFailed(
            f"{path} is not the file that was trusted: its hash is sha256:{found}, not sha256:{sha256}.",
            hint="If you trust the new one as well, give --trust its hash.",
        )
    try:
        return _opened(path, data)
    except LoadFailed:
        raise
    except Exception as exc:
        raise _failed(path, data, exc) from exc


def _opened(path: Path, data: bytes) -> Any:
    """By the reader of its format."""
    if data.startswith(_TORCH_OLD) or (data.startswith(b"PK") and path.suffix != ".skops"):
        from hansang.runtimes.torch import need_torch

        return need_torch().load(io.BytesIO(data), map_location="cpu", weights_only=False)
    if path.suffix == ".skops":
        import skops.io

        return skops.io.loads(data, trusted=skops.io.get_untrusted_types(data=data))
    try:
        import joblib
    except ImportError:
        return pickle.loads(data)  # noqa: S301 - trusted, in a process of its own
    return joblib.load(io.BytesIO(data))


def _failed(path: Path, data: bytes, exc: Exception) -> LoadFailed:
    what, hint = looks_like(data[:64])
    message = f"{path} ({what}) cannot be unpickled: {type(exc).__name__}: {exc}"
    if isinstance(exc, AttributeError) and "__main__" in str(exc):
        hint = "Its class stood in the program that saved it. Move the class to model.py, import it there, save again."
    elif isinstance(exc, ModuleNotFoundError):
        hint = f"Put {exc.name}.py beside {path.name}, or install the package where hansang is installed."
    elif what == "a pickle":
        hint = "Was it saved by another version of its library?"
    return LoadFailed(message, hint=hint)


def served(thing: Any, source: Source) -> Model:
    """A model of what was unpickled."""
    path = source.file()
    kinds = {f"{cls.__module__}.{cls.__qualname__}" for cls in type(thing).__mro__}
    if "sklearn.base.BaseEstimator" in kinds:
        from hansang.runtimes.sklearn import SklearnModel

        return SklearnModel(path, thing)
    if "torch.nn.modules.module.Module" in kinds:
        from hansang.runtimes.torch import TorchModel

        return TorchModel(source, path, thing)
    if isinstance(thing, Mapping):
        return _of_mapping(thing, source, path)
    if isinstance(thing, Model) or callable(thing) or hasattr(thing, "predict"):
        from hansang.runtimes.function import as_model

        return as_model(thing, source.text, {"file": str(path)})
    raise LoadFailed(
        f"{path} holds a {type(thing).__name__}, which cannot answer: it has no predict.",
        hint="Save the model itself, not what it was trained with.",
    )


def _of_mapping(thing: Mapping[Any, Any], source: Source, path: Path) -> Model:
    if path.suffix.lower() in _TORCH:
        from hansang.runtimes.torch import TorchRuntime

        return TorchRuntime().open(source)
    from hansang.runtimes.records import from_record

    return from_record(lambda: thing, thing.get("format") == "hansang.mlp", path, "pickle")
