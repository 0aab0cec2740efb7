"""Fields of a signature as Python types, for pydantic to check JSON and forms against and to describe them.

Strict in JSON: `"1"` and `true` are not numbers, `1.5` is not an integer, base64 is base64. Lax in forms, where
everything is text. What a row or a body looks like is not here, but in `tabular_codec`.
"""

from __future__ import annotations

import binascii
import re
import types
from base64 import b64decode, b64encode
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    Required,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from annotated_types import Ge, Le, Len
from pydantic import BeforeValidator, FailFast, GetPydanticSchema, PlainSerializer, TypeAdapter, WithJsonSchema
from pydantic import Field as About
from pydantic_core import CoreSchema, core_schema, from_json
from typing_extensions import TypedDict

from hansang.core.signature import FLOATS, INTEGERS, Field
from hansang.tasks.tabular import Blob

BLOBS = ("bytes", "image")
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9.+_-]+/[A-Za-z0-9.+_-]+")
_BASE64 = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"


def _from_base64(value: Any) -> bytes:
    """Bytes, from standard base64; white space does not count. ValueError: pydantic tells it."""
    if not isinstance(value, str):
        raise ValueError("should be base64 text")
    try:
        return b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError) as exc:
        raise ValueError(f"is not base64: {exc}") from None


def _is_media_type(value: str) -> str:
    if not isinstance(value, str) or not _MEDIA_TYPE.fullmatch(value):
        raise ValueError("should be a media type such as image/png")
    return value


class EncodedBytes(TypedDict):
    """Bytes in JSON."""

    b64: Annotated[
        bytes,
        BeforeValidator(_from_base64),
        PlainSerializer(lambda data: b64encode(data).decode(), return_type=str),
        WithJsonSchema({"type": "string", "contentEncoding": "base64", "pattern": _BASE64}),
    ]
    content_type: NotRequired[
        Annotated[
            str,
            BeforeValidator(_is_media_type),
            WithJsonSchema({"type": "string", "pattern": f"^{_MEDIA_TYPE.pattern}$", "examples": ["image/png"]}),
        ]
    ]


def python_type(field: Field) -> Any:
    """The type that one row's value of this field has in JSON."""
    return _described(_shaped(_scalar(field), field), field)


def form_type(field: Field) -> Any:
    """The same for a form, where a value is text, or a list of texts: structured ones may be given as JSON."""
    return _described(_form_type(field), field)


def _form_type(field: Field) -> Any:
    if field.shape or (field.dtype == "json" and field.annotation not in (None, Any, str)):
        return Annotated[python_type(field), BeforeValidator(_from_json_text)]
    if field.choices:
        return _choice(field, strict=False)
    if field.dtype in BLOBS:
        return Annotated[EncodedBytes, BeforeValidator(lambda value: {"b64": value})]
    return _scalar(field)


def _described(kind: Any, field: Field) -> Any:
    """With what people and programs are told of it: its description, and the default that stands for it."""
    told = field.default is None or isinstance(field.default, bool | int | float | str)
    extra = {"default": field.default} if told and not field.required else None
    if extra is None and not field.description:
        return kind
    return Annotated[kind, About(description=field.description or None, json_schema_extra=extra)]


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
    fields: dict[str, Any] = {}
    for name, kind in get_type_hints(annotation, include_extras=True).items():
        required = name in annotation.__required_keys__
        if get_origin(kind) in (Required, NotRequired):
            required = get_origin(kind) is Required
            (kind,) = get_args(kind)  # noqa: PLW2901
        fields[name] = _portable(kind) if required else NotRequired[_portable(kind)]
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
