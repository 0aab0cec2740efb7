"""What a model takes and gives: named, typed fields.

One signature feeds every wire format: the check of a request, the typed operation in `/openapi.json`, the form on
the page, and (later) the tensor metadata of the inference protocol. It describes; it checks nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
FLOATS = ("float16", "float32", "float64")
DTYPES = ("bool", *INTEGERS, *FLOATS, "string", "bytes", "image", "json")

REQUIRED: Any = object()
"""The default of a field that has none."""


@dataclass(frozen=True, slots=True)
class Field:
    """One input or output of one row: the batch dimension is never part of `shape`.

    `shape` is () for a scalar; None in it stands for a length that varies. `dtype` is one of DTYPES; `json` is any
    JSON value, narrowed by `annotation` (a Python type) where the model knows more.
    """

    name: str
    dtype: str = "json"
    shape: tuple[int | None, ...] = ()
    annotation: Any = None
    choices: tuple[Any, ...] | None = None
    default: Any = REQUIRED
    description: str = ""

    @property
    def required(self) -> bool:
        return self.default is REQUIRED

    def describe(self) -> str:
        """How an error or `inspect` names this field's type: `float32[64]`, `int64`, `string: 'a' or 'b'`."""
        kind = self.dtype
        if self.shape:
            kind += "[" + ", ".join("any" if n is None else str(n) for n in self.shape) + "]"
        if self.choices:
            kind += ": " + " or ".join(repr(choice) for choice in self.choices)
        return kind


@dataclass(frozen=True, slots=True)
class Signature:
    """The inputs in their order (a row may be given as a list in that order) and the outputs."""

    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...] = ()

    @property
    def uniform(self) -> bool:
        """Whether the rows of any two requests have the same shape, so that they can share a batch unseen."""
        return all(None not in field.shape and field.dtype != "json" for field in self.inputs)

    def describe(self) -> str:
        return f"({_listed(self.inputs)}) -> ({_listed(self.outputs)})"


def _listed(fields: Sequence[Field]) -> str:
    return ", ".join(f"{field.name}: {field.describe()}" for field in fields)
