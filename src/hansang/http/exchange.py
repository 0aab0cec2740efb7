"""One HTTP request between the two ends that ASGI gives: its body is read here, its answer is written here.

Whole answers, streams, errors; on our own server by the short way, on others as ASGI says. Who may ask, and what is
answered, is decided elsewhere.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import aclosing
from time import monotonic
from typing import Any, TypeAlias

from hansang.core.errors import ClientGone, DeadlineExceeded, HansangError, ModelFailed, TooLarge, Unavailable
from hansang.core.model import CallContext
from hansang.core.wire import JSON, Header, Reply, Request, StreamReply
from hansang.http.errors import render

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

CONNECTION = "hansang.connection"
"""Where our own server leaves the connection in a scope; other servers do not."""

_BREATH = 64
"""After so many pieces of a stream that never waits, others get a turn."""
_LAST_WORDS = 1.0
"""Seconds that the end of a broken stream may take to leave."""
_MEDIA_TYPE = re.compile(rb"[\x20-\x7e]+")


class Exchange(Request):
    """One request with its ASGI ends: what an adapter sees of it is the Request."""

    __slots__ = (
        "connection",
        "cycle",
        "label",
        "receive",
        "request_id",
        "scope",
        "send",
        "started",
        "status",
        "watcher",
    )

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        method: str,
        path: str,
        headers: dict[bytes, bytes],
        context: CallContext,
        request_id: bytes,
    ) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        self.method = method
        self.path = path
        self.query = scope["query_string"]
        self.headers = headers
        self.body = b""
        self.context = context
        self.request_id = request_id
        self.connection = scope.get(CONNECTION)
        self.cycle = None if self.connection is None else receive.__self__  # type: ignore[attr-defined]
        self.label = "other"
        """The route, for metrics."""
        self.status = 499
        self.started = False
        self.watcher: asyncio.Future[None] | None = None

    async def read(self, limit: int) -> bytes:
        """The whole body. Raises TooLarge before reading what is announced as too large, or while reading."""
        length = self.headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > limit:
            raise too_large(limit)
        try:
            async with asyncio.timeout(self.context.deadline - monotonic()):
                body = await self._rest(await self.receive(), limit)
        except TimeoutError:
            raise DeadlineExceeded(
                "The request's body did not arrive before the deadline.", hint="Send it faster, or less of it."
            ) from None
        if self.connection is None:
            self.watcher = asyncio.ensure_future(self._watch())
        else:
            self.connection.listen()
        return body

    async def _rest(self, message: Message, limit: int) -> bytes:
        parts, size = [], 0
        while True:
            if message["type"] == "http.disconnect":
                raise ClientGone("The caller closed the connection.")
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limit:
                raise too_large(limit)
            if not message.get("more_body"):
                return b"".join(parts)
            message = await self.receive()

    def bounded(self, limit: int) -> Receive:
        """`receive` for the control plane, which reads the body itself."""
        length = self.headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > limit:
            raise too_large(limit)
        size = 0

        async def receive() -> Message:
            nonlocal size
            message = await self.receive()
            size += len(message.get("body", b""))
            if size > limit:
                raise too_large(limit)
            return message

        return receive

    async def _watch(self) -> None:
        """Under a server that is not ours: wait for the caller to leave."""
        while (await self.receive())["type"] != "http.disconnect":
            pass
        self.context.cancel()

    async def reply(self, reply: Reply) -> None:
        if reply.content_type is not JSON and not _MEDIA_TYPE.fullmatch(reply.content_type):
            raise ModelFailed(
                f"The model answered with the content type {reply.content_type.decode('latin-1')!r}, which is none.",
                hint="A content type looks like image/png; the model's code sets it.",
            )
        self.status = reply.status
        self.started = True
        body = reply.body
        connection = self.connection if reply.content_type is JSON and not reply.headers else None
        if connection is not None and connection.respond(self.cycle, reply.status, self.request_id, body):
            return
        headers = [
            (b"content-type", reply.content_type),
            (b"content-length", b"%d" % len(body)),
            (b"x-request-id", self.request_id),
        ]
        if reply.headers:
            headers += reply.headers
        await self.send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    async def error(self, error: HansangError, path: str, headers: list[Header]) -> None:
        """Tell the caller, unless an answer is on its way or nobody is there. `headers` are sent with it."""
        self.status = error.status
        if self.started or isinstance(error, ClientGone):
            return
        reply = render(error, path)
        if headers:
            reply.headers = [*reply.headers, *headers]
        if isinstance(error, TooLarge):
            reply.headers = [*reply.headers, (b"connection", b"close")]
        await self.reply(reply)

    async def stream(self, reply: StreamReply) -> None:
        """Send pieces as they come. The first is awaited before the head goes out, so that an early error has a status.

        The deadline, and the caller's leaving, interrupt this very task where it waits.
        """
        context = self.context
        task = asyncio.current_task()
        assert task is not None
        timer = asyncio.get_running_loop().call_later(
            context.deadline - monotonic(), lambda: context.cancel(_stream_deadline())
        )
        context.on_end(lambda error: _interrupt(task))
        send, connection = self.send, self.connection
        sent, complete = 0, False
        try:
            async with aclosing(reply.chunks) as chunks:  # type: ignore[type-var]
                async for chunk in chunks:
                    sent += 1
                    if not chunk:
                        continue
                    if sent % _BREATH == 0:
                        await asyncio.sleep(0)
                    if not self.started:
                        await self._start_stream(reply)
                    if connection is None or not connection.write_chunk(self.cycle, chunk):
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
            if not self.started:
                await self._start_stream(reply)
            complete = True
            await send({"type": "http.response.body", "body": b""})
        except (HansangError, asyncio.CancelledError) as exc:
            if isinstance(exc, asyncio.CancelledError):
                if context.error is None:
                    self.status = Unavailable.status
                    raise
                task.uncancel()
            error = context.error or exc
            assert isinstance(error, HansangError)
            if not self.started:
                raise error from None
            self.status = error.status
            if not isinstance(error, ClientGone):
                await self._last_words(b"" if complete else reply.on_error(error))
        finally:
            timer.cancel()
            context.forget()

    async def _last_words(self, words: bytes) -> None:
        """End a broken stream. A caller who does not read is not waited for."""
        try:
            async with asyncio.timeout(_LAST_WORDS):
                if words:
                    await self.send({"type": "http.response.body", "body": words, "more_body": True})
                await self.send({"type": "http.response.body", "body": b""})
        except TimeoutError:
            if self.connection is not None:
                self.connection.abandon(self.cycle)

    async def _start_stream(self, reply: StreamReply) -> None:
        self.status = 200
        self.started = True
        headers = [(b"content-type", reply.content_type), (b"x-request-id", self.request_id), *reply.headers]
        await self.send({"type": "http.response.start", "status": 200, "headers": headers})

    def sender(self, extra: list[Header]) -> Send:
        """`send` for apps behind the door: adds the request id, notes the status."""

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.status = message["status"]
                self.started = True
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", self.request_id), *extra]
            await self.send(message)

        return send


def _interrupt(task: asyncio.Task[Any]) -> None:
    task.cancel()


def _stream_deadline() -> DeadlineExceeded:
    return DeadlineExceeded(
        "The answer was not complete before the deadline.",
        hint="Ask for a shorter answer, or raise `long_timeout` in the server's settings.",
    )


def too_large(limit: int) -> TooLarge:
    """What a caller is told of a body over `limit` bytes."""
    return TooLarge(
        f"The body is larger than {limit} bytes.",
        hint="Send less at once, or raise `body_limit` in the server's settings.",
    )
