"""What a tabular model takes and gives, as OpenAPI tells it: media types with their JSON schemas.

Describing never fails: a type that has no schema is told as any JSON. The check itself is in `tabular_codec`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import TypeAdapter

from hansang.core.signature import Field
from hansang.protocols.tabular_codec import TabularCodec
from hansang.protocols.tabular_types import BLOBS, python_type

_JSON = "application/json"
_FORM = "application/x-www-form-urlencoded"


class TabularSchema:
    """One model's part of the document; `components` fills while the others are asked for."""

    def __init__(self, codec: TabularCodec) -> None:
        self._codec = codec
        self.components: dict[str, Any] = {}

    def request(self) -> dict[str, Any]:
        """The content of the request's body."""
        codec = self._codec
        body: dict[str, Any] = {"schema": _any_rows("instances"), "example": codec.example()}
        if not codec.typed:
            return {_JSON: body}
        forms = [codec.bare, codec.objects] if codec.bare is not codec.objects else [codec.objects]
        forms += [codec.columns] if codec.fields else []
        body["schema"] = {"anyOf": [_not_empty(self._schema(form, "request")) for form in forms]}
        _not_empty(self.components.get(f"{codec.model}.request.Columns", {}))
        content = {_JSON: body}
        if codec.fields and not any(field.shape or field.dtype in ("json", *BLOBS) for field in codec.fields):
            content[_FORM] = {"schema": self._schema(codec.form, "form")}
        return content

    def result(self) -> dict[str, Any]:
        """The content of the answer."""
        outputs = self._codec.outputs
        rows, columns = _any_rows("predictions"), _any_columns("outputs")
        if outputs:
            types = {field.name: self._output(field) for field in outputs}
            row = {"type": "object", "properties": types, "required": list(types)}
            lists = {name: {"type": "array", "items": kind} for name, kind in types.items()}
            whole = {"type": "object", "properties": lists, "required": list(lists)}
            if len(types) == 1:
                ((name, row),) = types.items()
                whole = lists[name]
            rows["properties"]["predictions"]["items"] = row
            columns["properties"]["outputs"] = whole
        schema = {"anyOf": [rows, columns]} if self._codec.typed and self._codec.fields else rows
        content = {_JSON: {"schema": schema}}
        if len(outputs) == 1 and outputs[0].dtype in BLOBS and not outputs[0].shape:
            media = "image/*" if outputs[0].dtype == "image" else "application/octet-stream"
            content[media] = {"schema": {"type": "string", "format": "binary"}}
        return content

    def _output(self, field: Field) -> dict[str, Any]:
        try:
            adapter = TypeAdapter(python_type(field))
        except Exception:  # a type may bring its own code for pydantic
            return {}
        return self._schema(adapter, "result", "serialization")

    def _schema(
        self, adapter: TypeAdapter[Any], kind: str, mode: Literal["validation", "serialization"] = "validation"
    ) -> dict[str, Any]:
        prefix = f"{self._codec.model}.{kind}."
        try:
            schema = adapter.json_schema(ref_template=f"#/components/schemas/{prefix}{{model}}", mode=mode)
        except Exception:  # a type may bring its own code for pydantic
            return {"type": "object", "description": "What it takes has no schema."} if mode == "validation" else {}
        self.components |= {prefix + name: part for name, part in schema.pop("$defs", {}).items()}
        return schema


def _not_empty(schema: dict[str, Any]) -> dict[str, Any]:
    """Its lists hold at least one row."""
    for part in schema.get("properties", {}).values():
        if part.get("type") == "array":
            part["minItems"] = 1
    return schema


def _any_rows(key: str) -> dict[str, Any]:
    rows: Mapping[str, Any] = {"type": "array", "minItems": 1, "items": {}}
    return {"type": "object", "properties": {key: dict(rows)}, "required": [key], "additionalProperties": False}


def _any_columns(key: str) -> dict[str, Any]:
    return {"type": "object", "properties": {key: {}}, "required": [key], "additionalProperties": False}
