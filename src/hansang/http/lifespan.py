"""Starting and stopping: the ASGI lifespan of our app, and that of the apps mounted in it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from hansang.core.errors import HansangError, LoadFailed, Unavailable
from hansang.core.model import Mount
from hansang.http.errors import render
from hansang.http.exchange import ASGIApp, Receive, Scope, Send

log = logging.getLogger("hansang.http")

STOP_TIMEOUT = 10.0
"""Seconds that a mounted app gets to stop."""


class LifespanApp:
    """The whole server as an ASGI app. Mounted in another app it gets no lifespan, and starts at its first request."""

    def __init__(
        self, door: ASGIApp, start: Callable[[], Awaitable[None]], stop: Callable[[], Awaitable[None]]
    ) -> None:
        self._door = door
        self._start = start
        self._stop = stop
        self._started: asyncio.Task[None] | None = None
        self._stopped = False
        self.ready = False
        self.error: Exception | None = None
        """Why it did not start."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.ready:
            await self._door(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await self._late(scope, receive, send)

    async def _late(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The first request of a mounted server, every one until it has started, and those after its end."""
        refusal = None
        try:
            if self._stopped:
                raise Unavailable("The server is stopping.", hint="Ask again in a moment.")
            await self.started()
        except Unavailable as exc:
            refusal = exc
        except HansangError as exc:
            log.error("the server did not start: %s %s", exc.message, exc.hint or "")
            refusal = Unavailable("The server could not start.", hint="Its log says why; the next request tries again.")
        if refusal is None:
            await self._door(scope, receive, send)
            return
        if scope["type"] != "http":
            raise refusal
        reply = render(refusal, scope["path"].removeprefix(scope.get("root_path", "")))
        headers = [(b"content-type", reply.content_type), (b"content-length", b"%d" % len(reply.body))]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    async def started(self) -> None:
        """Start once, whoever asks first; a failed start is tried again at the next request."""
        if self._started is None or (self._started.done() and self._started.exception() is not None):
            self._started = asyncio.ensure_future(self._start())
        await asyncio.shield(self._started)
        self.ready = True

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        self._stopped = False
        try:
            await self.started()
        except Exception as exc:
            self.error = exc
            if not isinstance(exc, HansangError):
                raise
            await send({"type": "lifespan.startup.failed", "message": exc.message})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.ready, self._started, self._stopped = False, None, True
        await self._stop()
        await send({"type": "lifespan.shutdown.complete"})


class MountedLifespan:
    """Runs the lifespan of an app that is mounted in ours, if it has one."""

    def __init__(self, name: str, mount: Mount) -> None:
        self._name = name
        self._mount = mount
        self._inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._outbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises LoadFailed if the app says it cannot start."""
        self._mount.state.clear()
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self._mount.state}
        self._task = asyncio.ensure_future(self._mount.app(scope, self._inbox.get, self._outbox.put))
        self._task.add_done_callback(_look_at)
        self._inbox.put_nowait({"type": "lifespan.startup"})
        answer = await self._answer()
        if answer is not None and answer["type"] == "lifespan.startup.failed":
            said = str(answer.get("message") or "it does not say why").strip()
            log.debug("the app %s did not start: %s", self._name, said)
            # Starlette says a whole traceback.
            raise LoadFailed(
                f"The app {self._name} did not start: {said.splitlines()[-1]}",
                hint="Run it by itself to see the whole error.",
            )

    async def stop(self) -> None:
        """Tell the app; what it does wrong then is in the log, and keeps nobody."""
        if self._task is None or self._task.done():
            return
        self._inbox.put_nowait({"type": "lifespan.shutdown"})
        try:
            async with asyncio.timeout(STOP_TIMEOUT):
                answer = await self._answer()
        except TimeoutError:
            log.warning("the app %s did not stop within %g s", self._name, STOP_TIMEOUT)
        else:
            if answer is not None and answer["type"] == "lifespan.shutdown.failed":
                log.warning("the app %s failed to stop: %s", self._name, answer.get("message", ""))
        self._task.cancel()

    async def _answer(self) -> dict[str, Any] | None:
        """What the app says; None if it has no lifespan (it raised, or returned, without a word)."""
        assert self._task is not None
        said = asyncio.ensure_future(self._outbox.get())
        await asyncio.wait({said, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if said.done():
            return said.result()
        said.cancel()
        self._task.exception()
        return None


def _look_at(task: asyncio.Task[None]) -> None:
    """What it raised was told already, by its message; nothing is left to be found by the garbage collector."""
    if not task.cancelled():
        task.exception()
