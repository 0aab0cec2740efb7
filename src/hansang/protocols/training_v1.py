"""Training over HTTP: `POST /v1/models/{model}/train` starts a job; the notes' `POST /train/{gate}` waits for it.

The body is JSON, or a multipart form with the same fields and a CSV file. Control plane.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import orjson
from fastapi import APIRouter
from fastapi import Request as HTTPRequest
from fastapi.responses import Response
from starlette.datastructures import UploadFile

from hansang.core.errors import BadRequest, HansangError, InvalidJSON, TooLarge
from hansang.core.wire import Route
from hansang.engine.engine import Engine
from hansang.protocols.jobs_v1 import shown

_MOST_JSON = 64 * 2**20
_BODY = {
    "type": "object",
    "properties": {
        "trainer": {"type": "string", "examples": ["perceptron", "mlp"]},
        "data": {"description": 'A gate ("and"), or rows: {"rows": [[0, 0, 0], ...], "columns": [...], "target": "y"}'},
        "target": {"type": "string", "description": "the column to be told; by default the last"},
        "options": {"type": "object", "examples": [{"epochs": 100}]},
        "seed": {"type": "integer", "minimum": 0},
        "format": {"type": "string", "examples": ["json", "safetensors"]},
    },
    "additionalProperties": False,
}


class TrainingV1:
    """The adapter: a router, and no data-plane routes."""

    uploads = (("POST", "/v1/models/{model}/train"),)

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.router = APIRouter()
        self._add_routes()

    def routes(self) -> Iterable[Route]:
        return ()

    def openapi(self) -> Mapping[str, Any]:
        return {}

    def _add_routes(self) -> None:
        content = {"application/json": {"schema": _BODY}, "multipart/form-data": {"schema": {"type": "object"}}}

        @self.router.get("/v1/trainers", tags=["jobs"])
        async def trainers() -> dict[str, Any]:
            """What can be trained, the options and their limits, and the formats."""
            return {"object": "list", "data": self._engine.trainers()}

        @self.router.post(
            "/v1/models/{model}/train",
            tags=["jobs"],
            status_code=202,
            openapi_extra={"requestBody": {"content": content}},
        )
        async def train(model: str, request: HTTPRequest) -> Response:
            """Train a model as a job; the result becomes the model's next version."""
            if request.headers.get("content-type", "").startswith("multipart/form-data"):
                job = await self._from_form(model, request)
            else:
                job = await self._engine.train(model, _json(await _body(request)), None)
            location = f"{request.scope.get('root_path', '')}/v1/jobs/{job.id}"
            body = orjson.dumps({**shown(job), "events": f"{location}/events"})
            return Response(body, 202, {"location": location}, media_type="application/json")

        @self.router.post("/train/{gate}", tags=["classic"])
        async def train_gate(gate: str) -> dict[str, str]:
            """Train a gate and wait for it, as the notes do."""
            job = await self._engine.train(gate.lower(), {"data": gate.lower()}, None)
            async for _ in self._engine.jobs.events(job.id):
                pass
            ended = await asyncio.to_thread(self._engine.jobs.get, job.id)
            if ended.state != "succeeded":
                error = ended.error or {}
                raise HansangError(error.get("message") or f"The training was {ended.state}.", hint=error.get("hint"))
            return {"result": "OK"}

    async def _from_form(self, model: str, request: HTTPRequest) -> Any:
        async with request.form(max_files=1) as form:
            fields = {key: value for key, value in form.items() if isinstance(value, str)}
            files = [value for value in form.values() if isinstance(value, UploadFile)]
            body: dict[str, Any] = {key: _field(key, text) for key, text in fields.items()}
            table = await _saved(files[0]) if files else None
            try:
                return await self._engine.train(model, body, table)
            finally:
                if table is not None:
                    await asyncio.to_thread(table.unlink, missing_ok=True)


async def _saved(file: UploadFile) -> Path:
    """An uploaded table, on disk while it is read."""
    descriptor, name = tempfile.mkstemp(suffix=".csv")
    try:
        with os.fdopen(descriptor, "wb") as copy:
            while piece := await file.read(2**20):
                await asyncio.to_thread(copy.write, piece)
    except BaseException:
        os.unlink(name)
        raise
    return Path(name)


async def _body(request: HTTPRequest) -> bytes:
    """The whole body. Only tables in a form may be as large as an upload."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > _MOST_JSON:
            raise TooLarge(
                f"The body is larger than {_MOST_JSON} bytes.", hint="Send a large table as a CSV in a form."
            )
    return bytes(body)


def _json(body: bytes) -> Mapping[str, Any]:
    if not body.strip():
        return {}
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise InvalidJSON(f"The body is not JSON: {exc.msg}.", hint='For example {"trainer": "mlp"}') from None
    if not isinstance(parsed, dict):
        raise BadRequest("The body must be a JSON object.", hint='For example {"trainer": "mlp"}', code="invalid_type")
    return parsed


def _field(key: str, text: str) -> Any:
    """A form's field: words for `trainer` and `format`, JSON for the rest (a bare word is itself)."""
    if key in ("trainer", "format", "target"):
        return text
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
