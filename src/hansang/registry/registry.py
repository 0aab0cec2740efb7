"""What is loaded, by name.

A name holds one entry: a model with its queue, or a mounted ASGI app. Loading runs off the event loop; a failed load
is kept with its reason. Nothing here knows a protocol or a format: `open_source` (given by the composition root)
turns a source into a model.
"""

from __future__ import annotations

import asyncio
import difflib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from hansang.core.errors import Conflict, HansangError, LoadFailed, ModelNotFound, Unavailable
from hansang.core.model import LoadContext, Model, Mount, Placement
from hansang.core.source import Source
from hansang.scheduling.batcher import Batcher, QueueLimits

log = logging.getLogger("hansang.registry")

State = Literal["loading", "ready", "failed", "unloaded"]


@dataclass(slots=True)
class ModelSpec:
    """One line of the command line or the configuration: a source and how to serve it. None: as the model says."""

    name: str
    source: Source
    placement: Placement | None = None
    max_batch_size: int | None = None
    concurrency: int | None = None
    gather: float | None = None
    sample: Any = None
    display_name: str | None = None


@dataclass(slots=True, eq=False)
class Entry:
    """A name on the table. `queue` is there while the model is ready."""

    spec: ModelSpec
    model: Model
    version: str = "1"
    state: State = "loading"
    queue: Batcher | None = None
    error: HansangError | None = None
    last_error: str | None = None
    created: int = field(default_factory=lambda: int(time.time()))
    attachments: dict[Any, Any] = field(default_factory=dict)
    """What others keep for as long as this entry lives: a protocol's codec, metric children."""

    @property
    def name(self) -> str:
        return self.spec.name

    def unavailable(self) -> Unavailable:
        """What a caller is told while there is no queue."""
        reason = f": {self.error.message}" if self.error else ""
        return Unavailable(
            f"The model {self.name!r} is {self.state}{reason}.", hint="Ask again in a moment; /readyz says when."
        )


class Registry:
    """All entries and mounts of one server."""

    def __init__(
        self, open_source: Callable[[Source], Model | Mount], *, limits: QueueLimits | None = None, threads: int = 1
    ) -> None:
        self._open = open_source
        self._limits = limits or QueueLimits()
        self._threads = threads
        self._entries: dict[str, Entry] = {}
        self.mounts: dict[str, Mount] = {}

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    def add(self, spec: ModelSpec, model: Model | Mount | None = None) -> None:
        """Put a source (or a model made in code) on the table, not loaded yet. A second equal name is an error."""
        if spec.name in self._entries or spec.name in self.mounts:
            raise Conflict(
                f"Two models are named {spec.name!r}.", hint=f"Give one another name: {spec.name}-2={spec.source.text}"
            )
        opened = model if model is not None else self._open(spec.source)
        if isinstance(opened, Mount):
            self.mounts[spec.name] = opened
            return
        for setting in ("placement", "max_batch_size", "concurrency", "gather"):
            if (value := getattr(spec, setting)) is not None:
                setattr(opened, setting, value)
        self._entries[spec.name] = Entry(spec, opened)

    async def load(self, name: str) -> Entry:
        """Load an entry, off the event loop; raises what the model raised, kept in `entry.error` too."""
        entry = self.find(name)
        if entry.state == "ready":
            return entry
        entry.state = "loading"
        try:
            await asyncio.to_thread(self._load, entry)
        except HansangError as exc:
            entry.state, entry.error = "failed", exc
            raise
        entry.queue = Batcher(entry.model, self._limits)
        entry.state, entry.error = "ready", None
        return entry

    def _load(self, entry: Entry) -> None:
        try:
            entry.model.load(LoadContext(threads=self._threads, sample=entry.spec.sample))
        except HansangError:
            raise
        except BaseException as exc:  # a model's file may even say exit()
            raise LoadFailed(
                f"{entry.spec.source.text} could not be loaded: {type(exc).__name__}: {exc}",
                hint="Run it by itself first; the error is from the model's own code or file.",
            ) from exc

    async def unload(self, name: str, grace: float = 5.0) -> None:
        """Take no more calls, let those that run finish for `grace` seconds, and have the model give back what it took.

        A model that still runs then is left as it is: what it works with is not taken from under it.
        """
        entry = self.find(name)
        queue, entry.queue = entry.queue, None
        entry.state = "unloaded"
        if queue is None:
            return
        queue.close()
        try:
            async with asyncio.timeout(grace):
                await queue.stopped()
            await asyncio.to_thread(entry.model.unload)
        except TimeoutError:
            log.warning("%s still runs after %g s; it is not unloaded", entry.name, grace)
        except (Exception, SystemExit):
            log.exception("%s could not be unloaded", entry.name)

    def find(self, name: str) -> Entry:
        """The entry of `name` or `name@version`, in whatever state. Raises ModelNotFound with near names."""
        entry = self._entries.get(name)
        if entry is None:
            plain, at, version = name.partition("@")
            entry = self._entries.get(plain)
            if entry is None or (at and version not in (entry.version, "latest")):
                raise self._not_found(name)
        return entry

    def ready(self, name: str) -> Entry:
        """The entry of `name`, ready to answer. Raises ModelNotFound or Unavailable."""
        entry = self._entries.get(name) or self.find(name)
        if entry.queue is None:
            raise entry.unavailable()
        return entry

    def _not_found(self, name: str) -> ModelNotFound:
        names = sorted(self._entries)
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        if near:
            hint = f"Did you mean {' or '.join(near)}?"
        elif names:
            hint = f"Models here: {', '.join(names[:10])}{' ...' if len(names) > 10 else ''}."
        else:
            hint = "No model is loaded: hansang serve MODEL"
        return ModelNotFound(f"The model {name!r} does not exist here.", hint=hint, param="model")
