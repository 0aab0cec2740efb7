"""`GET /v1/models` and `GET /v1/models/{name}`: what is on the table.

OpenAI's list and object, so that its clients read them, with more fields of ours. A machine's own business (where a
file lies) is not told over HTTP. Mounted apps are not models and not listed; loading and unloading are not here.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from hansang.core import signature
from hansang.core.wire import Route
from hansang.engine.engine import Engine
from hansang.registry.registry import Entry

_PATHS = re.compile(r"(?<![\w.:/])(?:[A-Za-z]:)?(?:[\\/][^\\/\s'\":,;]+){2,}")
"""An absolute path of two parts or more, in a sentence. URLs and routes with braces are not meant."""


class ModelField(BaseModel):
    """One input or output of one row."""

    name: str
    type: str = Field(description="in words: float32[64], string: 'a' or 'b'")
    dtype: str
    shape: list[int | None] = Field(description="of one row; null is any length")
    required: bool
    default: Any = None
    choices: list[Any] | None = None
    description: str = ""


class ModelObject(BaseModel):
    """OpenAI's model object, and whether it is ready."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="seconds since 1970")
    owned_by: str = "hansang"
    ready: bool
    state: str
    task: str
    version: str
    versions: list[str] = Field(description="of the repository, the newest first, loaded or not")
    source: str
    format: str | None
    display_name: str | None
    last_error: str | None
    memory: int = Field(description="bytes that loading it added to the server; 0 where that is not known")
    metrics: dict[str, Any] | None = Field(description="what its training or its uploader measured of this version")


class ModelDetail(ModelObject):
    """A model object with what the model takes and gives, and where it is called."""

    typed: bool = Field(description="false: it takes any JSON, and nothing is known of its answers")
    signature: str | None
    inputs: list[ModelField]
    outputs: list[ModelField]
    routes: list[str]
    info: dict[str, Any] = Field(description="parameters, bytes, card: what its format tells")


class ModelList(BaseModel):
    """OpenAI's list."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


class ModelsV1:
    """The adapter: control-plane routes only."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.router = APIRouter(tags=["models"])
        self.router.get("/v1/models", operation_id="list_models", summary="Models")(self.list_models)
        self.router.get("/v1/models/{name}", operation_id="get_model", summary="One model")(self.get_model)

    def routes(self) -> Sequence[Route]:
        return ()

    def openapi(self) -> Mapping[str, Any]:
        return {}

    async def list_models(self) -> ModelList:
        """Every model, ready or not."""
        entries = list(self._engine.registry)
        stored = await asyncio.to_thread(lambda: [self._versions(entry) for entry in entries])
        found = [
            _about(entry) | {"versions": versions, "metrics": _short(metrics)}
            for entry, (versions, metrics) in zip(entries, stored, strict=True)
        ]
        return ModelList(data=[ModelObject(**about) for about in found])

    async def get_model(self, name: str, request: Request) -> ModelDetail:
        """One model, by `name` or `name@version`: what it takes and gives, and the routes that call it."""
        entry = self._engine.registry.find(name)
        model = entry.model
        versions, metrics = await asyncio.to_thread(self._versions, entry)
        return ModelDetail(
            **_about(entry),
            versions=versions,
            metrics=metrics,
            typed=model.signature is not None,
            signature=model.signature.describe() if model.signature else None,
            inputs=[_field(field) for field in model.signature.inputs] if model.signature else [],
            outputs=[_field(field) for field in model.signature.outputs] if model.signature else [],
            routes=[
                f"{route.method} {route.template.replace('{model}', entry.name)}"
                for route in request.app.state.routes
                if route.task is model.task
            ],
            info=_plain(model.info),
        )

    def _versions(self, entry: Entry) -> tuple[list[str], dict[str, Any] | None]:
        """The versions on disk, and the figures of the one that answers. Blocks."""
        manifests = self._engine.catalog.repository.versions(entry.name) if entry.stored else []
        metrics = [dict(manifest.metrics) for manifest in manifests if str(manifest.version) == entry.version]
        return [str(manifest.version) for manifest in manifests] or [entry.version], (
            metrics[0] or None
        ) if metrics else None


def _short(metrics: dict[str, Any] | None) -> dict[str, Any] | None:
    """A list of models tells single figures; curves and matrices stand with the model."""
    return metrics and {name: value for name, value in metrics.items() if not isinstance(value, list | dict)}


def _about(entry: Entry) -> dict[str, Any]:
    source = entry.spec.source
    error = entry.error.message if entry.error else entry.last_error
    place = source.text if source.path is None else source.path.name
    return {
        "id": entry.name,
        "created": entry.created,
        "ready": entry.state == "ready",
        "state": entry.state,
        "task": entry.model.task.name,
        "version": entry.version,
        "source": f"{place}:{source.attribute}" if source.attribute else place,
        "format": str(known) if (known := entry.model.info.get("format")) else None,
        "display_name": entry.spec.display_name,
        "last_error": None if error is None else _without_paths(error),
        "memory": entry.memory,
    }


def _field(field: signature.Field) -> ModelField:
    return ModelField(
        name=field.name,
        type=field.describe(),
        dtype=field.dtype,
        shape=list(field.shape),
        required=field.required,
        default=_plain(field.default) if field.required is False else None,
        choices=None if field.choices is None else [_plain(choice) for choice in field.choices],
        description=field.description,
    )


def _plain(value: Any) -> Any:
    """As JSON, whatever a runtime put there; of a path, the last part."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Path):
        return value.name
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(part) for part in value]
    return _without_paths(str(value))


def _without_paths(text: str) -> str:
    """`/home/someone/and.json is wrong` -> `and.json is wrong`."""
    return _PATHS.sub(lambda found: re.split(r"[\\/]", found.group())[-1], text)
