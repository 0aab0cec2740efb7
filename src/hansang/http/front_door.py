"""The front door: every request comes in here and goes out here.

In this order: request id, Host and Origin, who is calling, which route, body, deadline; then a protocol adapter (the
data plane), the FastAPI app (the control plane) or a mounted app; then one error mapping and one line in metrics.
It speaks ASGI, so that nothing behind it has to. No policy: who may call is `identify`'s business.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, MutableMapping
from contextlib import aclosing
from itertools import count
from os import urandom
from time import monotonic
from typing import Any, TypeAlias

from hansang.core.errors import BadRequest, ClientGone, DeadlineExceeded, HansangError, TooLarge
from hansang.core.model import CallContext, Mount
from hansang.core.wire import CONTEXT, JSON, Header, Reply, Request, Route, StreamReply, template_pattern
from hansang.http.errors import render, unexpected, wrong_method
from hansang.http.guard import Guard

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

CONNECTION = "hansang.connection"
"""Where our own server leaves the connection in a scope; other servers do not."""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9_.:-]{1,128}")
_HOT = 4096
_BREATH = 64
"""After so many pieces of a stream that never waits, others get a turn."""
_PREFLIGHT: list[Header] = [
    (b"access-control-allow-methods", b"GET, POST, PUT, DELETE"),
    (b"access-control-allow-headers", b"authorization, content-type, x-api-key, x-request-id, x-hansang-timeout"),
    (b"access-control-max-age", b"600"),
]


class FrontDoor:
    """`identify` names the caller or raises; `record` counts a request's end, and `log`, if any, writes a line."""

    def __init__(
        self,
        routes: Iterable[Route],
        control: ASGIApp,
        mounts: Mapping[str, Mount],
        *,
        guard: Guard,
        identify: Callable[[str, Mapping[bytes, bytes]], str],
        record: Callable[[str, int, float], None],
        log: Callable[[Request, int, float], None] | None = None,
        timeout: float = 60.0,
        long_timeout: float = 600.0,
        body_limit: int = 64 * 2**20,
        upload_limit: int = 10 * 2**30,
        uploads: Iterable[tuple[str, str]] = (),
    ) -> None:
        self._routes = list(routes)
        self._control = control
        self._mounts = mounts
        self._guard = guard
        self._identify = identify
        self._record = record
        self._log = log
        self._timeout = timeout
        self._long_timeout = long_timeout
        self._body_limit = body_limit
        self._upload_limit = upload_limit
        self._uploads = [(method, template_pattern(template)) for method, template in uploads]
        self._hot: dict[tuple[str, str], tuple[Route, dict[str, str]]] = {}
        self._id_prefix = b"req_" + urandom(6).hex().encode()
        self._ids = count(1)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        """ASGI, for the scopes `http` and `websocket`."""
        return (self._http if scope["type"] == "http" else self._websocket)(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrival = monotonic()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        request_id = headers.get(b"x-request-id")
        if request_id is None or not _REQUEST_ID.fullmatch(request_id):
            request_id = b"%b%08x" % (self._id_prefix, next(self._ids))
        method: str = scope["method"]
        path: str = scope["path"]
        if scope.get("root_path"):
            path = path.removeprefix(scope["root_path"])
        context = CallContext(request_id.decode(), arrival + self._timeout)
        exchange = _Exchange(scope, receive, send, method, path, headers, context, request_id)
        connection = exchange.connection
        label = "other"
        try:
            self._guard.check(headers)
            if method == "OPTIONS" and (cors := self._guard.cors_headers(headers)):
                await exchange.reply(Reply(b"", status=204, headers=[*cors, *_PREFLIGHT]))
                return
            context.principal = self._identify(path, headers)
            if connection is not None:
                connection.active = context
            found = self._hot.get((method, path)) or self._match(method, path, scope, headers)
            if found is None:
                label = await self._pass_on(exchange, path, context)
                return
            route, params = found
            label = route.name
            if route.long:
                context.deadline = arrival + self._long_timeout
            if b"x-hansang-timeout" in headers:
                context.deadline = min(context.deadline, arrival + _timeout_of(headers[b"x-hansang-timeout"]))
            body = None if connection is None else connection.whole_body(exchange.cycle)
            if body is None:
                body = await exchange.read(self._body_limit)
            elif len(body) > self._body_limit:
                raise _too_large(self._body_limit)
            exchange.body = body
            reply = await route.handler(exchange, **params)
            if b"origin" in headers:
                reply.headers = [*reply.headers, *self._guard.cors_headers(headers)]
            if isinstance(reply, Reply):
                await exchange.reply(reply)
            else:
                await exchange.stream(reply)
        except HansangError as exc:
            await exchange.error(exc, path)
        except Exception as exc:
            await exchange.error(unexpected(exc, context.request_id), path)
        finally:
            if connection is not None:
                connection.active = None
            elif exchange.watcher is not None:
                exchange.watcher.cancel()
            self._record(label, exchange.status, monotonic() - arrival)
            if self._log is not None:
                self._log(exchange, exchange.status, monotonic() - arrival)

    def _match(
        self, method: str, path: str, scope: Scope, headers: Mapping[bytes, bytes]
    ) -> tuple[Route, dict[str, str]] | None:
        """The data-plane route of a path not seen before. None: the control plane may know it."""
        allowed = []
        for route in self._routes:
            match = route.pattern.fullmatch(path)
            if match is None:
                continue
            if route.method == method:
                found = (route, match.groupdict())
                if len(self._hot) < _HOT:
                    self._hot[method, path] = found
                return found
            allowed.append(route.method)
        if allowed:
            host = headers.get(b"host", b"localhost").decode("latin-1")
            base = f"{scope.get('scheme', 'http')}://{host}{scope.get('root_path', '')}"
            raise wrong_method(method, path, allowed, base)
        return None

    async def _pass_on(self, exchange: _Exchange, path: str, context: CallContext) -> str:
        """To a mounted app or the control plane. Returns the label for metrics."""
        scope = exchange.scope
        scope[CONTEXT] = context
        extra = self._guard.cors_headers(exchange.headers) if b"origin" in exchange.headers else []
        name, _, rest = path.removeprefix("/apps/").partition("/")
        if path.startswith("/apps/") and name in self._mounts:
            if not rest and not path.endswith("/"):
                target = f"{scope.get('root_path', '')}/apps/{name}/".encode()
                await exchange.reply(Reply(b"", status=307, headers=[(b"location", target)]))
                return f"/apps/{name}/"
            inner = {**scope, "root_path": f"{scope.get('root_path', '')}/apps/{name}"}
            await self._mounts[name].app(inner, exchange.receive, exchange.sender(extra))
            return f"/apps/{name}/"
        await self._control(scope, exchange.bounded(self._limit(exchange.method, path)), exchange.sender(extra))
        route = scope.get("route")
        return getattr(route, "path", "other")

    def _limit(self, method: str, path: str) -> int:
        """Bytes that the body of a control-plane request may have."""
        large = any(method == known and pattern.fullmatch(path) for known, pattern in self._uploads)
        return self._upload_limit if large else self._body_limit

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Only mounted apps have WebSockets; the same checks stand before them."""
        headers = dict(scope["headers"])
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        name = path.removeprefix("/apps/").partition("/")[0]
        try:
            self._guard.check(headers)
            self._identify(path, headers)
        except HansangError:
            name = ""
        if not path.startswith("/apps/") or name not in self._mounts:
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        inner = {**scope, "root_path": f"{scope.get('root_path', '')}/apps/{name}"}
        await self._mounts[name].app(inner, receive, send)


def _timeout_of(value: bytes) -> float:
    """Seconds, from `x-hansang-timeout`."""
    try:
        seconds = float(value)
    except ValueError:
        seconds = float("nan")
    if not 0 < seconds < float("inf"):
        raise BadRequest(
            f"x-hansang-timeout is {value.decode('latin-1')!r}; expected seconds, more than 0.",
            hint="Send for example `x-hansang-timeout: 2.5`, or leave the header out.",
            code="invalid_timeout",
        )
    return seconds


class _Exchange(Request):
    """One request with its ASGI ends: what an adapter sees of it is the Request."""

    __slots__ = ("connection", "cycle", "receive", "request_id", "scope", "send", "started", "status", "watcher")

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
        self.status = 499
        self.started = False
        self.watcher: asyncio.Future[None] | None = None

    async def read(self, limit: int) -> bytes:
        """The whole body. Raises TooLarge before reading what is announced as too large, or while reading."""
        length = self.headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > limit:
            raise _too_large(limit)
        try:
            async with asyncio.timeout(self.context.deadline - monotonic()):
                body = await self._rest(await self.receive(), limit)
        except TimeoutError:
            raise DeadlineExceeded(
                "The request's body did not arrive before the deadline.", hint="Send it faster, or less of it."
            ) from None
        if self.connection is None:
            self.watcher = asyncio.ensure_future(self._watch())
        return body

    async def _rest(self, message: Message, limit: int) -> bytes:
        parts, size = [], 0
        while True:
            if message["type"] == "http.disconnect":
                raise ClientGone("The caller closed the connection.")
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limit:
                raise _too_large(limit)
            if not message.get("more_body"):
                return b"".join(parts)
            message = await self.receive()

    def bounded(self, limit: int) -> Receive:
        """`receive` for the control plane, which reads the body itself."""
        length = self.headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > limit:
            raise _too_large(limit)
        size = 0

        async def receive() -> Message:
            nonlocal size
            message = await self.receive()
            size += len(message.get("body", b""))
            if size > limit:
                raise _too_large(limit)
            return message

        return receive

    async def _watch(self) -> None:
        """Under a server that is not ours: wait for the caller to leave."""
        while (await self.receive())["type"] != "http.disconnect":
            pass
        self.context.cancel()

    async def reply(self, reply: Reply) -> None:
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

    async def error(self, error: HansangError, path: str) -> None:
        """Tell the caller, unless an answer is on its way or nobody is there."""
        self.status = error.status
        if self.started or isinstance(error, ClientGone):
            return
        reply = render(error, path)
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
        sent = 0
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
        except (HansangError, asyncio.CancelledError) as exc:
            if isinstance(exc, asyncio.CancelledError):
                if context.error is None:
                    raise
                task.uncancel()
            error = context.error or exc
            assert isinstance(error, HansangError)
            if not self.started:
                raise error from None
            self.status = error.status
            if isinstance(error, ClientGone):
                return
            await send({"type": "http.response.body", "body": reply.on_error(error), "more_body": True})
        finally:
            timer.cancel()
        if not self.started:
            await self._start_stream(reply)
        await send({"type": "http.response.body", "body": b""})

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


def _too_large(limit: int) -> TooLarge:
    return TooLarge(
        f"The body is larger than {limit} bytes.",
        hint="Send less at once, or raise `body_limit` in the server's settings.",
    )
