"""JSON and forms to tables and back, checked against a model's signature.

Shared by the formats that carry rows as JSON. The check is pydantic's, strict (`"1"` and `true` are not numbers) and
finite (no NaN, no Infinity); the words of an error are ours: where, what was expected, what was given.
"""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NotRequired
from urllib.parse import parse_qs

import orjson
from annotated_types import Ge, Le, Len
from pydantic import Base64Bytes, ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError
from typing_extensions import TypedDict

from hansang.core.errors import HansangError, InvalidInput, InvalidJSON, LoadFailed, ModelFailed
from hansang.core.signature import FLOATS, INTEGERS, Field, Signature
from hansang.tasks.tabular import Blob, Table

_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)
_LAX = ConfigDict(extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)
UNTYPED = ""
"""The one column of a table whose rows are any JSON."""


class EncodedBytes(TypedDict):
    """Bytes in JSON."""

    b64: Base64Bytes
    content_type: NotRequired[str]


def python_type(field: Field) -> Any:
    """The type that pydantic checks one row's value of this field against."""
    kind: Any
    if field.choices:
        kind = Literal[field.choices]
    elif field.dtype == "bool":
        kind = bool
    elif field.dtype in INTEGERS:
        bits, signed = int(field.dtype.lstrip("uint")), not field.dtype.startswith("u")
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        kind = Annotated[int, Ge(low), Le(high)]
    elif field.dtype in FLOATS:
        kind = float
    elif field.dtype == "string":
        kind = str
    elif field.dtype in ("bytes", "image"):
        kind = EncodedBytes
    else:
        kind = Any if field.annotation is None else field.annotation
    for length in reversed(field.shape):
        kind = _list_of(kind) if length is None else Annotated[_list_of(kind), Len(length, length)]
    return kind


class TabularCodec:
    """For one model. `signature` None: rows are any JSON, passed on as they are."""

    def __init__(self, model: str, signature: Signature | None) -> None:
        self._model = model
        self._fields = signature.inputs if signature else ()
        self._outputs = signature.outputs if signature else ()
        self._names = [field.name for field in self._fields]
        self._many = len(self._fields) > 1
        self._typed = signature is not None
        self._blobs = [field.name for field in self._fields if field.dtype in ("bytes", "image")]
        self._open = any(field.dtype == "json" for field in self._fields)
        if self._typed:
            try:
                self._make_adapters()
            except PydanticSchemaGenerationError as exc:
                raise LoadFailed(
                    f"The inputs of {model} cannot be described: {exc.message.splitlines()[0]}",
                    hint="Use numbers, str, bool, list, dict, dataclasses, numpy arrays or PIL images as type hints.",
                ) from None

    def _make_adapters(self) -> None:
        types = {field.name: python_type(field) for field in self._fields}
        required = {
            field.name: types[field.name] if field.required else NotRequired[types[field.name]]
            for field in self._fields
        }
        row = _typed_dict(f"{self._model}.Row", required, _STRICT)
        values: Any = tuple(types.values())
        bare: Any = values[0] if len(values) == 1 else tuple[values]
        columns = {name: _list_of(kind) for name, kind in types.items()}
        self._objects = _body(self._model, "instances", _list_of(row))
        self._bare = _body(self._model, "instances", _list_of(bare)) if values else self._objects
        self._columns = _body(self._model, "inputs", _typed_dict(f"{self._model}.Columns", columns, _STRICT), _STRICT)
        self._form = TypeAdapter(_typed_dict(f"{self._model}.Form", required, _LAX))

    def decode(self, body: bytes) -> tuple[Table, bool]:
        """The table in a JSON body, and whether it came as named columns (and so does the answer)."""
        if not self._typed or (self._open and (b"NaN" in body or b"Infinity" in body)):
            parsed = loads(body)
            if not self._typed:
                return self._untyped(parsed)
        objects = self._many and body.find(b"{", 1) > 0
        first, second = (self._objects, self._bare) if objects else (self._bare, self._objects)
        try:
            rows = first.validator.validate_json(body)["instances"]
        except ValidationError:
            return self._decode_otherwise(body, first, second)
        return self._table(rows, objects=objects), False

    def _decode_otherwise(self, body: bytes, first: Any, second: Any) -> tuple[Table, bool]:
        """Not in the form it looked like: the other one, columns, or an error that tells why."""
        parsed = loads(body)
        if isinstance(parsed, dict) and "inputs" in parsed:
            return self._decode_columns(body, parsed), True
        try:
            return self._table(second.validate_json(body)["instances"], objects=second is self._objects), False
        except ValidationError:
            pass
        rows: Any = parsed.get("instances") if isinstance(parsed, dict) else None
        named = isinstance(rows, list) and bool(rows) and isinstance(rows[0], dict) and self._looks_named(rows[0])
        adapter = self._objects if named else self._bare
        try:
            adapter.validate_json(body)
        except ValidationError as exc:
            raise self._explain(exc) from None
        raise InvalidInput("The body fits no form of this model.", hint=self._usage())

    def _looks_named(self, row: Mapping[str, Any]) -> bool:
        return len(self._fields) != 1 or self._names[0] in row

    def _decode_columns(self, body: bytes, parsed: Mapping[str, Any]) -> Table:
        if len(self._fields) == 1 and not isinstance(parsed["inputs"], dict):
            body = orjson.dumps({**parsed, "inputs": {self._names[0]: parsed["inputs"]}})
        try:
            columns: dict[str, list[Any]] = self._columns.validate_json(body)["inputs"]
        except ValidationError as exc:
            raise self._explain(exc) from None
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) != 1:
            raise InvalidInput(f"The columns differ in length: {lengths}.", hint=self._usage(), param="inputs")
        return self._finish(columns, next(iter(lengths.values())), "inputs")

    def decode_form(self, body: bytes) -> Table:
        """One row from an HTML form. Text is read as the field's type; a repeated name makes a list."""
        try:
            pairs = parse_qs(body.decode(), keep_blank_values=True, strict_parsing=bool(body))
        except ValueError:
            raise InvalidInput("The form is not name=value&...", hint=self._usage()) from None
        if not self._typed:
            return Table({UNTYPED: [{name: v[0] if len(v) == 1 else v for name, v in pairs.items()}]}, 1)
        lists = {field.name for field in self._fields if field.shape}
        row = {name: v if name in lists or len(v) > 1 else v[0] for name, v in pairs.items()}
        try:
            checked: dict[str, Any] = self._form.validate_python(row)
        except ValidationError as exc:
            raise self._explain(exc) from None
        return self._table([checked], objects=True)

    def _untyped(self, parsed: Any) -> tuple[Table, bool]:
        if not isinstance(parsed, dict) or parsed.keys() != {"instances"} or not isinstance(parsed["instances"], list):
            raise InvalidInput('The body must be {"instances": [row, ...]}.', hint=self._usage(), param="instances")
        return self._finish({UNTYPED: parsed["instances"]}, len(parsed["instances"]), "instances"), False

    def _table(self, rows: Sequence[Any], *, objects: bool) -> Table:
        columns: Mapping[str, Sequence[Any]]
        if objects:
            columns = {
                field.name: [row[field.name] if field.required else row.get(field.name, field.default) for row in rows]
                for field in self._fields
            }
        elif self._many:
            columns = dict(zip(self._names, zip(*rows)))  # noqa: B905 - the rows were checked
        else:
            columns = {self._names[0]: rows}
        return self._finish(columns, len(rows), "instances")

    def _finish(self, columns: Mapping[str, Sequence[Any]], rows: int, where: str) -> Table:
        if rows == 0:
            raise InvalidInput(f"{where} is empty; expected at least one row.", hint=self._usage(), param=where)
        if self._blobs:
            decoded = {name: [_blob(value) for value in columns[name]] for name in self._blobs}
            columns = {**columns, **decoded}
        return Table(columns, rows)

    def _explain(self, exc: ValidationError) -> InvalidInput:
        """The first fault, in our words."""
        fault = exc.errors(include_url=False)[0]
        location = list(fault["loc"])
        field = self._field_at(location)
        where = _path(location, self._names)
        given = _shown(fault["input"])
        if fault["type"] == "missing":
            message = f"{where} is missing."
        elif fault["type"] == "extra_forbidden":
            known = ", ".join(self._names) if len(location) > 1 else "instances, or inputs"
            message = f"{where} is not an input of {self._model}; expected {known}."
        else:
            expected = field.describe() if field else fault["msg"].removeprefix("Input should be ")
            detail = "" if field is None else f" ({fault['msg']})"
            message = f"{where}: expected {expected}, got {given}{detail}."
        return InvalidInput(message, hint=self._usage(), param=where)

    def _field_at(self, location: Sequence[Any]) -> Field | None:
        if len(self._fields) == 1 and len(location) >= 2:
            return self._fields[0]
        for part in location[1:]:
            if part in self._names:
                return self._fields[self._names.index(part)]
        if len(location) >= 3 and location[0] == "instances" and isinstance(location[2], int):
            return self._fields[location[2]] if location[2] < len(self._fields) else None
        return None

    def _usage(self) -> str:
        if not self._typed:
            return 'Send {"instances": [row, ...]}; this model is untyped and takes any JSON as a row.'
        fields = ", ".join(f"{field.name}: {field.describe()}" for field in self._fields)
        return f"{self._model} takes ({fields}), for example {orjson.dumps(self.example()).decode()}"

    def encode(self, table: Table, *, columnar: bool) -> bytes:
        """The answer's JSON. Raises ModelFailed for what JSON cannot say (NaN, Infinity, an unknown type)."""
        columns = table.columns
        values: Any
        if len(columns) == 1:
            values = next(iter(columns.values()))
        elif columnar:
            values = columns
        else:
            names = list(columns)
            values = [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        try:
            body = orjson.dumps(
                {"outputs" if columnar else "predictions": values},
                default=_jsonable,
                option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS,
            )
        except TypeError as exc:
            raise _unspeakable(self._model, str(exc.__cause__ or exc)) from None
        if b"null" in body and _not_finite(values):
            raise _unspeakable(self._model, "the answer holds NaN or Infinity")
        return body

    def json_schema(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The body's JSON schema, and the component schemas it refers to."""
        if not self._typed:
            return {"type": "object", "properties": {"instances": {"type": "array", "minItems": 1, "items": {}}},
                    "required": ["instances"], "additionalProperties": False}, {}  # fmt: skip
        components: dict[str, Any] = {}
        options = []
        for adapter in (self._bare, self._objects, self._columns):
            schema = adapter.json_schema(ref_template="#/components/schemas/" + self._model + ".{model}")
            components |= {f"{self._model}.{name}": part for name, part in schema.pop("$defs", {}).items()}
            options.append(schema)
        return {"anyOf": options}, components

    def result_schema(self) -> dict[str, Any]:
        """The answer's JSON schema."""
        items: dict[str, Any] = {}
        schemas = {field.name: _output_schema(field) for field in self._outputs}
        if len(schemas) == 1:
            (items,) = schemas.values()
        elif schemas:
            items = {"type": "object", "properties": schemas}
        return {"type": "object", "properties": {"predictions": {"type": "array", "items": items}}}

    def example(self) -> dict[str, Any]:
        """A body that fits the signature."""
        if not self._typed:
            return {"instances": [{}]}
        row = [_example(field) for field in self._fields]
        return {"instances": [row[0] if len(row) == 1 else dict(zip(self._names, row, strict=True))]}


def loads(body: bytes) -> Any:
    """JSON, or InvalidJSON with the offset."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        what = exc.msg.partition(": line")[0]
        raise InvalidJSON(
            f"The body is not JSON: {what} at character {exc.pos}.",
            hint="Send a JSON object, in UTF-8." if body else "The body is empty; send a JSON object.",
        ) from None


def _list_of(kind: Any) -> Any:
    return list[kind]


def _typed_dict(name: str, fields: Mapping[str, Any], config: ConfigDict) -> Any:
    made = TypedDict(name, dict(fields))  # type: ignore[misc]  # noqa: UP013
    made.__pydantic_config__ = config  # type: ignore[attr-defined]
    return made


def _body(model: str, key: str, kind: Any, config: ConfigDict = _STRICT) -> TypeAdapter[Any]:
    return TypeAdapter(_typed_dict(f"{model}.{key}", {key: kind}, config))


def _blob(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return Blob(value["b64"], value.get("content_type", "application/octet-stream"))


def _path(location: Sequence[Any], names: Sequence[str]) -> str:
    """`instances[2].left`, for (`instances`, 2, 0) as for (`instances`, 2, `left`)."""
    text = str(location[0]) if location else "body"
    for depth, part in enumerate(location[1:], start=1):
        if depth == 2 and isinstance(part, int) and len(names) > 1 and part < len(names):
            text += f".{names[part]}"
        else:
            text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text


def _shown(value: Any) -> str:
    """A given value, by type and (shortened) text; of a list, its length too."""
    names = {dict: "object", list: "list", tuple: "list", str: "string", bool: "boolean", type(None): "null"}
    name = names.get(type(value), type(value).__name__)
    if value is None:
        return "null"
    if isinstance(value, (list, tuple, dict)):
        return f"{name} of {len(value)}"
    text = repr(value)
    return f"{name} {text if len(text) <= 40 else text[:37] + '...'}"


def _jsonable(value: Any) -> Any:
    if isinstance(value, Blob):
        return {"b64": b64encode(value.data).decode(), "content_type": value.content_type}
    for method in ("model_dump", "tolist"):
        if hasattr(value, method):
            return getattr(value, method)()
    if isinstance(value, (bytes, bytearray)):
        return {"b64": b64encode(value).decode(), "content_type": "application/octet-stream"}
    if isinstance(value, (set, frozenset)):
        return list(value)
    raise TypeError(f"the answer holds a {type(value).__name__}, which JSON has no form for")


def _not_finite(value: Any) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, Mapping):
        return any(map(_not_finite, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(_not_finite, value))
    return hasattr(value, "tolist") and _not_finite(value.tolist())


def _unspeakable(model: str, why: str) -> HansangError:
    return ModelFailed(
        f"The answer of {model} cannot be sent as JSON: {why}.",
        hint="Have the model return finite numbers, strings, lists, dicts, dataclasses, arrays, images or bytes.",
    )


def _output_schema(field: Field) -> dict[str, Any]:
    try:
        return TypeAdapter(python_type(field)).json_schema(mode="serialization")
    except Exception:  # pydantic has no schema for it; the answer is JSON all the same
        return {}


def _example(field: Field) -> Any:
    if field.choices:
        value: Any = field.choices[0]
    elif field.default is not None and not field.required and isinstance(field.default, (bool, int, float, str)):
        return field.default
    else:
        value = {"bool": True, "string": "text", "json": {}, "bytes": {"b64": ""}, "image": {"b64": ""}}.get(
            field.dtype
        )
        if value is None:
            value = 1 if field.dtype in INTEGERS else 1.0
    for length in reversed(field.shape):
        value = [value] * (min(length, 4096) if length is not None else 2)
    return value
