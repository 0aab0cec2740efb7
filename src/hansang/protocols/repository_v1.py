"""The repository's routes: upload a version, list versions, load, unload, roll back, delete.

Control plane. Over HTTP an artifact is data: never code, never a class name, never a path of this machine. An upload
is streamed to the disk, whatever its size.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from fastapi import APIRouter, Query
from fastapi import Request as HTTPRequest
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import FormData, UploadFile
from starlette.requests import ClientDisconnect

from hansang.core.errors import BadRequest, ClientGone
from hansang.core.wire import Route
from hansang.engine.engine import Engine
from hansang.registry.catalog import Catalog, split
from hansang.registry.registry import Entry
from hansang.registry.repository import Incoming, Manifest, no_space

_PIECE = 2**20
"""Bytes handed to the disk at once."""


class RollBack(BaseModel):
    """Which version answers to the bare name."""

    model_config = ConfigDict(extra="forbid")
    version: int | None = Field(None, ge=1, description="by default, the one before the current one")


class RepositoryV1:
    """The adapter: a router, and no data-plane routes."""

    uploads = (("PUT", "/v1/models/{model}"),)
    """Routes whose bodies may be as large as an artifact."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.router = APIRouter(tags=["models"])
        self._add_versions()
        self._add_lifecycle()

    def routes(self) -> Iterable[Route]:
        return ()

    def openapi(self) -> Mapping[str, Any]:
        return {}

    @property
    def _catalog(self) -> Catalog:
        return self._engine.catalog

    def _add_versions(self) -> None:
        body = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}

        @self.router.put(
            "/v1/models/{model}", status_code=201, openapi_extra={"requestBody": {"required": True, "content": body}}
        )
        async def upload(model: str, request: HTTPRequest, filename: str | None = Query(None)) -> dict[str, Any]:
            """Upload a version, as the raw body with `?filename=clf.skops`, or as a multipart form's one file.

            It is tried before it is published; then it answers to the name.
            """
            if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
                manifest = await self._from_form(model, request, filename)
            else:
                if filename is None:
                    raise BadRequest(
                        "The file's name is missing; its ending tells the format.",
                        hint=f"curl -T clf.skops '.../v1/models/{model}?filename=clf.skops'",
                        param="filename",
                        code="missing_required_parameter",
                    )
                manifest = await self._from_pieces(model, filename, request.stream())
            return self._shown(manifest)

        @self.router.get("/v1/models/{model}/versions")
        async def versions(model: str) -> dict[str, Any]:
            """All versions of a model, the newest first."""
            entry = self._engine.registry.find(model)
            repository = self._catalog.repository
            manifests = await asyncio.to_thread(repository.versions, entry.name) if entry.stored else []
            data = [self._shown(manifest) for manifest in manifests] or [_configured(entry)]
            return {"object": "list", "data": data}

        @self.router.delete("/v1/models/{model}")
        async def delete(model: str) -> dict[str, Any]:
            """Delete a model with all its versions, or (`name@version`) one version that is not loaded."""
            await self._catalog.delete(model)
            return {"id": model, "object": "model", "deleted": True}

    def _add_lifecycle(self) -> None:
        @self.router.post("/v1/models/{model}/load")
        async def load(model: str) -> dict[str, Any]:
            """Load a model, or (`name@version`) a version beside the current one."""
            return _state(await self._catalog.load(model))

        @self.router.post("/v1/models/{model}/unload")
        async def unload(model: str) -> dict[str, Any]:
            """Unload a model; what it was asked before is answered."""
            await self._engine.registry.unload(model)
            return _state(self._engine.registry.find(model))

        @self.router.post("/v1/models/{model}/rollback")
        async def roll_back(model: str, body: RollBack | None = None) -> dict[str, Any]:
            """Let another version answer to the bare name, now and after a restart."""
            version = body.version if body else None
            if version is None:
                version = await self._version_before(model)
            return _state(await self._catalog.roll_back(model, version))

    async def _version_before(self, model: str) -> int:
        manifests = await asyncio.to_thread(self._catalog.repository.versions, model)
        current = await asyncio.to_thread(self._catalog.repository.current, model)
        older = [manifest.version for manifest in manifests if current is not None and manifest.version < current]
        if not older:
            raise BadRequest(
                f"{model} has no version before its current one.",
                hint=f"GET /v1/models/{model}/versions lists them.",
                param="version",
                code="no_older_version",
            )
        return older[0]

    async def _from_form(self, model: str, request: HTTPRequest, filename: str | None) -> Manifest:
        try:
            async with request.form(max_files=1) as form:
                return await self._from_files(model, form, filename)
        except ClientDisconnect:
            raise _gone() from None
        except OSError as exc:  # the form waits in a temporary file
            raise no_space(exc) from exc

    async def _from_files(self, model: str, form: FormData, filename: str | None) -> Manifest:
        files = [value for value in form.values() if isinstance(value, UploadFile)]
        if len(files) != 1:
            raise BadRequest(
                "The form holds no file.",
                hint="curl -X PUT -F file=@clf.skops ...",
                param="file",
                code="missing_file",
            )
        name = filename or files[0].filename or ""
        return await self._from_pieces(model, name, _read(files[0]))

    async def _from_pieces(self, model: str, filename: str, pieces: AsyncIterator[bytes]) -> Manifest:
        self._catalog.check(model, filename)
        opened = self._catalog.repository.incoming(filename)
        incoming = await asyncio.to_thread(opened.__enter__)
        try:
            try:
                await _write(incoming, pieces)
            except ClientDisconnect:
                raise _gone() from None
            provenance = {"source": "upload", "filename": filename}
            return await self._catalog.publish(incoming, model, provenance=provenance)
        finally:
            await asyncio.to_thread(opened.__exit__, None, None, None)

    def _shown(self, manifest: Manifest) -> dict[str, Any]:
        entry = self._engine.registry.version(manifest.name, str(manifest.version))
        current = self._engine.registry.current(manifest.name)
        return {
            "id": manifest.name,
            "object": "model.version",
            "version": manifest.version,
            "created": int(manifest.created),
            "current": current is entry and entry is not None,
            "state": entry.state if entry else "unloaded",
            "memory": entry.memory if entry else 0,
            **{key: getattr(manifest, key) for key in _SHOWN},
        }


_SHOWN = ("file", "sha256", "size", "format", "task", "signature", "metrics", "provenance")


def _gone() -> ClientGone:
    return ClientGone("The caller closed the connection in the middle of the upload.")


async def _read(file: UploadFile) -> AsyncIterator[bytes]:
    while piece := await file.read(_PIECE):
        yield piece


async def _write(incoming: Incoming, pieces: AsyncIterator[bytes]) -> None:
    """Write and hash on a thread while the next piece comes in."""
    gathered = bytearray()
    writing: asyncio.Future[None] | None = None
    try:
        async for piece in pieces:
            gathered += piece
            if len(gathered) >= _PIECE:
                if writing is not None:
                    await writing
                writing = asyncio.ensure_future(asyncio.to_thread(incoming.write, gathered))
                gathered = bytearray()
    finally:
        if writing is not None:
            await asyncio.wait({writing})
    if writing is not None:
        writing.result()
    await asyncio.to_thread(incoming.write, gathered)
    await asyncio.to_thread(incoming.finish)


def _state(entry: Entry) -> dict[str, Any]:
    return {"id": entry.name, "object": "model", "version": entry.version, "state": entry.state, "memory": entry.memory}


def _configured(entry: Entry) -> dict[str, Any]:
    """A model that is not in the repository has one version."""
    name, _ = split(entry.name)
    return {
        "id": name,
        "object": "model.version",
        "version": 1,
        "created": entry.created,
        "current": True,
        "state": entry.state,
    }
