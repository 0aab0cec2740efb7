"""The header of a NumPy file (.npy): what array it says it holds. Read without numpy, and nothing of the array.

An array of objects is a pickle; `coats` follows it.
"""

from __future__ import annotations

import ast
import re
import struct
from dataclasses import dataclass
from math import prod
from typing import Any

from hansang.registry.byte_stream import Broken, ByteStream

MAGIC = b"\x93NUMPY"
_MOST_HEADER = 2**16
_MOST_DIMENSIONS = 64
_CODE = re.compile(r"[<>|=]?(?:([biufcSUVOmM])(\d{0,9})(?:\[\d{0,9}[a-zA-Z]{1,2}\])?|(\?))")
_UNKNOWN = -1


@dataclass(frozen=True, slots=True)
class NpyHeader:
    """`size`: bytes of the array, if it holds no objects."""

    shape: tuple[int, ...]
    dtype: str
    size: int
    has_objects: bool


def read_header(stream: ByteStream) -> NpyHeader:
    """Read it from where the file begins. Raises Broken."""
    stream.read(len(MAGIC))
    version = stream.read(2)
    if version not in (b"\1\0", b"\2\0", b"\3\0"):
        raise Broken(f"it is a NumPy file of version {version[0]}.{version[1]}, which does not exist")
    (length,) = struct.unpack("<H", stream.read(2)) if version == b"\1\0" else struct.unpack("<I", stream.read(4))
    if length > _MOST_HEADER:
        raise Broken(f"it has a NumPy header of {length:,} bytes; {_MOST_HEADER:,} is the most")
    said = _literal(stream.read(length))
    descr, shape = said.get("descr"), said.get("shape")
    if not isinstance(shape, tuple) or len(shape) > _MOST_DIMENSIONS or not all(map(_is_count, shape)):
        raise Broken(f"it has an array of the impossible shape {str(shape)[:100]}")
    itemsize, has_objects = _measure(descr)
    return NpyHeader(shape, str(descr)[:200], prod(shape) * itemsize, has_objects)


def _literal(header: bytes) -> dict[str, Any]:
    try:
        said = ast.literal_eval(header.decode("utf-8" if header.isascii() else "latin-1").strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        said = None
    if not isinstance(said, dict) or not {"descr", "shape", "fortran_order"} <= said.keys():
        raise Broken("it has no NumPy header that can be read")
    return said


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _measure(descr: Any, deep: int = 8) -> tuple[int, bool]:
    """Bytes of one element, and whether there are objects in it."""
    if isinstance(descr, str) and (code := _CODE.fullmatch(descr)):
        kind, size = code[1] or "?", int(code[2] or 0)
        wide = {"U": 4 * size, "?": 1, "m": 8, "M": 8}.get(kind, size)
        return wide, kind == "O"
    if isinstance(descr, tuple) and len(descr) == 2 and deep:
        itemsize, has_objects = _measure(descr[0], deep - 1)
        return itemsize * _count(descr[1]), has_objects
    if isinstance(descr, list) and deep and all(isinstance(part, tuple) and len(part) in (2, 3) for part in descr):
        parts = [(_measure(part[1], deep - 1), _count(part[2:])) for part in descr]
        return sum(size * count for (size, _), count in parts), any(objects for (_, objects), _ in parts)
    raise Broken(f"it has an array of a type that is not known here, {str(descr)[:100]}")


def _count(shape: Any) -> int:
    """How many elements a part has: `()`, `(3,)`, `((2, 2),)` or `3`."""
    if isinstance(shape, tuple):
        return prod(_count(size) for size in shape)
    if not _is_count(shape):
        raise Broken("it has an array of a type that is not known here")
    return int(shape)
