"""Jobs over HTTP: list, look, follow (server-sent events), cancel. Control plane.

Events carry their number as `id:`; a reader that comes back with `Last-Event-ID` goes on where it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import asdict
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse

from hansang.core.errors import BadRequest
from hansang.core.wire import Route
from hansang.engine.engine import Engine
from hansang.jobs.jobs import Job

_KEEP_ALIVE = 15.0
"""Seconds after which a silent stream says that it lives."""


class JobsV1:
    """The adapter: a router, and no data-plane routes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.router = APIRouter(tags=["jobs"])
        self._add_routes()

    def routes(self) -> Iterable[Route]:
        return ()

    def openapi(self) -> Mapping[str, Any]:
        return {}

    def _add_routes(self) -> None:
        @self.router.get("/v1/jobs")
        async def jobs(limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> dict[str, Any]:
            """The newest jobs first; ended ones are remembered for a week."""
            found = await asyncio.to_thread(self._engine.jobs.recent, limit)
            return {"object": "list", "data": [shown(job) for job in found]}

        @self.router.get("/v1/jobs/{job_id}")
        async def job(job_id: str) -> dict[str, Any]:
            """One job: its state, progress, and how it ended."""
            return shown(await asyncio.to_thread(self._engine.jobs.get, job_id))

        @self.router.delete("/v1/jobs/{job_id}")
        async def cancel(job_id: str) -> dict[str, Any]:
            """Cancel a job that waits or runs."""
            return shown(await asyncio.to_thread(self._engine.jobs.cancel, job_id))

        @self.router.get("/v1/jobs/{job_id}/events", response_class=StreamingResponse)
        async def events(
            job_id: str, last_event_id: Annotated[str | None, Header(alias="Last-Event-ID")] = None
        ) -> StreamingResponse:
            """What the job tells, past and coming, until it has ended."""
            after = _event_id(last_event_id)
            await asyncio.to_thread(self._engine.jobs.get, job_id)
            headers = {"cache-control": "no-cache"}
            return StreamingResponse(self._events(job_id, after), media_type="text/event-stream", headers=headers)

    async def _events(self, job_id: str, after: int) -> AsyncIterator[bytes]:
        events = self._engine.jobs.events(job_id, after)
        coming = asyncio.ensure_future(anext(events, None))
        try:
            while True:
                done, _ = await asyncio.wait({coming}, timeout=_KEEP_ALIVE)
                if not done:
                    yield b": still here\n\n"
                    continue
                event = coming.result()
                if event is None:
                    return
                data = orjson.dumps(event.data)
                yield b"id: %d\nevent: %b\ndata: %b\n\n" % (event.seq, event.kind.encode(), data)
                coming = asyncio.ensure_future(anext(events, None))
        finally:
            coming.cancel()


def shown(job: Job) -> dict[str, Any]:
    """A job as the API shows it."""
    return {"object": "job", **asdict(job)}


def _event_id(text: str | None) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise BadRequest(
            f"Last-Event-ID is {text!r}; expected the number of an event.",
            hint="Send the `id:` of the last event you saw, or leave the header out.",
            param="Last-Event-ID",
            code="invalid_event_id",
        )
    return int(text)
