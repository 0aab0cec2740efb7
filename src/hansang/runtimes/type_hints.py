"""Type hints as fields: how a value travels that a function takes or gives, and how it becomes what the hint says.

A hint is described by a Kind. What a wire format checks is its business; here is only what remains to be done with a
checked value: a list becomes an array, bytes become an image. No functions here: see `function`.
"""

from __future__ import annotations

import sys
import types
from base64 import b64decode
from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import partial
from io import BytesIO
from pathlib import Path, PurePath
from typing import (
    Annotated,
    Any,
    ForwardRef,
    Literal,
    NewType,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)
from uuid import UUID

from hansang.core.errors import InvalidInput
from hansang.core.signature import DTYPES, FLOATS, INTEGERS, REQUIRED, Field
from hansang.tasks.tabular import Blob

Convert = Callable[[Any], Any]
_SCALARS = {bool: "bool", int: "int64", float: "float64", str: "string", bytes: "bytes"}
_READABLE = (
    *(Any, object, None, type(None), Ellipsis, bool, int, float, str, bytes, list, tuple, dict, set, frozenset),
    *(Mapping, MutableMapping, Decimal, date, datetime, time, timedelta, UUID, PurePath, Path),
)
_SEQUENCES = (list, Sequence, Iterable, Collection)


class Unsupported(Exception):
    """A hint that no JSON value can be read as."""


@dataclass(frozen=True, slots=True)
class Kind:
    """`annotation` is the type that a JSON value is checked against; `convert` is None where it arrives as hinted."""

    dtype: str = "json"
    shape: tuple[int | None, ...] = ()
    annotation: Any = None
    choices: tuple[Any, ...] | None = None
    convert: Convert | None = None
    description: str = ""
    optional: bool = False

    def field(self, name: str, default: Any = REQUIRED) -> Field:
        """A field of this kind. Bytes and images have no null: an optional one may be left out."""
        if self.optional and default is REQUIRED and self.dtype in ("bytes", "image"):
            default = None
        return Field(name, self.dtype, self.shape, self.annotation, self.choices, default, self.description)


def kind_of(hint: Any) -> Kind:
    """How a type hint travels. Raises Unsupported."""
    if hint is Any or hint is object or isinstance(hint, (TypeVar, ForwardRef)):
        return Kind()
    if isinstance(hint, NewType):
        return kind_of(hint.__supertype__)
    if type(hint).__name__ == "TypeAliasType":  # `type Name = ...`, from Python 3.12 on
        return kind_of(hint.__value__)
    if hint is None or hint is type(None):
        return Kind(annotation=type(None))
    if _is_image(hint):
        return Kind("image", convert=_image)
    if isinstance(hint, type) and hint in _SCALARS:
        return Kind(_SCALARS[hint], convert=_bytes if hint is bytes else None)
    origin = get_origin(hint)
    if origin is None:
        return _plain(hint)
    if origin is Annotated:
        return _annotated(hint)
    if origin is Literal:
        return _choices(get_args(hint))
    if origin in (Union, types.UnionType):
        return _union(hint)
    if _name(origin) == "numpy.ndarray":
        return _array(hint)
    if origin is tuple:
        return _tuple(get_args(hint))
    if origin in _SEQUENCES:
        return _list_of(kind_of(get_args(hint)[0]), None, None)
    return _checked(hint)


def _plain(hint: Any) -> Kind:
    """A bare class."""
    if _name(hint) == "numpy.ndarray":
        return _array(hint)
    if hint in (list, tuple, dict, set, Mapping):
        return Kind(annotation=hint)
    if isinstance(hint, type) and issubclass(hint, Enum):
        values = tuple(member.value for member in hint)
        kind = _choices(values) if all(isinstance(value, (int, str)) for value in values) else Kind(annotation=hint)
        return Kind(kind.dtype, annotation=kind.annotation, choices=kind.choices, convert=hint)
    if isinstance(hint, type) and hint.__module__ == "numpy" and (dtype := hint.__name__.rstrip("_")) in DTYPES:
        return Kind(dtype, convert=hint)
    return _checked(hint)


def _annotated(hint: Any) -> Kind:
    base, *notes = get_args(hint)
    kind = kind_of(base)
    description = next((note for note in notes if isinstance(note, str)), "")
    rules = [note for note in notes if not isinstance(note, str)]
    if rules and kind.convert is None:
        description = description or str(getattr(rules[0], "description", None) or "")
        return Kind(annotation=_checked(hint).annotation, description=description)
    return Kind(kind.dtype, kind.shape, kind.annotation, kind.choices, kind.convert, description, kind.optional)


def _choices(values: tuple[Any, ...]) -> Kind:
    types_ = {type(value) for value in values}
    (only,) = types_ if len(types_) == 1 else (None,)
    return Kind(_SCALARS.get(only, "json") if only is not None else "json", choices=values)


def _union(hint: Any) -> Kind:
    members = [member for member in get_args(hint) if member is not type(None)]
    optional = len(members) < len(get_args(hint))
    kinds = [kind_of(member) for member in members]
    special = next((kind for kind in kinds if kind.convert is not None), None)
    if special is None or special.convert is None:
        return Kind(annotation=hint, optional=optional)
    convert = partial(_unless_none, special.convert)
    if special.dtype in ("bytes", "image"):
        return Kind(special.dtype, special.shape, convert=convert, optional=optional)
    wires = [_wire(kind) for kind in kinds] + [None] * optional
    return Kind(
        annotation=Union[tuple(wires)],  # noqa: UP007 - a tuple of them
        convert=convert,
        optional=optional,
    )


def _tuple(members: tuple[Any, ...]) -> Kind:
    if len(members) == 2 and members[1] is Ellipsis:
        return _list_of(kind_of(members[0]), None, tuple)
    kinds = [kind_of(member) for member in members]
    if kinds and all(kind == kinds[0] for kind in kinds) and kinds[0].dtype != "json":
        return _list_of(kinds[0], len(kinds), tuple)
    wires = tuple(_wire(kind) for kind in kinds)
    return Kind(annotation=tuple[wires], convert=partial(_each_by_its_own, [kind.convert for kind in kinds]))  # type: ignore[valid-type]


def _list_of(inner: Kind, length: int | None, container: Convert | None) -> Kind:
    convert = partial(_each, inner.convert, container) if inner.convert or container else None
    if inner.dtype == "json":
        return Kind(annotation=list[_wire(inner)], convert=convert)  # type: ignore[misc]
    return Kind(inner.dtype, (length, *inner.shape), choices=inner.choices, convert=convert)


def _array(hint: Any) -> Kind:
    """`numpy.ndarray`, or `NDArray[numpy.float32]`."""
    dtype = None
    for part in get_args(hint):
        if get_origin(part) is not None and _name(get_origin(part)) == "numpy.dtype":
            dtype = get_args(part)[0]
    dtype = dtype if isinstance(dtype, type) and not _name(dtype).endswith("Any") else None
    return Kind(annotation=list[Any], convert=partial(_to_array, dtype))


def _checked(hint: Any) -> Kind:
    """A dataclass, a pydantic model, a dict, a date, ...: whatever is read from JSON as it is hinted."""
    _check(hint, set())
    return Kind(annotation=hint)


def _check(hint: Any, seen: set[Any]) -> None:
    """Raise Unsupported for a type that has no form in JSON, also deep inside. `seen` ends recursive types."""
    if isinstance(hint, NewType):
        hint = hint.__supertype__
    if type(hint).__name__ == "TypeAliasType":
        hint = hint.__value__
    if get_origin(hint) is Literal or hint in _READABLE or hint in seen or isinstance(hint, (TypeVar, ForwardRef)):
        return
    seen.add(hint)
    if get_origin(hint) is Annotated:
        _check(get_args(hint)[0], seen)
    elif get_origin(hint) is not None:
        if get_origin(hint) not in (*_READABLE, *_SEQUENCES, Union, types.UnionType):
            raise Unsupported(f"{hint} is no type of JSON's")
        for part in get_args(hint):
            _check(part, seen)
    elif is_dataclass(hint) or is_typeddict(hint) or hasattr(hint, "_fields"):
        for part in get_type_hints(hint, include_extras=True).values():
            _check(part, seen)
    elif not (hasattr(hint, "__get_pydantic_core_schema__") or (isinstance(hint, type) and issubclass(hint, Enum))):
        raise Unsupported(f"{_name(hint).removeprefix('builtins.')} is no type of JSON's")


def _wire(kind: Kind) -> Any:
    """The type that a value of this kind is checked against inside another."""
    made: Any = Any
    if kind.choices:
        made = Literal[kind.choices]
    elif kind.dtype in INTEGERS:
        made = int
    elif kind.dtype in FLOATS:
        made = float
    elif kind.dtype in ("bool", "string"):
        made = {"bool": bool, "string": str}[kind.dtype]
    elif kind.dtype == "json":
        made = Any if kind.annotation is None else kind.annotation
    else:
        raise Unsupported(f"{kind.dtype} cannot stand inside another type; take it as a parameter of its own")
    for _ in kind.shape:
        made = list[made]
    return made


def _is_image(hint: Any) -> bool:
    """`PIL.Image.Image`, or the module `PIL.Image`, as is often written."""
    if isinstance(hint, types.ModuleType):
        return hint.__name__ == "PIL.Image"
    return _name(hint) == "PIL.Image.Image"


def _name(hint: Any) -> str:
    return f"{getattr(hint, '__module__', '')}.{getattr(hint, '__qualname__', '')}"


def _unless_none(convert: Convert, value: Any) -> Any:
    return None if value is None else convert(value)


def _each(convert: Convert | None, container: Convert | None, values: Any) -> Any:
    made = values if convert is None else [convert(value) for value in values]
    return made if container is None else container(made)


def _each_by_its_own(converts: Sequence[Convert | None], values: Any) -> tuple[Any, ...]:
    return tuple(value if convert is None else convert(value) for convert, value in zip(converts, values, strict=True))


def _bytes(value: Any) -> Any:
    """The bytes of a Blob; also of `{"b64": ...}`, inside a list or a sample."""
    if isinstance(value, Blob):
        return value.data
    if isinstance(value, Mapping) and "b64" in value:
        data = value["b64"]
        return b64decode(data) if isinstance(data, str) else data
    return value


def _image(value: Any) -> Any:
    from PIL import Image, UnidentifiedImageError

    data = _bytes(value)
    if not isinstance(data, bytes):
        return value
    try:
        image = Image.open(BytesIO(data))
        image.load()
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        raise InvalidInput(
            f"The image cannot be read: its {len(data)} bytes are no PNG, JPEG, GIF, WebP or other known format.",
            hint='Send the file\'s bytes: {"b64": "..."} (base64).',
        ) from None
    return image


def _to_array(dtype: Any, value: Any) -> Any:
    import numpy as np

    try:
        array = np.asarray(value, dtype)
    except (ValueError, TypeError, OverflowError):
        array = None
    if array is None or (dtype is None and array.dtype.kind not in "biuf"):
        kind = "numbers" if dtype is None else np.dtype(dtype).name
        raise InvalidInput(
            f"Expected an array of {kind}; the lists are of different lengths, or hold something else.",
            hint="Send nested lists whose rows are equally long, such as [[1, 2], [3, 4]].",
        )
    return array


def kind_of_value(value: Any, *, fixed: bool) -> Kind:
    """What a sample tells: the type of a value, and with `fixed` also the lengths of its lists."""
    if isinstance(value, Blob):
        return Kind("image" if value.content_type.startswith("image/") else "bytes")
    if "numpy" in sys.modules and hasattr(value, "dtype") and hasattr(value, "shape"):
        dtype = value.dtype.name
        return Kind(dtype, tuple(value.shape)) if dtype in DTYPES else Kind()
    if type(value) in _SCALARS:
        return Kind(_SCALARS[type(value)])
    if isinstance(value, (list, tuple)) and value:
        kinds = {kind_of_value(item, fixed=fixed) for item in value}
        if {kind.dtype for kind in kinds} == {"int64", "float64"}:
            kinds = {Kind("float64", kind.shape) for kind in kinds}
        if len(kinds) == 1:
            (inner,) = kinds
            if inner.dtype != "json":
                # The lengths of texts' lists vary by nature.
                length = len(value) if fixed and inner.dtype != "string" else None
                return Kind(inner.dtype, (length, *inner.shape))
        return Kind(annotation=list[Any])
    return Kind(annotation=dict[str, Any]) if isinstance(value, Mapping) else Kind()
