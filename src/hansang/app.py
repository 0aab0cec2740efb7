"""The composition root: the one module that knows everyone, and puts a server together.

server = hansang.Server(["gates.py:and_gate", "iris.onnx"])
app = server.app            # any ASGI server runs it: uvicorn main:app
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from hansang import logs, plugins
from hansang.access.server_key import ENVIRONMENT, ServerKey
from hansang.core.errors import LoadFailed, SettingsError
from hansang.core.model import Model, Mount
from hansang.core.source import CLASS, NAME, TRUSTED, Source, parse
from hansang.engine.engine import Engine
from hansang.http.control import Status, control_plane
from hansang.http.front_door import FrontDoor
from hansang.http.guard import Guard
from hansang.http.lifespan import LifespanApp, MountedLifespan
from hansang.jobs.jobs import Jobs
from hansang.registry.catalog import Catalog
from hansang.registry.registry import ModelSpec, Registry
from hansang.registry.repository import Repository
from hansang.registry.safety import check_artifact, file_hash
from hansang.scheduling.batcher import QueueLimits
from hansang.settings import OF_THE_PROCESS, ModelSettings, Settings
from hansang.settings import load as load_settings
from hansang.store.database import Database
from hansang.store.presence import Presence
from hansang.training.service import Training, describe_trainers
from hansang.training.trainer import Trainer
from hansang.usage.metrics import Metrics


def open_source(source: Source) -> Model | Mount:
    """Ask the runtimes, ours first, who opens a source."""
    runtimes = [make() for _, make in plugins.load(plugins.RUNTIMES)]
    for runtime in runtimes:
        if runtime.claims(source):
            return runtime.open(source)  # type: ignore[no-any-return]
    known = "\n".join(f"  {runtime.sources}" for runtime in runtimes)
    raise LoadFailed(f"No runtime opens {source.text!r}.", hint=f"What can be served:\n{known}")


def open_object(obj: Any) -> Model | Mount:
    """Ask the runtimes, ours first, who serves what was made in code: a typed function, a class, an ASGI app."""
    if isinstance(obj, Model | Mount):
        return obj
    for _, make in plugins.load(plugins.RUNTIMES):
        wrap = getattr(make(), "wrap", None)
        if wrap is not None and (opened := wrap(obj)) is not None:
            return opened  # type: ignore[no-any-return]
    raise LoadFailed(
        f"A {type(obj).__name__} cannot be served.",
        hint="Give a source as on the command line, a typed function, a hansang.Model or an ASGI app.",
    )


class Server:
    """One server: models, queues, routes, metrics. Nothing is loaded before `start` (the ASGI lifespan, or the first
    request of a server that is mounted in another app and gets no lifespan).

    `models` are sources as on the command line, Models, or typed functions. Settings are read from where the command
    line reads them, with `options` in the place of flags, unless `settings` are given.
    """

    def __init__(
        self,
        models: Iterable[Any] = (),
        settings: Settings | None = None,
        *,
        key: ServerKey | None = None,
        **options: Any,
    ) -> None:
        if useless := OF_THE_PROCESS & options.keys():
            raise SettingsError(
                f"{', '.join(sorted(useless))} is for whoever listens, and a Server does not: it makes an ASGI app.",
                hint="hansang.serve(...) listens, and takes it.",
            )
        self.settings = settings or load_settings(options)
        self.key = key or ServerKey(os.environ.get(ENVIRONMENT) or None)
        self.metrics = Metrics()
        self.registry = Registry(
            self._open,
            limits=QueueLimits(self.settings.queue_calls, self.settings.queue_bytes),
            threads=self.settings.threads,
        )
        home = self.settings.home
        self.catalog = Catalog(Repository(home / "models"), self.registry)
        self.engine = Engine(self.registry, self.metrics)
        self.engine.catalog = self.catalog
        self.status = Status(failed=self._failed)
        for name, model in self.settings.models.items():
            self._add_configured(name, model)
        for model in models:
            self._add(model)
        self._lifespans: list[MountedLifespan] = []
        self._resting: asyncio.Task[None] | None = None
        self._jobs: Jobs | None = None
        self.engine.trainers = lambda: describe_trainers(self._trainers())
        self.app = self._front_door()

    def _open(self, source: Source) -> Model | Mount:
        """Open a source; a file that could run code when it is opened, only if its very content is trusted."""
        if source.path is None or source.is_python:
            return open_source(source)
        path = source.file()
        if self.settings.trust and f"sha256:{(digest := file_hash(path))}" in self.settings.trust:
            return open_source(replace(source, options={**source.options, TRUSTED: digest}))
        check_artifact(path)
        return open_source(source)

    def _add_configured(self, name: str, model: ModelSettings) -> None:
        _, source = parse(f"{name}={model.source}")
        if model.class_ is not None:
            source = replace(source, options={CLASS: model.class_})
        options = model.model_dump(exclude={"source", "class_"})
        self.registry.add(ModelSpec(name, source, **options))

    def _add(self, model: Any) -> None:
        if isinstance(model, ModelSpec):
            self.registry.add(model)
        elif isinstance(model, str | os.PathLike):
            self.registry.add(ModelSpec(*parse(os.fspath(model))))
        else:
            name = getattr(model, "name", None) or getattr(model, "__name__", None) or type(model).__name__.lower()
            if not NAME.fullmatch(name):
                hint = "Set its attribute `name`: letters A-Z a-z, digits, '_', '.' and '-'."
                raise LoadFailed(f"{name!r} cannot be a model's name.", hint=hint)
            source = Source(f"python:{name}", scheme="python", rest=name)
            self.registry.add(ModelSpec(name, source), open_object(model))

    def _front_door(self) -> LifespanApp:
        adapters = [make(self.engine) for _, make in plugins.load(plugins.PROTOCOLS)]
        control = control_plane(adapters, self.status, self.metrics.exposition, self.key.required)
        door = FrontDoor(
            [route for adapter in adapters for route in adapter.routes()],
            control,
            self.registry.mounts,
            guard=Guard(self.settings.allowed_hosts, self.settings.cors_origins),
            identify=self.key.identify,
            record=self.metrics.request,
            log=logs.request_line if self.settings.access_log else None,
            timeout=self.settings.timeout,
            long_timeout=self.settings.long_timeout,
            body_limit=self.settings.body_limit,
            upload_limit=self.settings.upload_limit,
            uploads=[upload for adapter in adapters for upload in getattr(adapter, "uploads", ())],
        )
        return LifespanApp(door, self.start, self.stop)

    async def start(self) -> None:
        """Load every model. The first of the command line that fails stops the start, and says why."""
        await asyncio.to_thread(self.open_store)
        for name, mount in self.registry.mounts.items():
            lifespan = MountedLifespan(name, mount)
            await lifespan.start()
            self._lifespans.append(lifespan)
        for entry in self.registry:
            await self.registry.load(entry.name)
        await self.catalog.start()
        if self.settings.idle_timeout:
            self._resting = asyncio.get_running_loop().create_task(self._rest())
        self.status.started, self.status.draining = True, False

    async def stop(self) -> None:
        """Unload every model."""
        self.status.draining = True
        for lifespan in self._lifespans:
            await lifespan.stop()
        self._lifespans.clear()
        if self._resting is not None:
            self._resting.cancel()
        if self._jobs is not None:
            await asyncio.to_thread(self._jobs.close)
        await self.registry.close()
        if self._jobs is not None:
            self._presence.end()
            self._database.close()

    def _failed(self) -> dict[str, str]:
        """The models that are not there, and why."""
        return {
            entry.name: entry.error.message
            for entry in self.registry
            if entry.state == "failed" and entry.error is not None
        }

    def open_store(self) -> None:
        """What the server remembers: opened at the start, not when a Server is made.

        Alone, it is enough to train and to publish without serving; `stop` ends it too.
        """
        home = self.settings.home
        self._database = Database(home / "control.db")
        self._presence = Presence(home / "servers")
        self._jobs = self.engine.jobs = Jobs(self._database, self._presence, keep=self.settings.keep_jobs)
        training = Training(self._trainers, self._jobs, self.catalog)
        self.engine.train = training.start

    def _trainers(self) -> dict[str, Trainer]:
        return {name: make() for name, make in plugins.load(plugins.TRAINERS)}

    async def _rest(self) -> None:
        """Unload models that nobody calls."""
        while True:
            await asyncio.sleep(min(5.0, self.settings.idle_timeout / 2))
            await self.registry.rest(self.settings.idle_timeout)
