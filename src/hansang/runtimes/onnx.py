"""ONNX models, by onnxruntime on the CPU.

The model's inputs and outputs are the signature. Their first dimension is the batch where it is open (`[N, 64]`) or 1
(`[1, 64]`): it is no part of a row, and a last dimension of 1 is none either (`[N, 1]` is one number for each row).
Where every input and output has an open batch, callers' rows are joined and run at once; otherwise each row is run by
itself, whole as the model has it (`[10]` is a row of 10 numbers). Training and conversion are not here.

A file may carry `metadata_props`: `title`, `card` (JSON) and `labels` (JSON) are shown by `inspect`, as is the
`doc_string` of an input or output.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

from hansang.core import onnx_file
from hansang.core.artifact import card_beside
from hansang.core.errors import HansangError, InvalidInput, LoadFailed, ModelFailed
from hansang.core.model import Call, LoadContext, Model
from hansang.core.signature import Field, Signature
from hansang.core.source import Source
from hansang.tasks.tabular import TABULAR, Table

_DTYPES = {"float": "float32", "double": "float64"} | {
    name: name
    for name in ("float16", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool", "string")
}
_CODES = {
    "float16": "e", "float32": "f", "float64": "d", "int8": "b", "int16": "h", "int32": "i", "int64": "q",
    "uint8": "B", "uint16": "H", "uint32": "I", "uint64": "Q", "bool": "?",
}  # fmt: skip
_MAPS = "seq(map("


class OnnxRuntime:
    """Claims `*.onnx`."""

    name = "onnx"
    sources = "an ONNX model (*.onnx)"

    def claims(self, source: Source) -> bool:
        return source.suffix == ".onnx"

    def open(self, source: Source) -> Model:
        return OnnxModel(source.file())


class OnnxModel(Model):
    """One inference session. Its work is done outside the GIL."""

    task = TABULAR
    max_batch_size = 64
    gather = 0.002

    def __init__(self, path: Path) -> None:
        self.path = path
        self._session: Any = None

    def load(self, context: LoadContext) -> None:
        found = onnx_file.read(self.path)
        onnx_file.check_external(self.path, found)
        self._session = _session(self.path, context.threads)
        inputs = [_port(self.path, node, found) for node in self._session.get_inputs()]
        outputs = [_port(self.path, node, found) for node in self._session.get_outputs()]
        self._batched = bool(inputs) and all(port.open for port in (*inputs, *outputs))
        self._rank_outputs(inputs, outputs)
        self._inputs = [_Input(port) for port in inputs]
        self._outputs = outputs
        self._names = [port.name for port in outputs]
        self._ties = _ties(inputs)
        self._refused = _refused()
        if not self._batched and "max_batch_size" not in vars(self):
            self.max_batch_size = 1
        self.signature = Signature(
            inputs=tuple(port.field(found) for port in inputs), outputs=tuple(port.field(found) for port in outputs)
        )
        self.info = _info(self.path, found)

    def _rank_outputs(self, inputs: Sequence[_Port], outputs: Sequence[_Port]) -> None:
        """Rows run one by one: an output has a batch dimension if it says so in the words of an input."""
        batches = [1, *(port.dims[0] for port in inputs if port.dims and port.open)]
        if not self._batched:
            for port in outputs:
                port.batched = bool(port.maps or (port.dims and port.dims[0] in batches))

    def predict(self, calls: Sequence[Call]) -> Sequence[Table | HansangError]:
        if not self._batched:
            return [self._rows_one_by_one(call) for call in calls]
        feed = {port.name: port.array(_column(calls, port.name)) for port in self._inputs}
        if self._ties:
            _check_ties(self._ties, feed)
        rows = sum([call.request.rows for call in calls])
        columns = {}
        for port, value in zip(self._outputs, self._run(feed), strict=True):
            if getattr(value, "ndim", 1) == 0 or len(value) != rows:
                raise _not_a_batch(port.name, value, rows)
            columns[port.name] = value.reshape(rows) if port.squeezed else value
        return _split(calls, columns)

    def _rows_one_by_one(self, call: Call) -> Table | HansangError:
        request = call.request
        columns: dict[str, list[Any]] = {name: [] for name in self._names}
        for row in range(request.rows):
            if call.context.error is not None:
                return call.context.error
            feed = {port.name: port.row(request.columns[port.name][row : row + 1]) for port in self._inputs}
            if self._ties:
                _check_ties(self._ties, feed)
            for port, value in zip(self._outputs, self._run(feed), strict=True):
                columns[port.name].append(port.of_one_row(value))
        return Table(columns, request.rows)

    def _run(self, feed: dict[str, Any]) -> list[Any]:
        try:
            outputs: list[Any] = self._session.run(self._names, feed)
        except self._refused as exc:
            raise InvalidInput(f"The model refuses this input: {_in_short(exc)}.") from None
        return outputs

    def unload(self) -> None:
        self._session = None


@dataclass(slots=True)
class _Port:
    """An input or output as the model has it. `dims` None: not even their number is known."""

    name: str
    dtype: str
    dims: tuple[int | str | None, ...] | None
    maps: bool = False
    """Whether it is a list of dictionaries, one for each row, as classifiers from scikit-learn may answer."""
    batched: bool = True

    def __post_init__(self) -> None:
        self.batched = self.open or bool(self.dims and self.dims[0] == 1)

    @property
    def open(self) -> bool:
        """Whether it takes (or gives) any number of rows."""
        return self.dims is None or (len(self.dims) > 0 and not isinstance(self.dims[0], int))

    @property
    def squeezed(self) -> bool:
        return self.batched and self.dims is not None and self.dims[1:] == (1,)

    @property
    def shape(self) -> tuple[int | None, ...] | None:
        """The shape of one row."""
        if self.dims is None:
            return None
        dims = () if self.squeezed else self.dims[self.batched :]
        return tuple(dim if isinstance(dim, int) else None for dim in dims)

    def field(self, found: onnx_file.OnnxFile) -> Field:
        text = found.descriptions.get(self.name, "")
        shape = self.shape
        if self.maps or shape is None:
            return Field(self.name, "json", description=text)
        return Field(self.name, self.dtype, shape, description=text)

    def of_one_row(self, value: Any) -> Any:
        """The row in what the model gave when it was run for one."""
        if not self.batched:
            return value[()] if getattr(value, "ndim", 1) == 0 else value
        if len(value) != 1:
            raise _not_a_batch(self.name, value, 1)
        return value[0][0] if self.squeezed else value[0]


class _Input:
    """Makes one array of the rows of an input, as they were decoded."""

    def __init__(self, port: _Port) -> None:
        import numpy

        self._numpy = numpy
        self.name = port.name
        self._port = port
        self._shape = shape = port.shape
        self._dtype = numpy.dtype(object if port.dtype == "string" else port.dtype)
        self._code = _CODES.get(port.dtype) if shape == () else None
        # One C call for each row: half of what numpy takes for lists, and `=` checks ranges.
        self._pack = None
        if shape is not None and len(shape) == 1 and shape[0] is not None and port.dtype in _CODES:
            self._pack = struct.Struct(f"={shape[0]}{_CODES[port.dtype]}").pack

    def array(self, values: Sequence[Any]) -> Any:
        """All rows, with the batch dimension."""
        try:
            made = self._array(values)
        except (struct.error, ArithmeticError, ValueError, TypeError) as exc:
            raise InvalidInput(f"{self.name}: expected {self._expected()} in every row ({exc}).") from None
        return made.reshape(-1, 1) if self._port.squeezed else made

    def _array(self, values: Sequence[Any]) -> Any:
        numpy = self._numpy
        if isinstance(values, numpy.ndarray):
            made = numpy.ascontiguousarray(values).astype(self._dtype, casting="same_kind", copy=False)
        elif self._code is not None:
            return numpy.frombuffer(struct.pack(f"={len(values)}{self._code}", *values), self._dtype)
        elif self._pack is not None:
            pack = self._pack
            packed = b"".join([pack(*row) for row in values])
            return numpy.frombuffer(packed, self._dtype).reshape(len(values), -1)
        else:
            with numpy.errstate(over="raise"):
                made = numpy.array(values, dtype=self._dtype)
        if self._shape is not None and not _fits(made.shape[1:], self._shape):
            raise ValueError(f"the rows make an array of shape {made.shape}")
        return made

    def row(self, values: Sequence[Any]) -> Any:
        """One row, as the model takes it."""
        made = self.array(values)
        return made if self._port.batched else made.reshape(made.shape[1:])

    def _expected(self) -> str:
        dtype = self._port.dtype
        return dtype if self._shape is None else Field(self.name, dtype, self._shape).describe()


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(want in (None, have) for have, want in zip(shape, wanted, strict=True))


def _column(calls: Sequence[Call], name: str) -> Any:
    """The rows of all callers."""
    if len(calls) == 1:
        return calls[0].request.columns[name]
    parts = [call.request.columns[name] for call in calls]
    if isinstance(parts[0], (list, tuple)):
        return list(chain.from_iterable(parts))
    import numpy

    return numpy.concatenate(parts)


def _split(calls: Sequence[Call], columns: dict[str, Any]) -> list[Table | HansangError]:
    """Each caller's rows."""
    if len(calls) == 1:
        return [Table(columns, calls[0].request.rows)]
    counts = [call.request.rows for call in calls]
    parts = [_pieces(value, counts) for value in columns.values()]
    if len(columns) == 1:
        (name,) = columns
        return [Table({name: piece}, rows) for piece, rows in zip(parts[0], counts, strict=True)]
    return [Table(dict(zip(columns, pieces, strict=True)), rows) for *pieces, rows in zip(*parts, counts, strict=True)]


def _pieces(value: Any, counts: list[int]) -> Any:
    if len(value) == len(counts) and hasattr(value, "ndim"):
        return value[:, None]  # one row each: half the price of slices
    return [value[stop - rows : stop] for rows, stop in zip(counts, accumulate(counts), strict=True)]


def _ties(inputs: Sequence[_Port]) -> dict[str, list[tuple[str, int]]]:
    """Open dimensions that several inputs share: name of the dimension to where it stands."""
    places: dict[str, list[tuple[str, int]]] = {}
    for port in inputs:
        for axis, dim in enumerate(port.dims or ()):
            if isinstance(dim, str) and dim and axis:
                places.setdefault(dim, []).append((port.name, axis))
    return {dim: where for dim, where in places.items() if len(where) > 1}


def _check_ties(ties: dict[str, list[tuple[str, int]]], feed: dict[str, Any]) -> None:
    for dim, where in ties.items():
        lengths = {f"{name} (dimension {axis})": feed[name].shape[axis] for name, axis in where}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{place} has {length}" for place, length in lengths.items())
            raise InvalidInput(f"The inputs must agree in {dim!r}: {told}.")


def _not_a_batch(name: str, value: Any, rows: int) -> ModelFailed:
    return ModelFailed(
        f"The model's output {name!r} has shape {list(getattr(value, 'shape', [len(value)]))} for {rows} rows: its "
        "first dimension is not the batch.",
        hint="Export the model with inputs of a fixed batch of 1; then each row is run by itself.",
    )


def _session(path: Path, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised; printed too they would stand in the log twice
    for pool in ("intra_op", "inter_op"):
        options.add_session_config_entry(f"session.{pool}.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as exc:
        raise LoadFailed(
            f"{path} is an ONNX file that onnxruntime {onnxruntime.__version__} cannot run: {_in_short(exc)}.",
            hint="Check it with onnx.checker.check_model, or export it again (opset 17 to 21 is widely understood).",
        ) from None


def _refused() -> tuple[type[Exception], ...]:
    from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

    return (InvalidArgument,)


def _in_short(exc: Exception) -> str:
    """What onnxruntime says, without its codes and source files."""
    text = str(exc).strip().splitlines()[0]
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"^.*(?:Status Message: |Load model from .*? failed:)", "", text)
    text = re.sub(r"/onnxruntime_src/\S+ (?:.*\) (?=[A-Z]))?", "", text)
    return text[:400].rstrip(". ")


def _port(path: Path, node: Any, found: onnx_file.OnnxFile) -> _Port:
    if node.type.startswith(_MAPS):
        return _Port(node.name, "json", (None,), maps=True)
    kind = re.fullmatch(r"tensor\((\w+)\)", node.type)
    if kind is None or kind[1] not in _DTYPES:
        raise LoadFailed(
            f"{path} has {node.name!r} of type {node.type}, which has no form as rows of JSON.",
            hint=f"Export it with tensors of {', '.join(_DTYPES.values())}.",
        )
    dims = tuple(node.shape) if node.shape or node.name in found.shaped else None
    return _Port(node.name, _DTYPES[kind[1]], dims)


def _info(path: Path, found: onnx_file.OnnxFile) -> dict[str, Any]:
    metadata = dict(found.metadata)
    known: dict[str, Any] = {key: metadata.pop(key) for key in ("title", "card", "labels") if key in metadata}
    for key in ("card", "labels"):
        if key in known:
            known[key] = _json_or_text(known[key])
    return {
        "format": "ONNX",
        "parameters": found.parameters,
        "bytes": found.size,
        "file": str(path),
        "producer": found.producer,
        "ir_version": found.ir_version,
        "opset": found.opsets,
        "metadata": metadata,
        **known,
        **card_beside(path),
    }


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
