"""The repository's versions as models on the table: upload, load, unload, roll back, delete.

It joins the disk (`repository`) and what is loaded (`registry`). A new version is tried before it is published, and
takes over only when it is ready, so a swap drops no request and a bad upload changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hansang.core.errors import Conflict, HansangError, NotFound
from hansang.core.model import Model
from hansang.core.source import PYTHON, Source
from hansang.registry.registry import Entry, ModelSpec, Registry
from hansang.registry.repository import Incoming, Manifest, Placed, Repository

log = logging.getLogger("hansang.models")


class Catalog:
    """Lives on the event loop; the disk is touched off it. Unsafe artifacts are refused when they are opened."""

    def __init__(self, repository: Repository, registry: Registry) -> None:
        self.repository = repository
        self.registry = registry
        self._locks: dict[str, asyncio.Lock] = {}

    async def start(self) -> None:
        """Put every model's current version on the table. One that fails stays there, with its reason."""
        await asyncio.to_thread(self.repository.clean)
        for name in await asyncio.to_thread(self.repository.names):
            if self.registry.knows(name):
                log.warning("%s is served from the command line; its versions in the repository wait", name)
                continue
            manifest = await asyncio.to_thread(self.repository.get, name)
            try:
                await self.registry.deploy(self._spec(manifest), version=str(manifest.version))
            except HansangError as exc:
                log.error("%s@%d could not be loaded: %s", name, manifest.version, exc.message)

    async def publish(self, incoming: Incoming, name: str, **facts: Any) -> Manifest:
        """Try a finished upload, publish it as the next version, and let it answer to the name.

        Raises what is wrong with it; nothing has changed then. `facts` go into the manifest.
        """
        self.refuse_foreign(name)
        if Path(incoming.path.name).suffix.lower() in PYTHON:
            raise Conflict("Code is never taken over HTTP.", hint="Serve it from the command line: hansang serve FILE")
        placed = await asyncio.to_thread(self.repository.place, incoming, name)
        try:
            spec = self._spec_of(placed, facts.get("options", {}), facts.get("display_name"))
            entry = await self.registry.prepare(spec, version=str(placed.version))
            manifest = await asyncio.to_thread(self._publish, placed, entry.model, facts)
        except BaseException:
            await asyncio.to_thread(self.repository.discard, placed)
            raise
        async with self._lock(name):
            self.registry.swap(entry)
        return manifest

    def _publish(self, placed: Placed, model: Model, facts: Mapping[str, Any]) -> Manifest:
        known = {
            "format": str(model.info.get("format", placed.path.suffix.lstrip("."))),
            "task": model.task.name,
            "signature": model.signature.describe() if model.signature else None,
        }
        manifest = self.repository.publish(placed, **{**known, **facts})
        self.repository.set_current(placed.name, None)
        return manifest

    async def load(self, name: str) -> Entry:
        """Load `name` (its current version) or `name@version` beside it."""
        plain, version = split(name)
        async with self._lock(plain):
            if self.registry.knows(plain) and not await asyncio.to_thread(self.repository.versions, plain):
                return await self.registry.load(name)
            manifest = await asyncio.to_thread(self.repository.get, plain, version)
            loaded = self.registry.version(plain, str(manifest.version))
            if loaded is not None:
                return await self.registry.load(f"{plain}@{manifest.version}")
            entry = await self.registry.prepare(self._spec(manifest), version=str(manifest.version))
            if version is None or not self.registry.knows(plain):
                self.registry.swap(entry)
            else:
                self.registry.beside(entry)
            return entry

    async def roll_back(self, name: str, version: int) -> Entry:
        """Let an older (or newer) version answer to the bare name, now and after a restart."""
        self.refuse_foreign(name)
        async with self._lock(name):
            manifest = await asyncio.to_thread(self.repository.get, name, version)
            entry = self.registry.version(name, str(version))
            if entry is None or entry.queue is None:
                entry = await self.registry.prepare(self._spec(manifest), version=str(version))
            await asyncio.to_thread(self.repository.set_current, name, version)
            self.registry.swap(entry)
            return entry

    async def delete(self, name: str) -> None:
        """Delete a model with all its versions, or one version that is not loaded."""
        plain, version = split(name)
        self.refuse_foreign(plain)
        async with self._lock(plain):
            manifest = await asyncio.to_thread(self.repository.get, plain, version)
            if version is None:
                await self.registry.remove(plain)
            else:
                entry = self.registry.version(plain, str(manifest.version))
                if entry is not None and entry.queue is not None:
                    raise Conflict(
                        f"{plain}@{version} is loaded.",
                        hint=f"Unload it first: POST /v1/models/{plain}@{version}/unload; or roll back to another.",
                        code="version_loaded",
                    )
                self.registry.forget(plain, str(version))
            await asyncio.to_thread(self.repository.delete, plain, version)

    def refuse_foreign(self, name: str) -> None:
        """A model from the command line is not ours to replace or delete."""
        entry = self.registry.current(name)
        if entry is not None and not entry.stored:
            raise Conflict(
                f"{name} is served from the command line or the configuration.",
                hint="Choose another name, or start the server without it.",
                code="model_configured",
            )

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    def _spec(self, manifest: Manifest) -> ModelSpec:
        path = self.repository.path(manifest)
        placed = Placed(manifest.name, manifest.version, path, manifest.sha256, manifest.size)
        return self._spec_of(placed, manifest.options, manifest.display_name)

    def _spec_of(self, placed: Placed, options: Mapping[str, str], display_name: str | None) -> ModelSpec:
        source = Source(str(placed.path), path=placed.path, options=options)
        return ModelSpec(placed.name, source, display_name=display_name)


def split(name: str) -> tuple[str, int | None]:
    """`name@3` -> (`name`, 3); `name` and `name@latest` -> (`name`, None). Raises NotFound for another version."""
    plain, at, version = name.partition("@")
    if not at or version == "latest":
        return plain, None
    if not version.isdigit():
        raise NotFound(f"{version!r} is not a version of {plain}.", hint="Versions are numbers: name@1.", param="model")
    return plain, int(version)
