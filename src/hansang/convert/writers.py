"""Writes what a file held in another format, reads that back, and compares: each says what it compared.

Data must come back equal to the bit; a program (ONNX) must answer random rows as the model does.
"""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from hansang.convert.perceptron_graph import perceptron_graph
from hansang.convert.things import Estimator, Module, Record, Tensors
from hansang.core.errors import HansangError, LoadFailed
from hansang.core.model import Call, CallContext, LoadContext, Model
from hansang.core.signature import Field
from hansang.runtimes import records
from hansang.runtimes.sklearn import SklearnModel, open_skops
from hansang.runtimes.torch import need_torch
from hansang.tasks.tabular import Table
from hansang.training.onnx_graph import save_onnx
from hansang.training.saving import save_record, tensors, without_tensors

_ROWS = 200
_NUMPY = {"tensor(string)": "object", "tensor(double)": "float64"}
_RELATIVE, _ABSOLUTE = 1e-3, 1e-4


def _record_as_data(format_: str) -> Callable[[Record, Path], str]:
    def write(thing: Record, file: Path) -> str:
        save_record(thing.data, format_, file)
        back = records.read(file)
        if isinstance(bias := back.get("bias"), list):
            back["bias"] = bias[0]  # a tensor is never a bare number
        arrays, others = tensors(thing.data), tensors(back)
        _check(without_tensors(thing.data) == without_tensors(back), "what is said beside the numbers")
        return _compared(arrays, others)

    return write


def _record_to_onnx(thing: Record, file: Path) -> str:
    network = thing.data["format"] == "hansang.mlp"
    model = records.from_record(lambda: dict(thing.data), network, file, "record")
    file.touch()
    model.load(LoadContext())
    assert model.signature is not None
    if network:
        save_onnx(thing.data, file)
    else:
        names = [field.name for field in model.signature.inputs]
        file.write_bytes(perceptron_graph(names, thing.data["weights"], thing.data["bias"]))
    return _same_answers(model, model.signature.inputs, file, flat=True)


def _tensors_to_safetensors(thing: Tensors, file: Path) -> str:
    arrays, library = dict(thing.arrays), "numpy"
    if any(hasattr(array, "detach") for array in arrays.values()):
        torch, library = need_torch(), "torch"
        arrays = {name: torch.as_tensor(array).detach().cpu().clone().contiguous() for name, array in arrays.items()}
    else:
        import numpy as np

        arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    reader = import_module(f"safetensors.{library}")
    try:
        reader.save_file(arrays, file)
    except Exception as exc:
        raise LoadFailed(f"These arrays cannot be written as safetensors: {exc}") from None
    file.chmod(0o644)
    return _compared(arrays, reader.load_file(file))


def _module_to_safetensors(thing: Module, file: Path) -> str:
    return _tensors_to_safetensors(Tensors(thing.module.state_dict()), file)


def _module_to_onnx(thing: Module, file: Path) -> str:
    torch = need_torch()
    if thing.row is None or None in thing.row:
        raise LoadFailed(
            "The shape of a row is not known, so the module cannot be traced.",
            hint="Give a row: --sample '[0.0, 0.0]'",
        )
    shape = thing.row
    generator = torch.Generator().manual_seed(0)
    whole = not thing.dtype.startswith("float")

    def rows(count: int) -> Any:
        made = torch.zeros if whole else lambda *sizes: torch.randn(*sizes, generator=generator)
        return made(count, *shape).to(getattr(torch, thing.dtype))

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                thing.module, (rows(2),), str(file), dynamo=True, external_data=False, verbose=False,
                input_names=["inputs"], dynamic_shapes=({0: torch.export.Dim("rows")},),
            )  # fmt: skip
    except ImportError as exc:
        raise LoadFailed(f"Writing ONNX needs {exc.name}.", hint='pip install "hansang[torch]"') from None
    except Exception as exc:
        lines = str(exc).strip().splitlines() or [type(exc).__name__]
        raise LoadFailed(
            f"PyTorch cannot export this module as ONNX: {lines[0][:300]}",
            hint="Export it where it was made: torch.onnx.export(model, (batch,), FILE, dynamo=True)",
        ) from None
    session = _session(file)
    for count in (1, 2, 7):
        batch = rows(count)
        with torch.inference_mode():
            out = thing.module(batch)
        outs = list(out.values()) if isinstance(out, Mapping) else [out] if isinstance(out, torch.Tensor) else list(out)
        answers = session.run(None, {session.get_inputs()[0].name: batch.numpy()})
        _check(len(outs) == len(answers), "the number of outputs")
        for one, other in zip(outs, answers, strict=True):
            _check_close("outputs", one.numpy(), other)
    return "the answers to batches of 1, 2 and 7 random rows, close"


def _estimator_to_skops(thing: Estimator, file: Path) -> str:
    import skops.io

    skops.io.dump(thing.estimator, file)
    back = open_skops(file)
    numbers = _Same()
    _check(numbers.of(thing.estimator, back), numbers.where)
    return f"{numbers.count:,} numbers, equal to the bit"


def _estimator_to_onnx(thing: Estimator, file: Path) -> str:
    try:
        from skl2onnx import to_onnx
        from skl2onnx.common.data_types import FloatTensorType, StringTensorType
    except ImportError:
        raise LoadFailed("scikit-learn models become ONNX with skl2onnx.", hint='pip install "hansang[ml]"') from None
    from sklearn.base import is_classifier

    file.touch()
    model = SklearnModel(file, copy.deepcopy(thing.estimator))
    model.load(LoadContext())
    if model.signature is None:
        raise LoadFailed(f"A {type(thing.estimator).__name__} does not say what it takes.")
    fields = model.signature.inputs
    types = [
        (field.name, (StringTensorType if field.dtype == "string" else FloatTensorType)([None, *(field.shape or (1,))]))
        for field in fields
    ]
    options = {"zipmap": False} if is_classifier(thing.estimator) else None
    try:
        made = to_onnx(thing.estimator, initial_types=types, options=options)
    except Exception as exc:
        raise LoadFailed(f"skl2onnx cannot convert this {type(thing.estimator).__name__}: {exc}") from None
    file.write_bytes(made.SerializeToString())
    return _same_answers(model, fields, file)


def _same_answers(model: Model, fields: Sequence[Field], file: Path, *, flat: bool = False) -> str:
    """Whether an ONNX file answers random rows as `model` does."""
    import numpy as np

    session = _session(file)
    columns = _random_columns(fields)
    (answer,) = model.predict([Call(Table(columns, _ROWS), CallContext("convert", float("inf")))])  # type: ignore[misc]
    if isinstance(answer, HansangError):
        raise answer
    asked = {}
    types = {one.name: _NUMPY.get(one.type, "float32") for one in session.get_inputs()}
    for field in fields:
        array = np.array(columns[field.name], dtype=types[field.name])
        asked[field.name] = array if flat or field.shape else array[:, None]
    outs = session.run(None, asked)
    for (name, values), other in zip(answer.columns.items(), outs, strict=False):
        _check_close(name, np.asarray(values), np.asarray(other))
    return f"the answers to {_ROWS} random rows: {', '.join(answer.columns)}"


def _random_columns(fields: Sequence[Field]) -> dict[str, Any]:
    """Rows of many sizes, all float32; of texts only those that are known."""
    import numpy as np

    random = np.random.default_rng(0)
    scales = 10.0 ** random.uniform(-2, 2, size=_ROWS)
    columns: dict[str, Any] = {}
    for field in fields:
        if field.choices or field.dtype == "string":
            known = field.choices or ("text",)
            columns[field.name] = [known[n] for n in random.integers(len(known), size=_ROWS)]
        else:
            sizes = scales.reshape(_ROWS, *[1] * len(field.shape))
            rows = random.normal(size=(_ROWS, *[size or 1 for size in field.shape])) * sizes
            columns[field.name] = rows.astype(np.float32).astype(float).tolist()
    return columns


def _session(file: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def _check(same: bool, what: str) -> None:
    if not same:
        raise LoadFailed(f"What was written is not what was read: {what} differ. Nothing was kept.")


def _check_close(name: str, one: Any, other: Any) -> None:
    """Labels equal, numbers close."""
    import numpy as np

    other = other.reshape(one.shape) if one.size == other.size else other
    _check(one.shape == other.shape, f"the shapes of {name}")
    if one.dtype.kind == "f":
        close = np.allclose(one, other, rtol=_RELATIVE, atol=_ABSOLUTE, equal_nan=True)
        _check(close, f"{name}, by up to {float(np.nanmax(np.abs(one - other))):g},")
    else:
        _check(one.tolist() == other.tolist(), name)


def _compared(arrays: Mapping[str, Any], others: Mapping[str, Any]) -> str:
    """Whether arrays are the same to the bit, and how many numbers they have."""
    same = _Same()
    _check(
        arrays.keys() == others.keys() and same.of(dict(arrays), {name: others[name] for name in arrays}), same.where
    )
    return f"{same.count:,} numbers, equal to the bit"


class _Same:
    """Whether two objects are of the same types and hold the same numbers, to the bit. `where` it first differs."""

    def __init__(self) -> None:
        self.count = 0
        self.where = "names"
        self._seen: set[int] = set()

    def of(self, one: Any, other: Any, where: str = "numbers") -> bool:
        if id(one) in self._seen:
            return True
        same = type(one) is type(other) and self._parts(one, other, where)
        if not same and self.where == "names":
            self.where = where
        return same

    def _parts(self, one: Any, other: Any, where: str, numbers: int | None = None) -> bool:
        if isinstance(one, dict):
            return one.keys() == other.keys() and all(self.of(one[key], other[key], str(key)) for key in one)
        if isinstance(one, list | tuple):
            return len(one) == len(other) and all(map(self.of, one, other, [where] * len(one)))
        if hasattr(one, "detach"):
            return one.dtype == other.dtype and self._parts(_bytes(one), _bytes(other), where, one.numel())
        if hasattr(one, "tobytes"):
            self.count += getattr(one, "size", 1) if numbers is None else numbers
            if one.dtype.kind == "O":
                return self.of(one.tolist(), other.tolist(), where)
            return bool(one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes())
        if hasattr(one, "__dict__") and not isinstance(one, type) and not callable(one):
            self._seen.add(id(one))
            return self.of(vars(one), vars(other), where)
        return bool(one == other) or pickle.dumps(one) == pickle.dumps(other)


def _bytes(tensor: Any) -> Any:
    """A PyTorch tensor's shape and bytes, as an array; NumPy does not know all its types."""
    import torch

    return tensor.contiguous().reshape(*tensor.shape, 1).view(torch.uint8).numpy()


WRITERS: dict[tuple[type, str], Callable[[Any, Path], str]] = {
    (Record, "json"): _record_as_data("json"),
    (Record, "safetensors"): _record_as_data("safetensors"),
    (Record, "onnx"): _record_to_onnx,
    (Tensors, "safetensors"): _tensors_to_safetensors,
    (Estimator, "skops"): _estimator_to_skops,
    (Estimator, "onnx"): _estimator_to_onnx,
    (Module, "safetensors"): _module_to_safetensors,
    (Module, "onnx"): _module_to_onnx,
}
