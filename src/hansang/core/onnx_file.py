"""What an ONNX file says about itself, read from its bytes: who made it, what it holds, where its data lies.

An ONNX file is one protobuf message. This walks it by the field numbers of `onnx.proto`, without the onnx package and
without reading a weight, so that a file can be judged before any library opens it. It runs nothing.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import NamedTuple, TypeAlias

from hansang.core.artifact import first_bytes, looks_like
from hansang.core.errors import LoadFailed

_Bytes: TypeAlias = "bytes | mmap.mmap"

DTYPES = {
    1: ("float32", 32), 2: ("uint8", 8), 3: ("int8", 8), 4: ("uint16", 16), 5: ("int16", 16), 6: ("int32", 32),
    7: ("int64", 64), 8: ("string", 0), 9: ("bool", 8), 10: ("float16", 16), 11: ("float64", 64), 12: ("uint32", 32),
    13: ("uint64", 64), 14: ("complex64", 64), 15: ("complex128", 128), 16: ("bfloat16", 16), 17: ("float8e4m3fn", 8),
    18: ("float8e4m3fnuz", 8), 19: ("float8e5m2", 8), 20: ("float8e5m2fnuz", 8), 21: ("uint4", 4), 22: ("int4", 4),
    23: ("float4e2m1", 4), 24: ("float8e8m0", 8), 25: ("uint2", 2), 26: ("int2", 2), 27: ("float6e2m3", 6),
    28: ("float6e3m2", 6),
}  # fmt: skip
"""TensorProto.DataType: our name, and bits of one element."""

PARTS = {
    "ModelProto": {7: "GraphProto", 8: "OperatorSetIdProto", 14: "StringStringEntryProto", 20: "TrainingInfoProto",
                   25: "FunctionProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 11: "ValueInfoProto", 12: "ValueInfoProto",
                   15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {5: "TensorProto", 6: "GraphProto", 10: "TensorProto", 11: "GraphProto",
                       22: "SparseTensorProto", 23: "SparseTensorProto"},
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
}  # fmt: skip
"""Which fields of which messages lead to what is read here. A test holds that no way to a tensor is left out."""

_RUNS = {
    0x3D: re.compile(rb"(?:\x3d.{4})++", re.DOTALL),  # field 7, four bytes each: an attribute's floats
    0x40: re.compile(rb"(?:\x40[\x80-\xff]{0,9}+[\x00-\x7f])++"),  # field 8, varints: an attribute's integers
}
"""Long repeated fields, by their tag: a forest has millions of these, one field each."""
_MOST_DIMENSIONS = 64
_IN_MEMORY = "_ORT_MEM_ADDR_"
"""What onnxruntime writes where data lies at an address in memory: no file may say so."""
_ENDS = "it is cut off or damaged"


@dataclass(slots=True)
class OnnxFile:
    """`parameters` counts the numbers stored as tensors or lists of floats, by dtype; `size` is their bytes."""

    producer: str = ""
    ir_version: int = 0
    opsets: dict[str, int] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)
    size: int = 0
    external: set[str] = field(default_factory=set)
    """Where tensors say that their data lies, as written in the file."""
    descriptions: dict[str, str] = field(default_factory=dict)
    """Texts beside the inputs and outputs."""
    shaped: set[str] = field(default_factory=set)
    """Inputs and outputs whose number of dimensions is known."""

    def count(self, dtype: int, elements: int) -> None:
        name, bits = DTYPES.get(dtype, (f"type {dtype}", 0))
        self.parameters[name] = self.parameters.get(name, 0) + elements
        self.size += -(-elements * bits // 8)


class _Field(NamedTuple):
    """Of a protobuf message: a number (`value`), or the place of its bytes."""

    number: int
    wire: int
    value: int
    start: int
    end: int


def read(path: Path) -> OnnxFile:
    """Read what a file says. Raises LoadFailed if it is not a whole ONNX file."""
    head = first_bytes(path)
    if not head:
        raise _not_onnx(path, head, "it is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            found = _walk(data)
        except ValueError as exc:
            raise _not_onnx(path, head, str(exc)) from None
    if found is None:
        raise _not_onnx(path, head, "there is no graph in it")
    return found


def check_external(path: Path, found: OnnxFile) -> None:
    """Raise LoadFailed unless all data outside the file lies in files of the model's own folder."""
    folder = path.resolve().parent
    for location in sorted(found.external):
        target = _within(folder, location)
        if target is None:
            raise LoadFailed(
                f"{path} wants its weights from {location!r}, which is outside its folder.",
                hint="A model may only use files that lie beside it. Export it again with its weights inside.",
            )
        if not target.is_file():
            raise LoadFailed(
                f"{path} keeps weights in {location!r}, and there is no such file beside it.",
                hint=f"Copy {location} into {folder}, or export the model again with its weights inside.",
            )


def _within(folder: Path, location: str) -> Path | None:
    """The file meant by `location`, links followed, if it lies in `folder` or deeper."""
    if Path(location).is_absolute() or _IN_MEMORY in location:
        return None
    try:
        target = (folder / location).resolve()
    except (OSError, ValueError, RuntimeError):  # a name no file system has, or a loop of links
        return None
    return target if target.is_relative_to(folder) else None


def _not_onnx(path: Path, head: bytes, why: str) -> LoadFailed:
    what, hint = looks_like(head)
    begins = f" It begins with {head[:12]!r}: {what}." if head else ""
    return LoadFailed(f"{path} is not an ONNX model: {why}.{begins}", hint=hint)


def _walk(data: _Bytes) -> OnnxFile | None:
    """Everything the file says, or None if it is well-formed but has no graph. Raises ValueError if it is not."""
    found = OnnxFile()
    graph = False
    waiting = [("ModelProto", 0, len(data))]
    while waiting:
        message, start, end = waiting.pop()
        fields = _fields(data, start, end)
        if message in _READERS:
            _READERS[message](found, data, fields)
            continue
        graph = graph or message == "GraphProto"
        parts = PARTS[message]
        for part in fields:
            kind = parts.get(part.number)
            if kind is not None and part.wire == 2:
                waiting.append((kind, part.start, part.end))
            elif message == "AttributeProto" and part.number == 7:
                found.count(1, (part.end - part.start) // 5 if part.wire == 5 else (part.end - part.start) // 4)
            elif message == "ModelProto":
                _read_model(found, data, part)
    return found if graph else None


def _read_model(found: OnnxFile, data: _Bytes, part: _Field) -> None:
    if part.number == 1:
        found.ir_version = part.value
    elif part.number in (2, 3) and part.start < part.end:
        found.producer = f"{found.producer} {_text(data, part)}".strip()


def _read_entry(found: OnnxFile, data: _Bytes, fields: Iterator[_Field]) -> None:
    key, value = _entry(data, fields)
    found.metadata[key] = value


def _read_opset(found: OnnxFile, data: _Bytes, fields: Iterator[_Field]) -> None:
    domain, version = "", 0
    for part in fields:
        if part.number == 1:
            domain = _text(data, part)
        elif part.number == 2:
            version = part.value
    found.opsets[domain or "ai.onnx"] = version


def _read_tensor(found: OnnxFile, data: _Bytes, fields: Iterator[_Field]) -> None:
    dims: list[int] = []
    dtype = 0
    for part in fields:
        if part.number == 1:
            dims += [part.value] if part.wire == 0 else _varints(data, part)
        elif part.number == 2:
            dtype = part.value
        elif part.number == 13 and part.wire == 2:
            key, value = _entry(data, _fields(data, part.start, part.end))
            if key == "location":
                found.external.add(value)
        if len(dims) > _MOST_DIMENSIONS:
            raise ValueError(f"{_ENDS} (a tensor of {len(dims)} dimensions)")
    found.count(dtype, prod(dims))


def _read_value(found: OnnxFile, data: _Bytes, fields: Iterator[_Field]) -> None:
    parts = {part.number: part for part in fields if part.wire == 2}
    name = _text(data, parts[1]) if 1 in parts else ""
    if 3 in parts:
        found.descriptions[name] = _text(data, parts[3])
    kinds = _fields(data, parts[2].start, parts[2].end) if 2 in parts else ()
    tensors = [kind for kind in kinds if kind.number == 1 and kind.wire == 2]
    if any(part.number == 2 for kind in tensors for part in _fields(data, kind.start, kind.end)):
        found.shaped.add(name)


_READERS: dict[str, Callable[[OnnxFile, _Bytes, Iterator[_Field]], None]] = {
    "StringStringEntryProto": _read_entry,
    "OperatorSetIdProto": _read_opset,
    "TensorProto": _read_tensor,
    "ValueInfoProto": _read_value,
}


def _fields(data: _Bytes, position: int, end: int) -> Iterator[_Field]:
    """The fields of the message between two places, in order. A run of floats or integers comes as one."""
    while position < end:
        tag, start = _varint(data, position, end)
        number, wire = tag >> 3, tag & 7
        value = 0
        if run := _RUNS.get(tag):
            found = run.match(data, position, end)
            start, stop = position, found.end() if found else end + 1
        elif wire == 0:
            value, stop = _varint(data, start, end)
        elif wire == 2:
            value, start = _varint(data, start, end)
            stop = start + value
        elif wire in (1, 5):
            stop = start + (8 if wire == 1 else 4)
        else:
            raise ValueError(f"byte {position} begins no field")
        if not number or stop > end:
            raise ValueError(f"{_ENDS} (at byte {position})")
        yield _Field(number, wire, value, start, stop)
        position = stop


def _varint(data: _Bytes, position: int, end: int) -> tuple[int, int]:
    """A number of one to ten bytes, and the place after it."""
    value = shift = 0
    while position < end and shift < 70:
        byte = data[position]
        value |= (byte & 127) << shift
        position += 1
        if byte < 128:
            return value, position
        shift += 7
    raise ValueError(f"{_ENDS} (at byte {position})")


def _varints(data: _Bytes, part: _Field) -> list[int]:
    values, position = [], part.start
    while position < part.end:
        value, position = _varint(data, position, part.end)
        values.append(value)
    return values


def _text(data: _Bytes, part: _Field) -> str:
    return data[part.start : part.end].decode("utf-8", "replace")


def _entry(data: _Bytes, fields: Iterator[_Field]) -> tuple[str, str]:
    """A key and its value."""
    texts = {part.number: _text(data, part) for part in fields if part.wire == 2}
    return texts.get(1, ""), texts.get(2, "")
