"""The header of a safetensors file: which tensors it holds, and whether that fits the bytes that are there.

Read without torch or the safetensors package, and nothing of the tensors, so that a file can be judged before any
library opens it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from hansang.registry.byte_stream import Broken

MOST_HEADER = 2**24
"""Bytes. The largest models' headers have one or two million."""
_MOST_DIMENSIONS = 64
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
    "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


class Tensor(NamedTuple):
    """One tensor: its bytes are `start` to `end` after the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def is_safetensors(head: bytes) -> bool:
    """Whether a file that begins so may be one."""
    return head[8:9] == b"{" and head[5:8] == b"\0\0\0"


def read_header(path: Path) -> tuple[list[Tensor], dict[str, str]]:
    """The tensors in the order of their bytes, and the metadata. Raises Broken unless all of it fits the file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length_bytes = file.read(8)
        if len(length_bytes) < 8:
            raise Broken(f"it is cut off: {size} bytes, and a safetensors file has at least 8")
        (length,) = struct.unpack("<Q", length_bytes)
        if length > size - 8:
            raise Broken(f"it says that its header has {length:,} bytes, and the file has {size:,}: it is cut off")
        if length > MOST_HEADER:
            raise Broken(f"it has a header of {length:,} bytes; {MOST_HEADER:,} is the most")
        said = _parse(file.read(length))
    metadata = said.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise Broken("its __metadata__ is not an object of texts")
    tensors = sorted((_tensor(name, entry) for name, entry in said.items()), key=lambda tensor: tensor[3:])
    _check_places(tensors, size - 8 - length)
    return tensors, metadata


def _parse(header: bytes) -> dict[str, Any]:
    try:
        said = json.loads(header.decode("utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as exc:
        raise Broken(f"its header cannot be read ({exc})") from None
    if not isinstance(said, dict) or header[:1] != b"{":
        raise Broken("its header is not an object")
    return said


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    said = dict(pairs)
    if len(said) < len(pairs):
        raise ValueError("a name stands in it twice")
    return said


def _tensor(name: str, entry: Any) -> Tensor:
    def wrong(what: str) -> Broken:
        return Broken(f"its tensor {name[:100]!r} {what}")

    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise wrong("is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise wrong(f"is of a type that does not exist, {str(dtype)[:40]!r}")
    if not _are_counts(shape) or len(shape) > _MOST_DIMENSIONS:
        raise wrong("has an impossible shape")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise wrong("has impossible data_offsets")
    needed = prod(shape) * _BITS[dtype]
    if needed != (offsets[1] - offsets[0]) * 8:
        raise wrong(f"of shape {shape} and type {dtype} needs {needed // 8:,} bytes, and is given {offsets}")
    return Tensor(name, dtype, tuple(shape), offsets[0], offsets[1])


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def _check_places(tensors: list[Tensor], there: int) -> None:
    """The tensors must follow one another, and fill the file."""
    end = 0
    for tensor in tensors:
        if tensor.start != end:
            what = "overlaps another" if tensor.start < end else "leaves a hole before it"
            raise Broken(f"its tensor {tensor.name[:100]!r} {what}")
        end = tensor.end
    if end != there:
        raise Broken(f"its tensors need {end:,} bytes after the header, and there are {there:,}")


def parameters(tensors: list[Tensor]) -> Iterator[tuple[str, int]]:
    """How many numbers each tensor has, by the safetensors name of its type."""
    return ((tensor.dtype, prod(tensor.shape)) for tensor in tensors)
