"""The OpenAPI document: one for both planes, made for the models that are loaded now.

FastAPI describes the control plane and each protocol adapter its own routes; here the parts become one, and every
operation gets the errors that it can answer, in the shapes that `errors` writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from hansang import __version__
from hansang.core.wire import ProtocolAdapter
from hansang.http.errors import is_classic

PUBLIC: dict[str, Any] = {"openapi_extra": {"security": []}}
"""Options of a route that asks for no key."""

_TAGS = [
    {"name": "models", "description": "What is on the table, and predictions: one operation for every model."},
    {"name": "jobs", "description": "Training, and other long work that can be watched and cancelled."},
    {"name": "openai", "description": "OpenAI's routes, for its clients."},
    {"name": "classic", "description": "One prediction in an address, for browsers and beginners."},
    {"name": "server", "description": "Who answers, and how it is."},
]
_NULLABLE = {"type": ["string", "null"]}
_SCHEMAS = {
    "Error": {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["message", "type", "param", "code", "hint"],
                "additionalProperties": False,
                "properties": {
                    "message": {"type": "string", "description": "What happened, and what was expected."},
                    "type": {"type": "string"},
                    "param": {**_NULLABLE, "description": "Where in the request."},
                    "code": {**_NULLABLE, "description": "For programs."},
                    "hint": {**_NULLABLE, "description": "What to do next."},
                },
            }
        },
    },
    "ClassicError": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}},
}
_RESPONSES = {
    "400": "The request is wrong: the message says where, what was expected, and what was given.",
    "401": "No key, or not a right one.",
    "404": "No model of that name, or nothing there.",
    "413": "The body is over its limit.",
    "500": "The model failed; the server's log says why, under the request id.",
    "503": "Not now: the model's queue is full, or it is loading.",
    "504": "The model did not answer before the deadline.",
    "default": "Any other error.",
}


def openapi_document(
    app: FastAPI, adapters: Sequence[ProtocolAdapter], secured: bool, root_path: str = ""
) -> dict[str, Any]:
    """The whole document. `root_path`: where the server is mounted."""
    document = get_openapi(
        title="hansang",
        version=__version__,
        description="Every model on the table. Data-plane operations are typed by the models that are loaded.",
        routes=app.routes,
        tags=_TAGS,
        servers=[{"url": root_path}] if root_path else None,
    )
    components: dict[str, Any] = document.setdefault("components", {})
    schemas: dict[str, Any] = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for adapter in adapters:
        part: Mapping[str, Any] = adapter.openapi()
        document["paths"].update(part.get("paths", {}))
        schemas.update(part.get("components", {}).get("schemas", {}))
    schemas.update(_SCHEMAS)
    components["responses"] = {
        "Error": _response("default", "Error"),
        "ClassicError": _response("default", "ClassicError"),
    }
    for path, operation in _operations(document):
        _add_errors(path, operation, secured)
    if secured:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    return document


def _operations(document: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for operation in item.values():
            yield path, operation


def _add_errors(path: str, operation: dict[str, Any], secured: bool) -> None:
    """Say which errors it answers, where it does not say so itself. FastAPI's own 422 is never sent."""
    responses = operation["responses"]
    responses.pop("422", None)
    statuses = ["default"]
    if "parameters" in operation or "requestBody" in operation:
        statuses += ["400", "404"]
    if "requestBody" in operation:
        statuses += ["413", "500", "503", "504"]
    if secured and operation.get("security") != []:
        statuses.append("401")
    shape = "ClassicError" if is_classic(path) else "Error"
    for status in sorted(statuses):
        responses.setdefault(status, _response(status, shape))


def _response(status: str, shape: str) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{shape}"}
    return {"description": _RESPONSES[status], "content": {"application/json": {"schema": schema}}}
