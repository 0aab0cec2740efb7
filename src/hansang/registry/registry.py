"""What is loaded, by name and version.

A name holds its current entry (a model with its queue) and any versions loaded beside it, or a mounted ASGI app.
Loading runs off the event loop; a failed load is kept with its reason. A version that takes over does so when it is
ready; the one before it finishes what it has, then unloads. Nothing here knows a protocol, a format or the disk:
`open_source` (given by the composition root) turns a source into a model.
"""

from __future__ import annotations

import asyncio
import difflib
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Literal

from hansang.core.errors import Conflict, HansangError, LoadFailed, ModelNotFound, Unavailable
from hansang.core.model import LoadContext, Model, Mount, Placement, Task
from hansang.core.source import Source
from hansang.scheduling.batcher import Batcher, QueueLimits
from hansang.scheduling.process import Hosted

log = logging.getLogger("hansang.registry")

_PATIENCE = 30.0
"""Seconds that a retiring model's calls get to finish."""

State = Literal["loading", "ready", "idle", "failed", "unloaded"]


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
    """A name on the table. `queue` is there while the model is ready.

    `idle`: unloaded for want of callers; the next one loads it again.
    """

    spec: ModelSpec
    model: Model
    version: str = "1"
    state: State = "loading"
    queue: Batcher | None = None
    error: HansangError | None = None
    last_error: str | None = None
    stored: bool = False
    """Whether it comes from the repository, and is the repository's to replace and delete."""
    memory: int = 0
    """Bytes of resident memory that loading it added (what other work did meanwhile is in it), or its process has."""
    measured: int = 0
    """The most that a load of it added: one that gets back what an unload left in the heap adds nothing."""
    last_used: float = field(default_factory=monotonic)
    created: int = field(default_factory=lambda: int(time.time()))
    waking: asyncio.Lock = field(default_factory=asyncio.Lock)
    attachments: dict[Any, Any] = field(default_factory=dict)
    """What others keep for as long as this entry lives: a protocol's codec, metric children."""

    @property
    def name(self) -> str:
        return self.spec.name

    def unavailable(self) -> Unavailable:
        """What a caller is told while there is no queue."""
        reason = f": {self.error.message}" if self.error else "."
        hint = "Ask again in a moment; /readyz says when."
        if self.state == "unloaded":
            hint = f"Load it: POST /v1/models/{self.name}/load"
        elif self.error is not None and self.error.hint:
            hint = self.error.hint
        return Unavailable(f"The model {self.name!r} is {self.state}{reason}", hint=hint)


class _Unopened(Model):
    """In the place of a model whose artifact could not be opened."""

    def __init__(self, task: Task, error: HansangError) -> None:
        self.task = task
        self._error = error

    def load(self, context: LoadContext) -> None:
        raise self._error


class Registry:
    """All entries and mounts of one server."""

    def __init__(
        self, open_source: Callable[[Source], Model | Mount], *, limits: QueueLimits | None = None, threads: int = 1
    ) -> None:
        self._open = open_source
        self._limits = limits or QueueLimits()
        self._threads = threads
        self._entries: dict[str, Entry] = {}
        self._versions: dict[tuple[str, str], Entry] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        self._loading = asyncio.Lock()
        """One load at a time, so that each one's memory can be told."""
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
        self._entries[spec.name] = self._entry(spec, opened)

    def _entry(self, spec: ModelSpec, model: Model, version: str = "1", *, stored: bool = False) -> Entry:
        if (spec.placement or model.placement) == "process":
            model = Hosted(getattr(model, "source", spec.source), model.task)
        for setting in ("placement", "max_batch_size", "concurrency", "gather"):
            if (value := getattr(spec, setting)) is not None:
                setattr(model, setting, value)
        return Entry(spec, model, version, stored=stored)

    async def prepare(self, spec: ModelSpec, version: str) -> Entry:
        """A version of the repository, opened and loaded, that answers to nobody yet."""
        opened = await asyncio.to_thread(self._open, spec.source)
        if isinstance(opened, Mount):
            raise LoadFailed("An app cannot be stored as a model.", hint="Serve it from the command line.")
        entry = self._entry(spec, opened, version, stored=True)
        await self._make_ready(entry)
        return entry

    async def deploy(self, spec: ModelSpec, version: str) -> Entry:
        """Put a version of the repository on the table. If it cannot be loaded it stays there, failed."""
        opened = await asyncio.to_thread(self._open, spec.source)
        if isinstance(opened, Mount):
            raise LoadFailed("An app cannot be stored as a model.", hint="Serve it from the command line.")
        entry = self._entry(spec, opened, version, stored=True)
        self._entries[spec.name] = entry
        self._versions[spec.name, version] = entry
        await self._make_ready(entry)
        return entry

    def fail(self, spec: ModelSpec, version: str, task: Task, error: HansangError) -> None:
        """Put a version that could not be opened on the table, with the reason."""
        entry = self.version(spec.name, version)
        if entry is None:
            entry = Entry(spec, _Unopened(task, error), version, stored=True)
            self._entries[spec.name] = self._versions[spec.name, version] = entry
        entry.state, entry.error = "failed", error

    def swap(self, entry: Entry) -> None:
        """Let a ready entry answer to its bare name from now on; the one before it is retired."""
        before = self._entries.get(entry.name)
        self._entries[entry.name] = entry
        self._versions[entry.name, entry.version] = entry
        if before is not None and before is not entry:
            self.retire(before)

    def beside(self, entry: Entry) -> None:
        """Let a ready entry answer to `name@version` only."""
        self._versions[entry.name, entry.version] = entry

    def retire(self, entry: Entry) -> None:
        """Let an entry finish what it has, then unload it."""
        if self._versions.get((entry.name, entry.version)) is entry:
            del self._versions[entry.name, entry.version]
        task = asyncio.get_running_loop().create_task(self._drain_and_unload(entry))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    async def _drain_and_unload(self, entry: Entry, state: State = "unloaded", grace: float = _PATIENCE) -> None:
        """Take no more calls, let those that came finish for `grace` seconds, and have the model give all back.

        A model that still runs then is left as it is: what it works with is not taken from under it. But a process
        of its own can be ended at any time.
        """
        async with entry.waking:  # a load and an unload of one model never meet
            await self._end(entry, state, grace)

    async def _end(self, entry: Entry, state: State, grace: float) -> None:
        queue, entry.queue = entry.queue, None
        if entry.state != "failed":
            entry.state = state
        if queue is None:
            return
        finished = await queue.drained(grace)
        queue.close()
        if not finished and not isinstance(entry.model, Hosted):
            log.warning("%s still runs after %g s; it is not unloaded", entry.name, grace)
            return
        try:
            await asyncio.to_thread(entry.model.unload)
        except (Exception, SystemExit):
            log.exception("%s could not be unloaded", entry.name)
        entry.memory = 0

    async def load(self, name: str) -> Entry:
        """Load an entry, off the event loop; raises what the model raised, kept in `entry.error` too."""
        entry = self.find(name)
        async with entry.waking:
            if entry.state != "ready":
                await self._make_ready(entry)
        return entry

    async def wake(self, entry: Entry) -> Batcher:
        """The queue of an entry that idled, loaded again; callers that come together wait for one load."""
        async with entry.waking:
            if entry.queue is None:
                if entry.state != "idle":
                    raise entry.unavailable()
                await self._make_ready(entry, "idle")
            assert entry.queue is not None
            return entry.queue

    async def _make_ready(self, entry: Entry, until_then: State = "loading") -> None:
        entry.state = until_then
        try:
            async with self._loading:
                before = resident_memory()
                await asyncio.to_thread(self._load, entry)
                entry.memory = entry.measured = max(entry.measured, resident_memory() - before)
                if isinstance(entry.model, Hosted):
                    entry.memory = resident_memory(entry.model.info["process"])
        except HansangError as exc:
            if entry.spec.source.path is not None and entry.stored:
                exc.message = exc.message.replace(f"{entry.spec.source.path.parent}{os.sep}", "")
            entry.state, entry.error = "failed", exc
            raise
        entry.queue = Batcher(entry.model, self._limits)
        entry.state, entry.error, entry.last_used = "ready", None, monotonic()

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

    async def rest(self, idle: float) -> None:
        """Unload what nobody has used for `idle` seconds; the next caller loads it again."""
        now = monotonic()
        for entry in self._all():
            queue = entry.queue
            if queue is not None and not queue.depth and not queue.running and now - entry.last_used > idle:
                await self._drain_and_unload(entry, "idle")

    async def unload(self, name: str, grace: float = 5.0) -> None:
        """Take an entry off its work; what it was asked before is answered, if that takes no more than `grace`."""
        await self._drain_and_unload(self.find(name), grace=grace)

    async def remove(self, name: str) -> None:
        """Take a name off the table, with all its versions."""
        entries = {id(entry): entry for entry in [self._entries.pop(name, None), *self._of(name)] if entry is not None}
        for key in [key for key in self._versions if key[0] == name]:
            del self._versions[key]
        for entry in entries.values():
            await self._drain_and_unload(entry)

    def forget(self, name: str, version: str) -> None:
        """Take one version that is not loaded off the table."""
        self._versions.pop((name, version), None)

    def knows(self, name: str) -> bool:
        return name in self._entries or name in self.mounts

    def current(self, name: str) -> Entry | None:
        """What answers to the bare name."""
        return self._entries.get(name)

    def version(self, name: str, version: str) -> Entry | None:
        """What answers to `name@version`."""
        entry = self._entries.get(name)
        return entry if entry is not None and entry.version == version else self._versions.get((name, version))

    def _all(self) -> list[Entry]:
        return list({id(entry): entry for entry in [*self, *self._versions.values()]}.values())

    def _of(self, name: str) -> list[Entry]:
        return [entry for (key, _), entry in self._versions.items() if key == name]

    def find(self, name: str) -> Entry:
        """The entry of `name` or `name@version`, in whatever state. Raises ModelNotFound with near names."""
        entry = self._entries.get(name)
        if entry is None:
            plain, at, version = name.partition("@")
            entry = self._entries.get(plain)
            if at and entry is not None and version not in (entry.version, "latest"):
                entry = self._versions.get((plain, version))
            if entry is None:
                raise self._not_found(name)
        return entry

    def ready(self, name: str) -> Entry:
        """The entry of `name`, ready (or idle, see `wake`). Raises ModelNotFound or Unavailable."""
        entry = self._entries.get(name) or self.find(name)
        if entry.queue is None and entry.state != "idle":
            raise entry.unavailable()
        return entry

    async def close(self, grace: float = 1.0) -> None:
        """Unload everything, at the end of the server: whoever asked was answered, or has waited long enough."""
        await asyncio.gather(*(self._drain_and_unload(entry, grace=grace) for entry in self._all()))
        if self._retiring:
            await asyncio.wait(self._retiring, timeout=grace)

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


def resident_memory(process: int | str = "self") -> int:
    """Bytes of a process (this one) that are in memory; 0 where the system does not tell."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
