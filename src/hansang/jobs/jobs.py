"""Jobs: long work that outlives its request.

A job runs on a thread of this room's own, one after another. What it tells (events) is written to `control.db` in
small batches, so that a reader may come late, or come back with the id of the last event it saw. A server that stops,
however, leaves its running jobs `interrupted`. What a job does is the business of whoever submits it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Literal
from uuid import uuid4

from hansang.core.errors import Conflict, HansangError, ModelFailed, NotFound, QueueFull, Unavailable
from hansang.store.database import Database, Row
from hansang.store.presence import Presence

log = logging.getLogger("hansang.jobs")

State = Literal["queued", "running", "succeeded", "failed", "cancelled", "interrupted"]
ENDED = ("succeeded", "failed", "cancelled", "interrupted")

_SCHEMA = (
    """CREATE TABLE jobs (
        id TEXT PRIMARY KEY, kind TEXT NOT NULL, model TEXT NOT NULL, params TEXT NOT NULL, state TEXT NOT NULL,
        progress REAL NOT NULL DEFAULT 0, created REAL NOT NULL, started REAL, finished REAL,
        error TEXT, result TEXT, boot TEXT NOT NULL)""",
    """CREATE TABLE job_events (
        job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE, seq INTEGER NOT NULL, kind TEXT NOT NULL,
        data TEXT NOT NULL, PRIMARY KEY (job, seq)) WITHOUT ROWID""",
)
_TELL_INTERRUPTED = """INSERT INTO job_events
    SELECT id, (SELECT COALESCE(MAX(seq), 0) + 1 FROM job_events WHERE job = id), 'interrupted', ?
    FROM jobs WHERE state IN ('queued', 'running') AND boot = ?"""
_INTERRUPT = """UPDATE jobs SET state = 'interrupted', finished = ?, error = ?
    WHERE state IN ('queued', 'running') AND boot = ?"""
_LOOK = 0.5
"""Seconds between two looks at a job of another process with this home."""
_FLUSH = 0.1
"""Seconds between two writes of a busy job's events."""


class Cancelled(Exception):
    """Raised inside a job that was cancelled."""


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a job's log. `seq` counts from 1."""

    seq: int
    kind: str
    data: Mapping[str, Any]


@dataclass(slots=True)
class Job:
    """A job's state. Times are seconds since the epoch; `progress` goes from 0 to 1."""

    id: str
    kind: str
    model: str
    params: Mapping[str, Any]
    state: State = "queued"
    progress: float = 0.0
    created: float = field(default_factory=time.time)
    started: float | None = None
    finished: float | None = None
    error: Mapping[str, Any] | None = None
    result: Mapping[str, Any] | None = None

    @property
    def ended(self) -> bool:
        return self.state in ENDED


_Told = tuple[int, str, str]
"""An event as it is written: its number, kind and JSON."""


class JobContext:
    """What running work may do: tell an event, move the progress, see whether it was cancelled."""

    def __init__(self, job: Job, write: Callable[[Job, list[_Told], State], None]) -> None:
        self.job = job
        self._write = write
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self._seq = 0
        self._unwritten: list[_Told] = []
        self._written = 0.0
        self._later: threading.Timer | None = None

    def cancel(self) -> None:
        self._cancelled.set()

    def check(self) -> None:
        """Raise Cancelled if the job was cancelled. Called between steps."""
        if self._cancelled.is_set():
            raise Cancelled

    def event(self, kind: str, data: Mapping[str, Any], progress: float | None = None) -> None:
        """Tell something; `progress` is the part done, 0 to 1."""
        if progress is not None:
            data = {**data, "progress": round(progress, 4)}
        text = json.dumps(data)
        with self._lock:
            self._seq += 1
            self._unwritten.append((self._seq, kind, text))
            if progress is not None:
                self.job.progress = progress
            if time.monotonic() - self._written >= _FLUSH:
                self._flush(self.job.state)
            elif self._later is None:
                self._later = threading.Timer(_FLUSH, self._flush_later)
                self._later.daemon = True
                self._later.start()

    def last(self, state: State, data: Mapping[str, Any]) -> None:
        """Write all that was told, and the end."""
        text = json.dumps(data)
        with self._lock:
            self._seq += 1
            self._unwritten.append((self._seq, state, text))
            self._flush(state)

    def _flush_later(self) -> None:
        """What was told just before a silence is not kept back."""
        with self._lock:
            self._later = None
            if self._unwritten:
                try:
                    self._flush(self.job.state)
                except sqlite3.Error:
                    log.exception("events of job %s could not be written", self.job.id)

    def _flush(self, state: State) -> None:
        unwritten, self._unwritten = self._unwritten, []
        self._written = time.monotonic()
        self._write(self.job, unwritten, state)


Work = Callable[[JobContext], Mapping[str, Any]]


class Jobs:
    """All jobs of one server. `keep` is how many seconds ended ones are remembered, `queue` how many may wait."""

    def __init__(self, database: Database, presence: Presence, *, keep: float = 7 * 86400.0, queue: int = 64) -> None:
        self._database = database
        self._presence = presence
        self._keep = keep
        self._most = queue
        self._queue: SimpleQueue[tuple[JobContext, Work] | None] = SimpleQueue()
        self._closing = False
        self._live: dict[str, JobContext] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._readers: dict[str, set[tuple[asyncio.AbstractEventLoop, asyncio.Event]]] = {}
        database.migrate("jobs", _SCHEMA)
        self._bury()
        self._forget_old()

    def submit(self, kind: str, model: str, params: Mapping[str, Any], work: Work) -> Job:
        """Queue work; it runs when those before it have ended. Raises QueueFull."""
        job = Job(f"job_{uuid4().hex[:24]}", kind, model, params)
        context = JobContext(job, self._write)
        with self._lock:
            self._forget_old()
            if sum(waiting.job.state == "queued" for waiting in self._live.values()) >= self._most:
                raise QueueFull(
                    f"{self._most} jobs wait already.",
                    hint="Wait for one to end, or cancel one: DELETE /v1/jobs/{id}.",
                    headers={"Retry-After": "5"},
                )
            self._database.execute(
                "INSERT INTO jobs (id, kind, model, params, state, created, boot) VALUES (?, ?, ?, ?, ?, ?, ?)",
                *(job.id, kind, model, json.dumps(params), job.state, job.created, self._presence.id),
            )
            self._live[job.id] = context
            self._queue.put((context, work))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run_all, name="jobs", daemon=True)
                self._thread.start()
        return job

    def get(self, job_id: str) -> Job:
        """Raises NotFound."""
        if (context := self._live.get(job_id)) is not None:
            return context.job
        if (row := self._row(job_id)) is not None and row["state"] not in ENDED:
            self._bury()
            row = self._row(job_id)
        if row is None:
            raise NotFound(
                f"There is no job {job_id!r}.",
                hint="GET /v1/jobs lists those that are remembered.",
                code="job_not_found",
            )
        return _job(row)

    def _row(self, job_id: str) -> Row | None:
        return next(iter(self._database.query("SELECT * FROM jobs WHERE id = ?", job_id)), None)

    def recent(self, limit: int = 100) -> list[Job]:
        """The newest first."""
        self._bury()
        rows = self._database.query("SELECT * FROM jobs ORDER BY created DESC, id LIMIT ?", limit)
        return [context.job if (context := self._live.get(row["id"])) else _job(row) for row in rows]

    def cancel(self, job_id: str) -> Job:
        """Stop a job: one that waits at once, one that runs at its next step. Raises Conflict if it ended."""
        job = self.get(job_id)
        with self._lock:
            context = self._live.get(job_id)
            if context is None and not job.ended:
                raise Conflict(
                    f"The job {job_id} runs in another program (hansang train).",
                    hint="Press Ctrl+C there.",
                    code="job_elsewhere",
                )
            if context is None or job.ended:
                raise Conflict(
                    f"The job {job_id} has ended ({job.state}); there is nothing to cancel.",
                    hint=f"GET /v1/jobs/{job_id} shows how it ended.",
                    code="job_ended",
                )
            context.cancel()
            if job.state == "queued":
                self._end(context, "cancelled")
        return job

    async def events(self, job_id: str, after: int = 0) -> AsyncIterator[Event]:
        """A job's events from `after` on, past and coming, until it has ended."""
        await asyncio.to_thread(self.get, job_id)
        ready = asyncio.Event()
        reader = (asyncio.get_running_loop(), ready)
        readers = self._readers.setdefault(job_id, set())
        readers.add(reader)
        try:
            while True:
                ready.clear()
                job = await asyncio.to_thread(self.get, job_id)
                ended = job.ended  # before its last event is read, for a live job goes on meanwhile
                rows = await asyncio.to_thread(self._events_after, job_id, after)
                for event in rows:
                    after = event.seq
                    yield event
                if ended:
                    return
                if job_id in self._live:
                    await ready.wait()
                else:
                    await asyncio.to_thread(self._bury)
                    with suppress(TimeoutError):
                        await asyncio.wait_for(ready.wait(), _LOOK)
        finally:
            readers.discard(reader)
            if not readers:
                self._readers.pop(job_id, None)

    def close(self) -> None:
        """Interrupt what runs and what waits."""
        self._closing = True
        for context in list(self._live.values()):
            context.cancel()
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(10)
        self._interrupt(lambda boot: boot == self._presence.id)

    def _events_after(self, job_id: str, after: int) -> list[Event]:
        rows = self._database.query("SELECT * FROM job_events WHERE job = ? AND seq > ? ORDER BY seq", job_id, after)
        return [Event(row["seq"], row["kind"], json.loads(row["data"])) for row in rows]

    def _run_all(self) -> None:
        while (item := self._queue.get()) is not None:
            self._run(*item)

    def _run(self, context: JobContext, work: Work) -> None:
        job = context.job
        with self._lock:
            if job.ended:
                return
            job.state, job.started = "running", time.time()
        try:
            context.check()
            context.event("started", {"model": job.model})
            result = work(context)
            json.dumps(result)  # raises here, where it fails the job alone
            job.result, job.progress = result, 1.0
            state: State = "succeeded"
        except Cancelled:
            state = "interrupted" if self._closing else "cancelled"
        except HansangError as exc:
            state, job.error = "failed", _error(exc)
        except BaseException as exc:  # even exit(): the jobs after it have their turn
            log.error("job %s failed", job.id, exc_info=exc)
            failed = ModelFailed(
                f"The job failed: {type(exc).__name__}.", hint=f"The server's log has the traceback, at {job.id}."
            )
            state, job.error = "failed", _error(failed)
        with self._lock:
            self._end(context, state)

    def _end(self, context: JobContext, state: State) -> None:
        """The last event and the state are written before anybody can see the job as ended.

        If the disk is full they are not, and a restart will call the job interrupted; the jobs after it go on.
        """
        job = context.job
        job.finished = time.time()
        try:
            context.last(state, {"result": job.result, "error": job.error})
        except (sqlite3.Error, TypeError, ValueError):
            log.exception("the end of job %s (%s) could not be written", job.id, state)
        else:
            self._live.pop(job.id, None)
        job.state = state
        self._wake(job.id)

    def _write(self, job: Job, events: list[_Told], state: State) -> None:
        with self._database.transaction():
            self._database.execute(
                "UPDATE jobs SET state = ?, progress = ?, started = ?, finished = ?, error = ?, result = ? "
                "WHERE id = ?",
                *(state, job.progress, job.started, job.finished, _dumps(job.error), _dumps(job.result), job.id),
            )
            self._database.execute_many(
                "INSERT INTO job_events VALUES (?, ?, ?, ?)",
                [(job.id, *event) for event in events],
            )
        self._wake(job.id)

    def _wake(self, job_id: str) -> None:
        for loop, ready in list(self._readers.get(job_id, ())):
            try:
                loop.call_soon_threadsafe(ready.set)
            except RuntimeError:
                log.debug("a reader's event loop has closed")

    def _bury(self) -> None:
        """Interrupt what servers that are dead left."""
        self._interrupt(lambda boot: not self._presence.alive(boot))

    def _interrupt(self, gone: Callable[[str], bool]) -> None:
        """Mark what a server that is gone left running, and tell its readers."""
        error = json.dumps(
            _error(
                Unavailable(
                    "The server stopped before the job had ended.", hint="Start it again.", code="job_interrupted"
                )
            )
        )
        told = f'{{"result": null, "error": {error}}}'
        for row in self._database.query("SELECT DISTINCT boot FROM jobs WHERE state IN ('queued', 'running')"):
            if gone(row["boot"]):
                with self._database.transaction():
                    self._database.execute(_TELL_INTERRUPTED, told, row["boot"])
                    self._database.execute(_INTERRUPT, time.time(), error, row["boot"])

    def _forget_old(self) -> None:
        self._database.execute("DELETE FROM jobs WHERE finished < ?", time.time() - self._keep)


def _job(row: Row) -> Job:
    saved: dict[str, Any] = dict(row)
    del saved["boot"]
    for key in ("params", "error", "result"):
        saved[key] = json.loads(saved[key]) if saved[key] else None
    return Job(**saved)


def _dumps(value: Any) -> str | None:
    return None if value is None else json.dumps(value)


def _error(error: HansangError) -> dict[str, Any]:
    return {"message": error.message, "code": error.code, "hint": error.hint}
