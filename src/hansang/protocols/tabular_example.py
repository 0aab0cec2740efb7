"""An example of what a field takes, for error hints and the OpenAPI document.

Made from the field, or from the JSON schema of its type; it need not make sense, but it fits.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from pydantic import TypeAdapter

from hansang.core.signature import FLOATS, INTEGERS, Field
from hansang.protocols.tabular_types import python_type

_FORMATS = {
    "date": "2026-01-31",
    "date-time": "2026-01-31T12:00:00Z",
    "time": "12:00:00",
    "duration": "PT1S",
    "uuid": "12345678-1234-4678-8234-567812345678",
}
_ANY: dict[str, Any] = {}
_SCALARS = {"bool": True, "string": "text", "bytes": {"b64": "aGk="}, "image": {"b64": "aGk="}}
_SCALARS |= dict.fromkeys(INTEGERS, 1) | dict.fromkeys(FLOATS, 1.0)


def example(field: Field) -> Any:
    """A value that fits the field."""
    if not field.required and isinstance(field.default, bool | int | float | str):
        return field.default
    if field.choices:
        first = field.choices[0]
        value: Any = first.value if isinstance(first, Enum) else first
    elif field.dtype == "json":
        return _of_annotation(field)
    else:
        value = _SCALARS[field.dtype]
    for length in reversed(field.shape):
        value = [value] * (2 if length is None else length)
    return value


def _of_annotation(field: Field) -> Any:
    if field.annotation is None:
        return {}
    try:
        schema = TypeAdapter(python_type(field)).json_schema()
        return _of_schema(schema, schema.get("$defs", {}))
    except Exception:  # a type may bring its own code for pydantic, and its own schema
        return {}


def _of_schema(schema: Mapping[str, Any], parts: Mapping[str, Any]) -> Any:
    """The plainest value that fits a schema, as pydantic writes them."""
    if "$ref" in schema:
        return _of_schema(parts[schema["$ref"].rpartition("/")[2]], parts)
    for given in ("default", "const"):
        if given in schema:
            return schema[given]
    for listed in ("examples", "enum"):
        if schema.get(listed):
            return schema[listed][0]
    for either in ("anyOf", "oneOf", "allOf"):
        if either in schema:
            return _of_schema(schema[either][0], parts)
    match schema.get("type"):
        case "object":
            wanted = schema.get("required", ())
            return {name: _of_schema(schema["properties"][name], parts) for name in wanted}
        case "array":
            first = [_of_schema(part, parts) for part in schema.get("prefixItems", ())]
            more = max(schema.get("minItems", 0), 0 if first else 1) - len(first)
            return first + [_of_schema(schema.get("items", _ANY), parts)] * more
        case "integer" | "number":
            return _number(schema)
        case "string":
            text = _FORMATS.get(schema.get("format", ""), "text")
            return text.ljust(schema.get("minLength", 0), "t")[: schema.get("maxLength", None)]
        case "boolean":
            return True
        case "null":
            return None
    return {}


def _number(schema: Mapping[str, Any]) -> Any:
    """1 where that fits, else the nearest that does."""
    value = 1 if schema["type"] == "integer" else 1.0
    step = schema.get("multipleOf", value)
    if schema.get("minimum", value) > value:
        value = schema["minimum"]
    elif schema.get("exclusiveMinimum", value - 1) >= value:
        value = schema["exclusiveMinimum"] + step
    elif schema.get("maximum", value) < value:
        value = schema["maximum"]
    elif schema.get("exclusiveMaximum", value + 1) <= value:
        value = schema["exclusiveMaximum"] - step
    return value
