"""Fields of a signature as Python types, for pydantic to check JSON and forms against and to describe them.

Strict in JSON: `"1"` and `true` are not numbers, `1.5` is not an integer, base64 is base64. Lax in forms, where
everything is text. What a row or a body looks like is not here, but in `tabular_codec`.
"""

from __future__ import annotations

import binascii
import re
import types
from base64 import b64decode, b64encode
from collections.abc import Mapping
from enum import Enum
from typing import Annotated, Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

from annotated_types import Ge, Le, Len
from pydantic import BeforeValidator, FailFast, GetPydanticSchema, PlainSerializer, TypeAdapter, WithJsonSchema
from pydantic_core import CoreSchema, core_schema, from_json
from typing_extensions import TypedDict

from hansang.core.signature import FLOATS, INTEGERS, Field
from hansang.tasks.tabular import Blob

BLOBS = ("bytes", "image")
_MEDIA_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+(;.*)?")


def _from_base64(value: Any) -> bytes:
    """Bytes, from standard base64; white space does not count. ValueError: pydantic tells it."""
    if not isinstance(value, str):
        raise ValueError("should be base64 text")
    try:
        return b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError) as exc:
        raise ValueError(f"is not base64: {exc}") from None


def _is_media_type(value: str) -> str:
    if not _MEDIA_TYPE.fullmatch(value) or not value.isprintable() or not value.isascii():
        raise ValueError("should be a media type such as image/png")
    return value


class EncodedBytes(TypedDict):
    """Bytes in JSON."""

    b64: Annotated[
        bytes,
        BeforeValidator(_from_base64),
        PlainSerializer(lambda data: b64encode(data).decode(), return_type=str),
        WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
    ]
    content_type: NotRequired[Annotated[str, BeforeValidator(_is_media_type)]]


def python_type(field: Field) -> Any:
    """The type that one row's value of this field has in JSON."""
    return _shaped(_scalar(field), field)


def form_type(field: Field) -> Any:
    """The same for a form, where a value is text, or a list of texts: structured ones may be given as JSON."""
    if field.shape or (field.dtype == "json" and field.annotation not in (None, Any, str)):
        return Annotated[python_type(field), BeforeValidator(_from_json_text)]
    if field.choices:
        return _choice(field, strict=False)
    if field.dtype in BLOBS:
        return Annotated[EncodedBytes, BeforeValidator(lambda value: {"b64": value})]
    return _scalar(field)


def _from_json_text(value: Any) -> Any:
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        return from_json(value, allow_inf_nan=False)
    return value


def _shaped(kind: Any, field: Field) -> Any:
    for length in reversed(field.shape):
        kind = list_of(kind) if length is None else Annotated[list_of(kind), Len(length, length)]
    return kind


def list_of(kind: Any) -> Any:
    """A list whose first wrong element is told, and no other looked for."""
    return Annotated[list[kind], FailFast()]


def _scalar(field: Field) -> Any:
    if field.choices:
        return _choice(field)
    if field.dtype == "bool":
        return bool
    if field.dtype in INTEGERS:
        low, high = integer_range(field.dtype)
        return Annotated[int, Ge(low), Le(high)]
    if field.dtype in FLOATS:
        return float
    if field.dtype == "string":
        return str
    if field.dtype in BLOBS:
        return EncodedBytes
    return Any if field.annotation is None else _portable(field.annotation)


def integer_range(dtype: str) -> tuple[int, int]:
    """The least and the greatest value of an integer type."""
    bits = int(dtype.lstrip("uint"))
    return (0, 2**bits - 1) if dtype.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def _choice(field: Field, *, strict: bool = True) -> Any:
    """One of a few values, and of the field's type: `true` is not the choice 1."""
    literal: Any = Literal.__getitem__(field.choices)
    first: CoreSchema
    if field.dtype in INTEGERS:
        first = core_schema.int_schema(strict=strict)
    elif field.dtype in FLOATS:
        first = core_schema.float_schema(strict=strict)
    elif field.dtype == "bool":
        first = core_schema.bool_schema(strict=strict)
    else:
        return literal
    return Annotated[
        literal,
        GetPydanticSchema(lambda source, handler: core_schema.chain_schema([first, handler(source)])),
        WithJsonSchema(TypeAdapter(literal).json_schema()),
    ]


def _portable(annotation: Any) -> Any:
    """The annotation as pydantic takes it: before Python 3.12 it refuses `typing.TypedDict`, wherever it stands."""
    if is_typeddict(annotation):
        return _typed_dict(annotation)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is None or origin in (Literal, Annotated) or not arguments:
        return annotation
    made = tuple(_portable(part) if not isinstance(part, list) else part for part in arguments)
    if made == arguments:
        return annotation
    if origin in (Union, types.UnionType):
        return Union[made]  # noqa: UP007 - made of parts
    return origin[made if len(made) > 1 else made[0]]


def _typed_dict(annotation: Any) -> Any:
    hints: Mapping[str, Any] = get_type_hints(annotation)
    fields = {
        name: _portable(kind) if name in annotation.__required_keys__ else NotRequired[_portable(kind)]
        for name, kind in hints.items()
    }
    made = TypedDict(annotation.__name__, fields)  # type: ignore[misc]
    made.__doc__ = annotation.__doc__
    made.__pydantic_config__ = getattr(annotation, "__pydantic_config__", {})  # type: ignore[attr-defined]
    return made


def blob(value: Any) -> Any:
    """Decoded JSON of a field of bytes, as Blobs, however deep in lists."""
    if isinstance(value, list):
        return [blob(part) for part in value]
    if isinstance(value, dict):
        return Blob(value["b64"], value.get("content_type", "application/octet-stream"))
    return value


def example(field: Field) -> Any:
    """A value that fits the field."""
    if not field.required and isinstance(field.default, bool | int | float | str):
        return field.default
    if field.choices:
        first = field.choices[0]
        value: Any = first.value if isinstance(first, Enum) else first
    elif field.dtype in INTEGERS:
        value = 1
    elif field.dtype in FLOATS:
        value = 1.0
    else:
        value = {"bool": True, "string": "text", "json": {}}.get(field.dtype, {"b64": "aGk="})
    for length in reversed(field.shape):
        value = [value] * (2 if length is None else length)
    return value
