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

from hansang.core.wire import Reply, Request, Route
from hansang.engine.engine import Engine
from hansang.protocols.tabular_codec import TabularCodec
from hansang.registry.registry import Entry
from hansang.tasks.tabular import TABULAR, Blob, Table

_PATH = "/v1/models/{model}:predict"
_FORM = b"application/x-www-form-urlencoded"


class PredictV1:
    """The adapter; one codec per loaded model, kept as long as the model is."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def routes(self) -> Sequence[Route]:
        return [Route("POST", _PATH, self.predict)]

    async def predict(self, request: Request, model: str) -> Reply:
        """Decode, answer, encode."""
        entry = self._engine.entry(model, TABULAR)
        codec = _codec(entry)
        body = request.body
        # `curl -d '{...}'` says it sends a form.
        if request.headers.get(b"content-type", b"").startswith(_FORM) and not body.lstrip().startswith(b"{"):
            table, columnar = codec.decode_form(body), False
        else:
            table, columnar = codec.decode(body)
        result: Table = await self._engine.predict(entry, table, request.context, len(body))
        accept = request.headers.get(b"accept")
        if accept is not None and accept != b"*/*" and (blob := _only_blob(result, accept)):
            return Reply(blob.data, content_type=blob.content_type.encode("latin-1"))
        return Reply(codec.encode(result, columnar=columnar))

    def openapi(self) -> Mapping[str, Any]:
        """A typed operation for every model that is ready."""
        paths, schemas = {}, {}
        for entry in self._engine.registry:
            if entry.model.task is TABULAR and entry.state == "ready":
                codec = _codec(entry)
                body, defs = codec.json_schema()
                paths[_PATH.format(model=entry.name)] = {"post": _operation(entry, codec, body)}
                schemas.update(defs)
        return {"paths": paths, "components": {"schemas": schemas}}


def _codec(entry: Entry) -> TabularCodec:
    codec = entry.attachments.get(TabularCodec)
    if codec is None:
        codec = entry.attachments[TabularCodec] = TabularCodec(entry.name, entry.model.signature)
    return codec


def _only_blob(result: Table, accept: bytes) -> Blob | None:
    """The answer's bytes, if it is one blob of a type the caller asked for."""
    if result.rows != 1 or len(result.columns) != 1:
        return None
    value = next(iter(result.columns.values()))[0]
    if not isinstance(value, Blob):
        return None
    for wanted in accept.decode("latin-1").split(","):
        pattern = wanted.partition(";")[0].strip()
        if pattern != "*/*" and fnmatch(value.content_type, pattern):
            return value
    return None


def _operation(entry: Entry, codec: TabularCodec, body: Mapping[str, Any]) -> dict[str, Any]:
    signature = entry.model.signature
    about = signature.describe() if signature else "Untyped: any JSON is passed on as it is."
    title = str(entry.model.info.get("title") or entry.spec.display_name or entry.name)
    return {
        "tags": ["models"],
        "summary": f"Predict with {title}",
        "description": about,
        "operationId": f"predict_{entry.name}",
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": body, "example": codec.example()}},
        },
        "responses": {
            "200": {
                "description": "One prediction for each row, in order.",
                "content": {"application/json": {"schema": codec.result_schema()}},
            },
            "default": {"$ref": "#/components/responses/Error"},
        },
    }
