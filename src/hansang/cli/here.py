"""The repository of a home, worked on here, without a server: train into it, add files to it.

What is published is what a server would publish: the same checks, the same service, the same `control.db`. A server
that runs on that home meanwhile is not disturbed (a version appears whole, under a number of its own), and serves the
new version after `hansang models load NAME`, or from its next start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from hansang.access.server_key import ServerKey
from hansang.app import Server
from hansang.client import JobEvent
from hansang.core.errors import BadRequest, Conflict, InvalidInput
from hansang.core.source import PYTHON
from hansang.jobs.jobs import Job, Jobs
from hansang.registry.repository import Incoming, Manifest
from hansang.settings import Settings

T = TypeVar("T")
_PIECE = 2**20


class Here:
    """A server that serves nobody. Its event loop runs while one of its methods does."""

    def __init__(self, settings: Settings) -> None:
        self._configured = settings.models
        self._home = settings.home
        self._server = Server([], settings.model_copy(update={"models": {}}), key=ServerKey(None))
        self._runner = asyncio.Runner()

    def __enter__(self) -> Here:
        self._server.open_store()
        return self

    def __exit__(self, *exc_info: object) -> None:
        try:
            self._run(self._server.stop())
        finally:
            self._runner.close()

    def start_training(self, model: str, request: Mapping[str, Any], table: Path | None = None) -> dict[str, Any]:
        """As the client's."""
        self._refuse_configured(model)
        given = {key: value for key, value in request.items() if value is not None}
        return _shown(self._run(self._server.engine.train(model, given, table)))

    def events(self, job_id: str, after: int = 0) -> Iterator[JobEvent]:
        """As the client's."""
        events = self._jobs.events(job_id, after)

        while (event := self._run(anext(events, None))) is not None:
            yield JobEvent(event.seq, event.kind, event.data)

    def job(self, job_id: str) -> dict[str, Any]:
        """As the client's."""
        return _shown(self._jobs.get(job_id))

    def cancel(self, job_id: str) -> dict[str, Any]:
        """As the client's."""
        return _shown(self._jobs.cancel(job_id))

    def add(self, file: Path, name: str, options: Mapping[str, str]) -> Manifest:
        """Try a file and publish it as the next version of a model. Raises what is wrong with it."""
        self._refuse_configured(name)
        if file.suffix.lower() in PYTHON:
            raise BadRequest("Code is not stored in the repository.", hint=f"Serve it: hansang serve {file}:FUNCTION")
        if not file.is_file():
            raise InvalidInput(f"There is no file {file}.", hint="Check the path and its spelling.")
        catalog = self._server.catalog
        provenance = {"source": "command line", "filename": file.name}
        with catalog.repository.incoming(file.name) as incoming:
            _copy(file, incoming)
            return self._run(catalog.publish(incoming, name, provenance=provenance, options=dict(options)))

    def path(self, model: str, version: int, file: str) -> Path:
        """Where a version's artifact lies."""
        return self._home / "models" / model / str(version) / file

    @property
    def _jobs(self) -> Jobs:
        return self._server.engine.jobs

    def _refuse_configured(self, name: str) -> None:
        if name in self._configured:
            raise Conflict(
                f"{name} stands in the configuration, with a source of its own.",
                hint="Choose another name, or take it out of hansang.toml.",
                code="model_configured",
            )

    def _run(self, work: Awaitable[T]) -> T:
        async def awaited() -> T:
            return await work

        return self._runner.run(awaited())


def settings_of(home: Path | None, **flags: Any) -> Settings:
    """The settings as `hansang serve` has them."""
    from hansang import logs, settings

    logs.configure("warning", "text")
    return settings.load({"home": None if home is None else str(home), **flags})


def _copy(file: Path, incoming: Incoming) -> None:
    with file.open("rb") as opened:
        while piece := opened.read(_PIECE):
            incoming.write(piece)
    incoming.finish()


def _shown(job: Job) -> dict[str, Any]:
    return {"object": "job", **asdict(job)}
