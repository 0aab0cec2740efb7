"""What stands for an object while a pickle is followed: no object of the pickle's own is ever made.

Plain values (None, numbers, texts, bytes, tuples) stand for themselves.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple, TypeAlias

from hansang.registry.byte_stream import Broken

Value: TypeAlias = Any
"""A plain value, or one of the stand-ins below."""

_SHOWN = 100
_DEEP = 3
_CODE = re.compile(r"[<>|=]?([biufcSUVOmM])(\d{1,9})")
_MOST_DIMENSIONS = 64


class Unknown(NamedTuple):
    """Something that was not kept, or that nobody can know."""

    what: str


class Import(NamedTuple):
    """A name that would be imported."""

    module: str
    name: str

    @property
    def full(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(slots=True, eq=False)
class Box:
    """A list, dict (keys and values in turn), set or frozenset. `cut`: there was more in it than is kept."""

    kind: str
    values: list[Value] = field(default_factory=list)
    cut: bool = False

    def add(self, items: Sequence[Value], keep: int) -> None:
        room = keep - len(self.values)
        self.values.extend(items[:room] if room > 0 else ())
        self.cut = self.cut or len(items) > room

    def pairs(self) -> list[tuple[Value, Value]]:
        """Of a dict."""
        return list(zip(self.values[::2], self.values[1::2], strict=False))


@dataclass(slots=True, eq=False)
class Made:
    """What a call would give. `states` are what BUILD would then set, `items` what would be put into it."""

    opcode: str
    function: Value
    arguments: Value
    keywords: Value = None
    states: list[Value] = field(default_factory=list)
    items: Box | None = None


class Dtype(NamedTuple):
    """Of an array, as numpy's own pickles say it: `f`, 8, `<`. `plain`: it has no fields and no parts."""

    kind: str
    itemsize: int
    order: str = "="
    has_objects: bool = False
    plain: bool = True


class Announced(NamedTuple):
    """An array whose bytes follow in joblib's file."""

    dtype: Dtype
    shape: tuple[int, ...]
    order: str
    aligned: bool

    @property
    def size(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


@dataclass(slots=True, eq=False)
class Array:
    """joblib's array, with its bytes."""

    dtype: Dtype
    shape: tuple[int, ...]
    order: str
    data: bytes


def name_of(value: Value, deep: int = _DEEP) -> str:
    """What a program would call it: a class for its instance, `module.name(...)` for what a function gives."""
    if isinstance(value, Made) and deep:
        if value.opcode != "REDUCE":
            return name_of(value.function, deep - 1)
        if _is_instance(value):
            return name_of(value.arguments[0], deep - 1)
    return describe(value, deep)


def root_of(value: Value) -> Import | None:
    """The import that something was made by, through however many calls."""
    while isinstance(value, Made):
        value = value.arguments[0] if _is_instance(value) else value.function
    return value if isinstance(value, Import) else None


def _is_instance(made: Made) -> bool:
    """Whether it is what protocols 0 and 1 make an instance with."""
    maker = made.function
    known = isinstance(maker, Import) and maker.full in ("copyreg._reconstructor", "copy_reg._reconstructor")
    return known and isinstance(made.arguments, tuple) and bool(made.arguments)


def instance_class(made: Made) -> tuple[Value, tuple[Value, ...]] | None:
    """The class and arguments of an instance that is made without calling a function; None if one is called."""
    arguments = made.arguments if isinstance(made.arguments, tuple) else (made.arguments,)
    if made.opcode in ("NEWOBJ", "NEWOBJ_EX", "OBJ", "INST"):
        return made.function, arguments
    if _is_instance(made):
        plain = len(arguments) == 3 and isinstance(arguments[1], Import) and arguments[1].name == "object"
        return arguments[0], () if plain else arguments[2:]
    return None


def describe(value: Value, deep: int = _DEEP) -> str:
    """In a few words, with nothing in them that a terminal would obey."""
    if isinstance(value, Unknown):
        return value.what
    if isinstance(value, Import):
        return printable(value.full)
    if isinstance(value, Array):
        return f"an array of shape {value.shape}"
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 128:
        return "a long number"
    if isinstance(value, (str, bytes)):
        return _short(repr(value[:_SHOWN]) + ("..." if len(value) > _SHOWN else ""))
    if not isinstance(value, (tuple, Box, Made)):
        return repr(value)
    if not deep:
        return "..."
    if isinstance(value, Made):
        inner = value.arguments if isinstance(value.arguments, tuple) else (value.arguments,)
        return f"{_short(name_of(value.function, deep - 1))}({_listed(inner, deep)})"
    if isinstance(value, tuple):
        return f"({_listed(value, deep)}{',' * (len(value) == 1)})"
    return f"{value.kind}({_listed(value.values, deep)})"


def _listed(values: Sequence[Value], deep: int) -> str:
    return ", ".join([describe(value, deep - 1) for value in values[:4]] + ["..."] * (len(values) > 4))


def printable(text: str) -> str:
    """A name as it may be shown."""
    return _short(text if text.isprintable() else ascii(text)[1:-1])


def _short(text: str) -> str:
    return text if len(text) <= 3 * _SHOWN else text[: 3 * _SHOWN] + "..."


def dtype_of(value: Value) -> Dtype:
    """The type of an array's elements. Raises Broken for one that is not written in numpy's usual way."""
    arguments = value.arguments if isinstance(value, Made) and name_of(value.function) == "numpy.dtype" else None
    code = _CODE.fullmatch(arguments[0]) if isinstance(arguments, tuple) and _is_text(arguments) else None
    if code is None or len(value.states) > 1:
        raise Broken(f"it has an array of a type that is not known here, {describe(value)}")
    kind, size = code[1], int(code[2])
    order, itemsize, flags, plain = "=", size * 4 if kind == "U" else size, 0, True
    if value.states:
        order, parts, itemsize, flags = _dtype_state(value.states[0], itemsize)
        plain = not parts
        if plain and kind not in "SUV":
            itemsize = size
    if plain:
        return Dtype(kind, 8 if kind == "O" else itemsize, order, has_objects=kind == "O")
    return Dtype(kind, itemsize, order, has_objects=bool(flags & 1), plain=False)


def _is_text(arguments: tuple[Value, ...]) -> bool:
    return bool(arguments) and isinstance(arguments[0], str)


def _dtype_state(state: Value, itemsize: int) -> tuple[str, bool, int, int]:
    """Byte order, whether it has parts, size and flags, of what numpy.dtype.__reduce__ keeps."""
    if not isinstance(state, tuple) or len(state) < 8 or state[1] not in ("<", ">", "|", "="):
        raise Broken(f"it has an array of a type that is not known here, {describe(state)}")
    _, order, part, names, _, stated, _, flags = state[:8]
    if not isinstance(stated, int) or not isinstance(flags, int):
        raise Broken(f"it has an array of a type that is not known here, {describe(state)}")
    return order, part is not None or names is not None, stated if stated >= 0 else itemsize, flags


def shape_of(value: Value) -> tuple[int, ...]:
    """An array's shape. Raises Broken for what is none."""
    right = isinstance(value, tuple) and len(value) <= _MOST_DIMENSIONS
    if not right or not all(isinstance(count, int) and 0 <= count < 2**63 for count in value):
        raise Broken(f"it has an array of the impossible shape {describe(value)}")
    return tuple(value)


def array_of(wrapper: Made) -> Announced:
    """What joblib's NumpyArrayWrapper says of the array that follows. Raises Broken if that cannot be told."""
    state = wrapper.states[0] if len(wrapper.states) == 1 else None
    if not isinstance(state, Box) or state.kind != "dict" or instance_class(wrapper) != (wrapper.function, ()):
        raise Broken("it announces an array in an unusual way; what follows cannot be told")
    said = {key: value for key, value in state.pairs() if isinstance(key, str)}
    aligned = said.get("numpy_array_alignment_bytes") is not None
    return Announced(
        dtype_of(said.get("dtype")), shape_of(said.get("shape")), "F" if said.get("order") == "F" else "C", aligned
    )
