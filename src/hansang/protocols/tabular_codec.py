"""JSON and forms to tables and back, checked against a model's signature.

Shared by the formats that carry rows as JSON. The check is pydantic's, strict (`"1"` and `true` are not numbers) and
finite (no NaN, no Infinity); the words of an error are ours: where, what was expected, what was given. What a single
value must be is in `tabular_types`, and how the OpenAPI document tells it in `tabular_schema`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired
from urllib.parse import parse_qs

import orjson
from pydantic import ConfigDict, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from hansang.core.errors import InvalidInput, LoadFailed, ModelFailed
from hansang.core.signature import Field, Signature
from hansang.protocols.json_text import BOM, dumps, loads, may_overflow, parse
from hansang.protocols.tabular_example import example
from hansang.protocols.tabular_types import BLOBS, blob, form_type, list_of, python_type
from hansang.registry.registry import Entry
from hansang.tasks.tabular import Table

_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)
_LAX = ConfigDict(extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)
UNTYPED = ""
"""The one column of a table whose rows are any JSON."""
_FORM_FIELDS = 1000
_SHOWN = 40


def codec_of(entry: Entry) -> TabularCodec:
    """The codec of a loaded model, made once."""
    codec = entry.attachments.get(TabularCodec)
    if codec is None:
        codec = entry.attachments[TabularCodec] = TabularCodec(entry.name, entry.model.signature)
    return codec


class TabularCodec:
    """For one model. `signature` None: rows are any JSON, passed on as they are.

    `bare` checks a body of rows as lists (or bare values), `objects` one of rows by name, `columns` one of columns
    (`column` of the only one, without its name), `form` the one row of a form.
    """

    def __init__(self, model: str, signature: Signature | None) -> None:
        self.model = model
        self.fields = signature.inputs if signature else ()
        self.outputs = signature.outputs if signature else ()
        self.typed = signature is not None
        self._names = [field.name for field in self.fields]
        self._single = len(self.fields) == 1
        self._blobs = [field.name for field in self.fields if field.dtype in BLOBS]
        self._open = any(field.dtype == "json" for field in self.fields)
        if self.typed:
            try:
                self._make_adapters()
            except Exception as exc:  # a type may bring its own code for pydantic
                raise LoadFailed(
                    f"The inputs of {model} cannot be described: {(str(exc) or type(exc).__name__).splitlines()[0]}",
                    hint="Use numbers, str, bool, list, dict, dataclasses, numpy arrays or PIL images as type hints.",
                ) from None

    def _make_adapters(self) -> None:
        types = {field.name: python_type(field) for field in self.fields}
        forms = {field.name: form_type(field) for field in self.fields}
        row = _typed_dict("Row", self._optional(types), _STRICT)
        columns = _typed_dict("Columns", self._optional({name: list_of(kind) for name, kind in types.items()}), _STRICT)
        values: Any = tuple(types.values())
        self.objects = _body("Rows by name", "instances", list_of(row))
        self.bare = self.objects
        if self._single:
            self.column = _body("The one column", "inputs", list_of(values[0]))
        if values:
            self.bare = _body("Rows", "instances", list_of(values[0] if self._single else tuple[values]))
        self.columns = _body("Named columns", "inputs", columns)
        self.form = TypeAdapter(_typed_dict("Form", self._optional(forms), _LAX))

    def _optional(self, types: Mapping[str, Any]) -> dict[str, Any]:
        return {
            field.name: types[field.name] if field.required else NotRequired[types[field.name]] for field in self.fields
        }

    def decode(self, body: bytes) -> tuple[Table, bool]:
        """The table in a JSON body, and whether it came as named columns (and so does the answer)."""
        if not self.typed:
            return self._untyped(loads(body)), False
        if self._open and (b"NaN" in body or b"Infinity" in body or may_overflow(body)):
            loads(body)
        objects = not self._single and body.find(b"{", 1) > 0
        first, second = (self.objects, self.bare) if objects else (self.bare, self.objects)
        try:
            rows = first.validator.validate_json(body)["instances"]
        except ValidationError:
            return self._decode_otherwise(body, second)
        return self._table(rows, objects=objects), False

    def _decode_otherwise(self, body: bytes, second: TypeAdapter[Any]) -> tuple[Table, bool]:
        """Not in the form it looked like: the other one, columns, or an error that tells why."""
        parsed = parse(body)
        if body.startswith(BOM):
            return self.decode(body[len(BOM) :])
        self._check_keys(parsed)
        if "inputs" in parsed:
            return self._decode_columns(body, parsed["inputs"]), True
        try:
            return self._table(second.validate_json(body)["instances"], objects=second is self.objects), False
        except ValidationError:
            pass
        rows = parsed["instances"]
        named = isinstance(rows, list) and bool(rows) and isinstance(rows[0], dict) and self._looks_named(rows[0])
        try:
            rows = (self.objects if named else self.bare).validate_json(body)["instances"]
        except ValidationError as exc:
            raise self._explain(exc) from None
        return self._table(rows, objects=named), False

    def _check_keys(self, parsed: Any) -> None:
        """The body's outermost object has `instances`, or `inputs`, and nothing else."""
        if not isinstance(parsed, dict):
            what = _shown(parsed)
            raise InvalidInput(f"The body: expected an object, got {what}.", hint=self._usage(), param="instances")
        for name in parsed:
            if name not in ("instances", "inputs"):
                param = _short(name)
                message = f"{param} is not taken here; expected instances, or inputs."
                raise InvalidInput(message, hint=self._usage(), param=param)
        if len(parsed) != 1:
            message = "Expected instances, or inputs, not both." if parsed else "instances is missing."
            raise InvalidInput(message, hint=self._usage(), param="instances")

    def _looks_named(self, row: Mapping[str, Any]) -> bool:
        return not self._single or self._names[0] in row

    def _decode_columns(self, body: bytes, given: Any) -> Table:
        try:
            if self._single and isinstance(given, list):
                columns: dict[str, list[Any]] = {self._names[0]: self.column.validate_json(body)["inputs"]}
            else:
                columns = self.columns.validate_json(body)["inputs"]
        except ValidationError as exc:
            raise self._explain(exc) from None
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) != 1:
            told = f"The columns differ in length: {lengths}." if lengths else "inputs holds no column."
            raise InvalidInput(told, hint=self._usage(), param="inputs")
        rows = next(iter(lengths.values()))
        for field in self.fields:
            if field.name not in columns:
                columns[field.name] = [field.default] * rows
        return self._finish({name: columns[name] for name in self._names}, rows, "inputs")

    def decode_form(self, body: bytes) -> Table:
        """One row from an HTML form. Text is read as the field's type; a repeated name makes a list."""
        try:
            pairs = parse_qs(
                body.decode(),
                keep_blank_values=True,
                strict_parsing=bool(body),
                errors="strict",
                max_num_fields=_FORM_FIELDS,
            )
        except ValueError:
            raise InvalidInput(
                f"The form is not name=value&... in UTF-8, with at most {_FORM_FIELDS} values.", hint=self._usage()
            ) from None
        if not self.typed:
            return Table({UNTYPED: [{name: v[0] if len(v) == 1 else v for name, v in pairs.items()}]}, 1)
        lists = {field.name for field in self.fields if field.shape}
        row = {name: _form_value(v, listed=name in lists) for name, v in pairs.items()}
        return self._row(row)

    def row(self, values: Sequence[Any]) -> Table:
        """One row of numbers in the signature's order, read as laxly as a form's."""
        return self._row(dict(zip(self._names, values, strict=True)))

    def _row(self, row: Mapping[str, Any]) -> Table:
        try:
            checked: dict[str, Any] = self.form.validate_python(row)
        except ValidationError as exc:
            raise self._explain(exc, form=True) from None
        return self._table([checked], objects=True)

    def _untyped(self, parsed: Any) -> Table:
        if not isinstance(parsed, dict) or parsed.keys() != {"instances"} or not isinstance(parsed["instances"], list):
            raise InvalidInput('The body must be {"instances": [row, ...]}.', hint=self._usage(), param="instances")
        return self._finish({UNTYPED: parsed["instances"]}, len(parsed["instances"]), "instances")

    def _table(self, rows: Sequence[Any], *, objects: bool) -> Table:
        columns: Mapping[str, Sequence[Any]]
        if objects:
            columns = {
                field.name: [row[field.name] if field.required else row.get(field.name, field.default) for row in rows]
                for field in self.fields
            }
        elif self._single:
            columns = {self._names[0]: rows}
        else:
            columns = dict(zip(self._names, zip(*rows)))  # noqa: B905 - the rows were checked
        return self._finish(columns, len(rows), "instances")

    def _finish(self, columns: Mapping[str, Sequence[Any]], rows: int, where: str) -> Table:
        if rows == 0:
            raise InvalidInput(f"{where} is empty; expected at least one row.", hint=self._usage(), param=where)
        if self._blobs:
            columns = {**columns, **{name: [blob(value) for value in columns[name]] for name in self._blobs}}
        return Table(columns, rows)

    def _explain(self, exc: ValidationError, *, form: bool = False) -> InvalidInput:
        """The first fault, in our words."""
        fault = exc.errors(include_url=False, include_context=False)[0]
        location = [part for part in fault["loc"] if part != "[key]"]
        place = location if form else location[1:]
        field = self._field_at(place, form=form)
        where = _path(location, [] if form else self._names)
        if fault["type"] == "missing":
            message = f"{where} is missing."
            if location[0] == "instances" and not self._single and isinstance(location[-1], int):
                message = f"{where} is missing; a row given as a list holds every input."
        elif fault["type"] == "extra_forbidden":
            message = f"{where} is not an input of {self.model}; expected {', '.join(self._names) or 'none'}."
        else:
            said = fault["msg"].removeprefix("Value error, ")
            expected, detail = said.removeprefix("Input should be ").replace("a valid array", "a list"), ""
            if field is None and fault["type"] == "too_long":
                expected = f"{len(self.fields)} values ({', '.join(self._names)})"
            elif field is not None and field.dtype != "json":
                expected, detail = field.describe(), f" ({said})"
            message = f"{where}: expected {expected}, got {_shown(fault['input'])}{detail}."
        return InvalidInput(message, hint=self._usage(), param=where)

    def _field_at(self, place: Sequence[Any], *, form: bool) -> Field | None:
        """The field that a fault lies in; None if it lies in the row or the body itself."""
        if self._single and place:
            return self.fields[0]
        for part in place[:2]:
            if part in self._names:
                return self.fields[self._names.index(part)]
        if not form and len(place) >= 2 and isinstance(place[1], int):
            return self.fields[place[1]] if place[1] < len(self.fields) else None
        return None

    def _usage(self) -> str:
        if not self.typed:
            return 'Send {"instances": [row, ...]}; this model is untyped and takes any JSON as a row.'
        fields = ", ".join(f"{field.name}: {field.describe()}" for field in self.fields)
        shown = orjson.dumps(self.example()).decode()
        shown = shown if len(shown) <= 200 else shown[:200] + "..."
        return f"{self.model} takes ({fields}), for example {shown}"

    def encode(self, table: Table, *, columnar: bool) -> bytes:
        """The answer's JSON. Raises ModelFailed for what JSON cannot say (NaN, Infinity, an unknown type)."""
        columns = table.columns
        values: Any
        if len(columns) == 1:
            (values,) = columns.values()
            if len(values) != table.rows:
                raise self._ragged(table)
        else:
            if any(len(column) != table.rows for column in columns.values()):
                raise self._ragged(table)
            values = columns
            if not columnar:
                names = list(columns)
                values = [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return dumps({"outputs" if columnar else "predictions": values}, self.model)

    def _ragged(self, table: Table) -> ModelFailed:
        told = {name: len(column) for name, column in table.columns.items()}
        return ModelFailed(
            f"The model {self.model} answered {table.rows} rows with columns of other lengths: {told}.",
            hint="Have it return one value for each row.",
        )

    def example(self) -> dict[str, Any]:
        """A body that fits the signature."""
        if not self.typed:
            return {"instances": [{}]}
        row = [example(field) for field in self.fields]
        return {"instances": [row[0] if self._single else dict(zip(self._names, row, strict=True))]}


def _typed_dict(name: str, fields: Mapping[str, Any], config: ConfigDict) -> Any:
    made = TypedDict(name, dict(fields))  # type: ignore[misc]  # noqa: UP013
    made.__pydantic_config__ = config  # type: ignore[attr-defined]
    return made


def _body(title: str, key: str, kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(_typed_dict(title, {key: kind}, _STRICT))


def _form_value(texts: list[str], *, listed: bool) -> Any:
    """One text, or the list of a repeated name; one text may be a list written as JSON."""
    if len(texts) > 1:
        return texts
    return texts if listed and texts[0].lstrip()[:1] != "[" else texts[0]


def _path(location: Sequence[Any], names: Sequence[str]) -> str:
    """`instances[2].left`, for (`instances`, 2, 0) as for (`instances`, 2, `left`)."""
    text = _short(str(location[0])) if location else "body"
    for depth, part in enumerate(location[1:], start=1):
        if depth == 2 and isinstance(part, int) and len(names) > 1 and part < len(names):
            text += f".{names[part]}"
        else:
            text += f"[{part}]" if isinstance(part, int) else f".{_short(part)}"
    return text


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def _shown(value: Any) -> str:
    """A given value, by type and (shortened) text; of a list, its length too."""
    names = {dict: "object", list: "list", tuple: "list", str: "string", bool: "boolean"}
    name = names.get(type(value), type(value).__name__)
    if value is None:
        return "null"
    if isinstance(value, list | tuple | dict):
        return f"{name} of {len(value)}"
    return f"{name} {_short(repr(value))}"
