"""The repository's versions as models on the table: upload, load, unload, roll back, delete.

It joins the disk (`repository`) and what is loaded (`registry`). A new version is tried before it is published, and
takes over only when it is ready, so a swap drops no request and a bad upload changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hansang.core.errors import BadRequest, Conflict, HansangError, LoadFailed, NotFound
from hansang.core.model import Model
from hansang.core.source import PYTHON, Source
from hansang.registry.registry import Entry, ModelSpec, Registry
from hansang.registry.repository import Incoming, Manifest, Placed, Repository, check_name, safe_filename
from hansang.tasks.chat import CHAT
from hansang.tasks.tabular import TABULAR

log = logging.getLogger("hansang.models")

_VERSION = re.compile("[0-9]{1,9}")
_TASKS = {task.name: task for task in (TABULAR, CHAT)}


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
            try:
                manifest = await asyncio.to_thread(self.repository.get, name)
            except HansangError as exc:
                log.error("%s could not be loaded: %s", name, exc.message)
                continue
            await self._deploy(manifest)

    async def _deploy(self, manifest: Manifest) -> None:
        spec, version = self._spec(manifest), str(manifest.version)
        try:
            await self.registry.deploy(spec, version=version)
        except Exception as exc:
            error = self._plain(exc, spec)
            log.error("%s@%s could not be loaded: %s", spec.name, version, error.message)
            self.registry.fail(spec, version, _TASKS.get(manifest.task, TABULAR), error)

    async def publish(self, incoming: Incoming, name: str, **facts: Any) -> Manifest:
        """Try a finished upload, publish it as the next version, and let it answer to the name.

        Raises what is wrong with it; nothing has changed then. `facts` go into the manifest.
        """
        self.check(name, incoming.path.name)
        placed = await asyncio.to_thread(self.repository.place, incoming, name)
        entry = None
        try:
            spec = self._spec_of(placed, facts.get("options", {}), facts.get("display_name"))
            try:
                entry = await self._try(spec, placed.version)
            except LoadFailed as exc:
                raise BadRequest(exc.message, hint=exc.hint, code="invalid_artifact") from exc
            async with self._lock(name):
                manifest = await asyncio.to_thread(self._publish, placed, entry.model, facts)
                if await asyncio.to_thread(self.repository.current, name) == placed.version:
                    self.registry.swap(entry)
                else:  # one that came later was ready earlier
                    self.registry.retire(entry)
        except BaseException:
            await asyncio.to_thread(self.repository.discard, placed)
            if entry is not None:
                self.registry.retire(entry)
            raise
        return manifest

    def check(self, name: str, filename: str) -> None:
        """Whether an upload of that name and file could be published: to refuse it before it is sent."""
        check_name(name)
        self.refuse_foreign(name)
        if Path(safe_filename(filename)).suffix.lower() in PYTHON:
            raise BadRequest(
                f"{filename} is code, which is never taken over HTTP.",
                hint="Serve it from the command line: hansang serve FILE",
                param="filename",
                code="code_refused",
            )

    async def _try(self, spec: ModelSpec, version: int) -> Entry:
        """Load a version that answers to nobody yet. What is wrong with its file is told by its name, not its path."""
        try:
            return await self.registry.prepare(spec, version=str(version))
        except (HansangError, OSError, ValueError) as exc:
            raise self._plain(exc, spec) from exc

    def _plain(self, exc: Exception, spec: ModelSpec) -> HansangError:
        """An error about an artifact without this machine's paths."""
        if not isinstance(exc, HansangError):
            log.error("%s could not be opened", spec.source.text, exc_info=exc)
            exc = LoadFailed(f"{spec.source.text} could not be opened: {type(exc).__name__}: {exc}.")
        folder = f"{Path(spec.source.text).parent}{os.sep}"
        exc.message = exc.message.replace(folder, "")
        exc.hint = exc.hint and exc.hint.replace(folder, "")
        return exc

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
            if self._is_foreign(plain):
                return await self.registry.load(name)
            manifest = await asyncio.to_thread(self.repository.get, plain, version)
            loaded = self.registry.version(plain, str(manifest.version))
            if loaded is not None and loaded.state != "failed":
                return await self.registry.load(f"{plain}@{manifest.version}")
            entry = await self._try(self._spec(manifest), manifest.version)
            if version is None or loaded is self.registry.current(plain):
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
                entry = await self._try(self._spec(manifest), version)
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
                if entry is not None and entry is self.registry.current(plain):
                    if len(await asyncio.to_thread(self.repository.versions, plain)) > 1:
                        raise Conflict(
                            f"{plain}@{version} is the current version.",
                            hint=f"Roll back to another first (POST /v1/models/{plain}/rollback), or delete {plain}.",
                            code="version_current",
                        )
                    await self.registry.remove(plain)
                    version = None  # with its last version the model goes
                else:
                    self.registry.forget(plain, str(version))
            await asyncio.to_thread(self.repository.delete, plain, version)

    def refuse_foreign(self, name: str) -> None:
        """A model from the command line is not ours to replace or delete."""
        if self._is_foreign(name):
            raise Conflict(
                f"{name} is served from the command line or the configuration.",
                hint="Choose another name, or start the server without it.",
                code="model_configured",
            )

    def _is_foreign(self, name: str) -> bool:
        entry = self.registry.current(name)
        return self.registry.knows(name) and (entry is None or not entry.stored)

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
    if not _VERSION.fullmatch(version):
        raise NotFound(f"{version!r} is not a version of {plain}.", hint="Versions are numbers: name@1.", param="model")
    return plain, int(version)
