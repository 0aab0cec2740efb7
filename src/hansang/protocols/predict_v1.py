"""`POST /v1/models/{model}:predict`: the prediction shape of TensorFlow Serving and KServe V1.

    {"instances": [row, ...]}            -> {"predictions": [row, ...]}
    {"inputs": {"name": [value, ...]}}   -> {"outputs": ...}              named columns
    a=1&b=2 (an HTML form)               -> {"predictions": [row]}

A row is an object by name, a list in the signature's order, or, with one input, the bare value. The check of a body
and the shape of an answer are in `tabular_codec`; here is only the route.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from typing import Any

from hansang.core.errors import InvalidJSON, LoadFailed, ModelFailed
from hansang.core.wire import Header, Reply, Request, Route
from hansang.engine.engine import Engine
from hansang.protocols.tabular_codec import codec_of
from hansang.protocols.tabular_schema import TabularSchema
from hansang.registry.registry import Entry
from hansang.tasks.tabular import TABULAR, Blob, Table

_PATH = "/v1/models/{model}:predict"
_FORM = b"application/x-www-form-urlencoded"
_INERT: tuple[Header, ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; sandbox"),
)
"""Bytes of a model are shown by browsers, never run as a page of ours."""


class PredictV1:
    """The adapter; one codec per loaded model, kept as long as the model is."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def routes(self) -> Sequence[Route]:
        return [Route("POST", _PATH, self.predict, task=TABULAR)]

    async def predict(self, request: Request, model: str) -> Reply:
        """Decode, answer, encode."""
        entry = self._engine.entry(model, TABULAR)
        codec = codec_of(entry)
        body = request.body
        # `curl -d '{...}'` says it sends a form.
        if request.headers.get(b"content-type", b"").startswith(_FORM) and not body.lstrip().startswith(b"{"):
            table, columnar = codec.decode_form(body), False
        else:
            try:
                table, columnar = codec.decode(body)
            except InvalidJSON as exc:
                raise _not_multipart(exc, request) from None
        result: Table = await self._engine.predict(entry, table, request.context, len(body))
        if result.rows != table.rows:
            raise _wrong_count(entry, table.rows, result.rows)
        accept = request.headers.get(b"accept")
        if accept is not None and accept != b"*/*" and (blob := _only_blob(result, accept)):
            return Reply(blob.data, content_type=blob.content_type.encode("latin-1"), headers=_INERT)
        return Reply(codec.encode(result, columnar=columnar))

    def openapi(self) -> Mapping[str, Any]:
        """A typed operation for every model that is ready."""
        paths: dict[str, Any] = {}
        schemas: dict[str, Any] = {}
        for entry in self._engine.registry:
            if entry.model.task is TABULAR and entry.state == "ready":
                operation, parts = _operation(entry)
                paths[_PATH.format(model=entry.name)] = {"post": operation}
                schemas |= parts
        return {"paths": paths, "components": {"schemas": schemas}}


def _not_multipart(error: InvalidJSON, request: Request) -> InvalidJSON:
    if request.headers.get(b"content-type", b"").startswith(b"multipart/"):
        error.hint = 'Multipart forms are not taken; send files as {"b64": "..."} in JSON.'
    return error


def _wrong_count(entry: Entry, asked: int, answered: int) -> ModelFailed:
    return ModelFailed(
        f"The model {entry.name} answered {answered} rows for {asked}.", hint="Have it return one for each row."
    )


def _only_blob(result: Table, accept: bytes) -> Blob | None:
    """The answer's bytes, if it is one blob of a type the caller asked for, and JSON is not asked for too."""
    if result.rows != 1 or len(result.columns) != 1:
        return None
    value = next(iter(result.columns.values()))[0]
    if not isinstance(value, Blob) or not value.content_type.isascii() or not value.content_type.isprintable():
        return None
    wanted = [part.partition(";")[0].strip() for part in accept.decode("latin-1").split(",")]
    if "application/json" in wanted:
        return None
    return value if any(pattern != "*/*" and fnmatch(value.content_type, pattern) for pattern in wanted) else None


def _operation(entry: Entry) -> tuple[dict[str, Any], dict[str, Any]]:
    """The operation, and the component schemas it refers to."""
    about = _about(entry)
    title = str(entry.model.info.get("title") or entry.spec.display_name or entry.name)
    operation = {
        "tags": ["models"],
        "summary": f"Predict with {title}",
        "description": about,
        "operationId": f"predict_{entry.name}",
        "responses": {},
    }
    try:
        schema = TabularSchema(codec_of(entry))
    except LoadFailed as exc:
        return {**operation, "description": f"{about}\n\nIt cannot be called: {exc.message}"}, {}
    operation["requestBody"] = {"required": True, "content": schema.request()}
    operation["responses"] = {
        "200": {"description": "One prediction for each row, in order.", "content": schema.result()}
    }
    return operation, schema.components


def _about(entry: Entry) -> str:
    """What `inspect` tells, in a few lines: what it takes and gives, what it is, what it is good for."""
    signature, info = entry.model.signature, entry.model.info
    lines = [signature.describe() if signature else "Untyped: any JSON is passed on as it is."]
    if info.get("description"):
        lines.append(str(info["description"]))
    facts = {key: info.get(key) for key in ("format", "parameters", "bytes")}
    if isinstance(facts["parameters"], Mapping):
        facts["parameters"] = ", ".join(f"{count} {dtype}" for dtype, count in facts["parameters"].items())
    card = info.get("card")
    if isinstance(card, Mapping):
        facts |= {key: card.get(key) for key in ("architecture", "data", "limits", "licence")}
    lines.append("\n".join(f"- {key}: {value}" for key, value in facts.items() if value))
    # Markdown, partly from a model's file: a tag in it is text.
    return "\n\n".join(filter(None, lines)).replace("&", "&amp;").replace("<", "&lt;")
