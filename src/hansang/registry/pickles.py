"""Opens a pickle without running it: as data, and as records of what its objects would be.

Nothing is imported and no class of the pickle's is made. Its objects become `{"class": "model.GateModel", "state":
{...}}`; NumPy's arrays are built here from their bytes. What would need a function to be called, other than the few
that only hold data, is refused with the report. What it gives is for converting, not for serving.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from hansang.core.errors import LoadFailed, UnsafeArtifact
from hansang.registry import npy
from hansang.registry.archives import allowed, is_tar
from hansang.registry.byte_stream import Broken, Budget
from hansang.registry.coats import stretch, unpacked
from hansang.registry.pickle_machine import Limits, walk
from hansang.registry.pickle_names import today
from hansang.registry.pickle_values import (
    Array,
    Box,
    Dtype,
    Import,
    Made,
    Unknown,
    Value,
    describe,
    dtype_of,
    instance_class,
    printable,
    shape_of,
)
from hansang.registry.safety import Report, inspect_file

_LIMITS = Limits(operations=2_000_000, stack=500_000, memo=500_000, bytes_kept=2**26, items_kept=1_000_000)
_MOST_PARTS = 1_000_000
_DEEP = 100
_MOST_KEY = 2**60
_MOST_BYTES = 2**28
_BYTES_OF_A_PART = 64
_NUMBERS = "biuf"
_INPUTS = {"NOT": 1, "AND": 2, "OR": 2, "NAND": 2, "NOR": 2, "XOR": 2, "XNOR": 2}
_WEIGHTS, _BIAS = ("weights", "weight", "w"), ("bias", "b")


def read_record(path: Path) -> Any:
    """What a pickle (also of joblib, also compressed) holds.

    Raises UnsafeArtifact with the report if that cannot be told without running it, LoadFailed if it is no pickle.
    """
    report = inspect_file(path)
    if not report.pickles or report.problems or len(report.pickles) > 1:
        why = "It is not one whole pickle." if report.is_safe else "It cannot be converted."
        raise LoadFailed(f"{report.text()} {why}", hint="Give a file that pickle.dump or joblib.dump wrote.")
    if any(found.danger == "dangerous" for found in report.imports):
        raise _refusal(report, "it imports what no model needs")
    try:
        return _Data().of(_stand_in(path))
    except Broken as exc:
        raise _refusal(report, str(exc)) from None


def convert_pickle_to_perceptron(path: Path) -> dict[str, Any]:
    """A perceptron that was pickled, as an object or a dict, in the form of a perceptron's JSON. Nothing is run.

    It must have weights and a bias, and may have a `gate_type`. Raises as `read_record` does, and LoadFailed if there
    is no perceptron in it. That it answers 1 from a weighted sum of 0 on is taken for granted: its code is not read.
    """
    state = _perceptron(path, read_record(path))
    weights = _vector(path, "weights", _first(state, _WEIGHTS))
    bias = _vector(path, "bias", _first(state, _BIAS))
    if len(bias) != 1:
        raise _no_perceptron(path, f"its bias is {len(bias)} numbers, expected one")
    converted: dict[str, Any] = {"weights": weights, "bias": bias[0]}
    gate = state.get("gate_type")
    if isinstance(gate, str) and gate:
        inputs = _INPUTS.get(gate.upper(), len(weights))
        if inputs != len(weights):
            raise _no_perceptron(
                path,
                f"it is a {gate} gate, which takes {inputs} input{'s'[: inputs - 1]}, and has {len(weights)} weights",
            )
        converted["title"] = gate
    return converted


def _stand_in(path: Path) -> Value:
    """The object, of stand-ins. Raises Broken."""
    size = path.stat().st_size
    if size > _MOST_BYTES:
        raise Broken(f"it has {size:,} bytes; {_MOST_BYTES:,} is the most")
    budget = Budget(min(allowed(size), _MOST_BYTES))
    with path.open("rb") as file:
        layer = stretch("", file, 0, size)
        while inner := unpacked(layer, layer.head(), budget):
            layer = inner
        head = layer.head()
        buffered, stream = layer.open()
        if head.startswith((npy.MAGIC, b"PK")) or is_tar(head):
            raise Broken("its pickle lies in an archive or an array")
        blank = len(head) - len(head.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n\0"))
        stream.skip(blank)
        found = walk(stream, _LIMITS, arrays=True)
        buffered.close()
    if not found.stopped:
        raise Broken(found.error or "it does not end")
    return found.value


class _Data:
    """Makes data of stand-ins, of so many parts at most, however often the pickle says the same part again."""

    def __init__(self) -> None:
        self.parts = 0

    def count(self, data: Any = None) -> None:
        """One more part, of so much data. Raises Broken when there are too many."""
        self.parts += 1 + (len(data) // _BYTES_OF_A_PART if isinstance(data, (bytes, str)) else 0)
        if self.parts > _MOST_PARTS:
            raise Broken(f"it has more than {_MOST_PARTS:,} parts, or is as large")

    def of(self, value: Value, deep: int = _DEEP) -> Any:
        self.count(value)
        if not deep:
            raise Broken(f"it is more than {_DEEP} levels deep, or holds itself")
        if value is None or isinstance(value, (bool, int, float, str, bytes)):
            return value
        if isinstance(value, Unknown):
            raise Broken(f"it holds {value.what}, which is too long")
        if isinstance(value, Import):
            return {"name": printable(value.full)}
        if isinstance(value, tuple):
            return tuple(self.of(item, deep - 1) for item in value)
        if isinstance(value, Box):
            return self._box(value, deep)
        if isinstance(value, Array):
            self.count(value.data)
            return _array(value.dtype, value.shape, value.data, value.order)
        return self._made(value, deep)

    def _box(self, box: Box, deep: int) -> Any:
        if box.cut or (box.kind == "dict" and len(box.values) % 2):
            raise Broken(f"it has a {box.kind} with too many items")
        items = [self.of(item, deep - 1) for item in box.values]
        try:
            if box.kind == "dict":
                return _dict(list(zip(items[::2], items[1::2], strict=True)))
            return items if box.kind == "list" else _set(items)
        except TypeError as exc:
            raise Broken(f"it has a {box.kind} of things that cannot be in one ({exc})") from None

    def _made(self, made: Made, deep: int) -> Any:
        if instance := instance_class(made):
            return self._instance(made, *instance, deep)
        function = ".".join(today(*made.function)) if isinstance(made.function, Import) else ""
        builder = _BUILDERS.get(function.replace("numpy.core.", "numpy._core."))
        arguments = made.arguments if isinstance(made.arguments, tuple) else None
        if builder is None or arguments is None:
            raise Broken(f"it calls {describe(made)}")
        return builder(self, made, arguments, deep)

    def _instance(self, made: Made, kind: Value, arguments: tuple[Value, ...], deep: int) -> dict[str, Any]:
        if not isinstance(kind, Import):
            raise Broken(f"it makes an object of {describe(kind)}")
        record: dict[str, Any] = {"class": printable(kind.full), "state": self._state(made, deep)}
        if arguments or made.keywords is not None:
            record["arguments"] = [self.of(argument, deep - 1) for argument in (*arguments, made.keywords)]
        if made.items:
            record["items"] = [self.of(item, deep - 1) for item in made.items.values]
        return record

    def _state(self, made: Made, deep: int) -> Any:
        """What BUILD would set: attributes, and those in `__slots__`."""
        merged: dict[Any, Any] = {}
        for state in made.states:
            for part in state if isinstance(state, tuple) and len(state) == 2 else (state,):
                data = self.of(part, deep - 1)
                if isinstance(data, dict):
                    merged.update(data)
                elif data is not None:
                    return self.of(state, deep - 1)
        return merged


def _array(dtype: Dtype, shape: tuple[int, ...], data: Any, order: str = "C") -> Any:
    """A NumPy array of its bytes, in a dtype that is made here."""
    import numpy

    if isinstance(data, str):
        data = data.encode("latin-1", "replace")  # as Python 2 pickled bytes
    if not dtype.plain or dtype.kind not in "biufcSU" or not isinstance(data, bytes):
        raise Broken("it has an array of objects or records")
    try:
        sign = dtype.order if dtype.order in "<>" else "="
        kind = numpy.dtype(f"{sign}{dtype.kind}{dtype.itemsize // 4 if dtype.kind == 'U' else dtype.itemsize}")
        return numpy.frombuffer(data, kind).reshape(shape, order="F" if order == "F" else "C").copy()
    except (TypeError, ValueError) as exc:
        raise Broken(f"it has an array that is not what it says ({exc})") from None


def _ndarray(data: _Data, made: Made, arguments: tuple[Value, ...], deep: int) -> Any:
    """`_reconstruct`, and then the state that numpy.ndarray.__reduce__ wrote."""
    state = made.states[0] if len(made.states) == 1 else None
    if not isinstance(state, tuple) or len(state) != 5 or Import("numpy", "ndarray") not in arguments[:1]:
        raise Broken(f"it calls {describe(made)}")
    _, shape, dtype, fortran, content = state
    return _array(dtype_of(dtype), shape_of(shape), data.of(content, deep - 1), "F" if fortran else "C")


def _buffer(data: _Data, made: Made, arguments: tuple[Value, ...], deep: int) -> Any:
    if len(arguments) != 4:
        raise Broken(f"it calls {describe(made)}")
    content, dtype, shape, order = arguments
    return _array(dtype_of(dtype), shape_of(shape), data.of(content, deep - 1), str(order))


def _scalar(data: _Data, made: Made, arguments: tuple[Value, ...], deep: int) -> Any:
    if len(arguments) != 2:
        raise Broken(f"it calls {describe(made)}")
    return _array(dtype_of(arguments[0]), (), data.of(arguments[1], deep - 1)).item()


def _dtype(data: _Data, made: Made, arguments: tuple[Value, ...], deep: int) -> Any:
    dtype = dtype_of(made)
    return f"{dtype.kind}{dtype.itemsize}"


def _encoded(data: _Data, made: Made, arguments: tuple[Value, ...], deep: int) -> Any:
    """How protocols 0 to 2 write bytes."""
    if len(arguments) != 2 or not isinstance(arguments[0], str) or arguments[1] not in ("latin1", "latin-1"):
        raise Broken(f"it calls {describe(made)}")
    return arguments[0].encode("latin-1", "replace")


def _content(value: Any) -> Any:
    if isinstance(value, int):
        raise TypeError("a length is no content")  # bytes(10**12) would be a bomb
    return value


def _keys(keys: Sequence[Any]) -> None:
    """Refuse keys that can be chosen to fall on one another, which makes a dict endlessly slow."""
    for key in keys:
        if isinstance(key, tuple):
            _keys(key)
        elif isinstance(key, (int, float)) and not abs(key) < _MOST_KEY:
            raise TypeError("a number that large is no key")


def _dict(pairs: Sequence[tuple[Any, Any]] = ()) -> dict[Any, Any]:
    _keys([key for key, _ in pairs])
    return dict(pairs)


def _set(items: Sequence[Any] = ()) -> set[Any]:
    _keys(items)
    return set(items)


def _collection(make: Callable[..., Any]) -> Callable[[_Data, Made, tuple[Value, ...], int], Any]:
    """A container or a number of Python's, made of plain data."""

    def build(data: _Data, made: Made, arguments: tuple[Value, ...], deep: int) -> Any:
        parts = [data.of(argument, deep - 1) for argument in arguments]
        try:
            built = make(*parts)
            if made.items:
                added = [data.of(item, deep - 1) for item in made.items.values]
                built.update(_dict(list(zip(added[::2], added[1::2], strict=True))))
        except (TypeError, ValueError, AttributeError) as exc:
            raise Broken(f"it calls {describe(made)} ({exc})") from None
        return built

    return build


_BUILDERS: dict[str, Callable[[_Data, Made, tuple[Value, ...], int], Any]] = {
    "numpy._core.multiarray._reconstruct": _ndarray,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy._core.numeric._frombuffer": _buffer,
    "numpy.dtype": _dtype,
    "_codecs.encode": _encoded,
    "collections.OrderedDict": _collection(_dict),
    "builtins.set": _collection(_set),
    "builtins.frozenset": _collection(lambda *parts: frozenset(_set(*parts))),
    "builtins.bytes": _collection(lambda *parts: bytes(_content(parts[0])) if parts else b""),
    "builtins.bytearray": _collection(lambda *parts: bytes(_content(parts[0])) if parts else b""),
    "builtins.complex": _collection(complex),
}
"""Functions that only hold data, and what is done here instead of calling them."""


def _perceptron(path: Path, record: Any) -> dict[Any, Any]:
    """The state that has weights: of the object itself, or of the only one in a dict or list."""
    state = _state_of(record)
    if _first(state, _WEIGHTS) is not None:
        return state
    inner = record.values() if isinstance(record, dict) else record if isinstance(record, (list, tuple)) else ()
    found = [state for state in map(_state_of, inner) if _first(state, _WEIGHTS) is not None]
    if len(found) > 1:
        names = ", ".join(map(str, record)) if isinstance(record, dict) else f"{len(found)} of them"
        raise _no_perceptron(path, f"it holds several perceptrons ({names}); save each in a file of its own")
    if not found:
        raise _no_perceptron(path, f"it holds {_told(record)}, and no weights and bias")
    return found[0]


def _state_of(record: Any) -> dict[Any, Any]:
    if isinstance(record, dict):
        state = record["state"] if record.keys() >= {"class", "state"} else record
        return state if isinstance(state, dict) else {}
    return {}


def _first(state: dict[Any, Any], names: tuple[str, ...]) -> Any:
    return next((state[name] for name in names if name in state), None)


def _told(record: Any) -> str:
    if isinstance(record, dict):
        kind, state = record.get("class"), _state_of(record)
        what = f"a {kind}" if kind else "a dict"
        return f"{what} with {', '.join(map(str, list(state)[:8])) or 'nothing'}"
    return f"a {type(record).__name__}"


def _vector(path: Path, what: str, value: Any) -> list[float]:
    """Finite numbers in a row, or one number."""
    shape = getattr(value, "shape", None)
    if shape is not None:
        if value.dtype.kind not in _NUMBERS or sum(count != 1 for count in shape) > 1:
            raise _no_perceptron(
                path, f"its {what} are of shape {shape} and type {value.dtype}, expected a row of numbers"
            )
        value = value.ravel().tolist()
    numbers = list(value) if isinstance(value, (list, tuple)) else [value]
    if not numbers or not all(isinstance(x, (int, float)) and not isinstance(x, bool) and isfinite(x) for x in numbers):
        raise _no_perceptron(path, f"its {what} are not finite numbers")
    return [float(number) for number in numbers]


def _no_perceptron(path: Path, why: str) -> LoadFailed:
    return LoadFailed(
        f"{path} is no perceptron that can be converted: {why}.",
        hint="Expected an object or a dict with weights like [0.5, 0.5] and a bias like -0.75 or [-0.75].",
    )


def _refusal(report: Report, why: str) -> UnsafeArtifact:
    return UnsafeArtifact(
        f"{report.text()}\nIt cannot be converted without running it: {why}.",
        hint="Load it where it was made, and save it in a format without code: JSON, skops, safetensors or ONNX.",
    )
