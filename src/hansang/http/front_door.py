"""The front door: every request comes in here and goes out here.

In this order: request id, Host and Origin, who is calling, which route, body, deadline; then a protocol adapter (the
data plane), the FastAPI app (the control plane) or a mounted app; then one error mapping and one line in metrics.
It speaks ASGI, so that nothing behind it has to. No policy: who may call is `identify`'s business.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine, Iterable, Mapping
from itertools import count
from os import urandom
from time import monotonic
from typing import Any

from hansang.core.errors import BadRequest, HansangError, Unavailable
from hansang.core.model import CallContext, Mount
from hansang.core.wire import CONTEXT, Header, Reply, Request, Route, template_pattern
from hansang.http.errors import unexpected, wrong_method
from hansang.http.exchange import CONNECTION, ASGIApp, Exchange, Receive, Scope, Send, too_large
from hansang.http.guard import Guard, refuse_repeated

_REQUEST_ID = re.compile(rb"[A-Za-z0-9_.:-]{1,128}")
_HOT = 4096
_HOT_PATH = 256
"""Paths seen lately, and how long one may be to be remembered: callers choose them."""
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
        exchange = Exchange(scope, receive, send, method, path, headers, context, request_id)
        connection = exchange.connection
        try:
            if len(headers) != len(scope["headers"]):
                refuse_repeated(scope["headers"])
            self._guard.check(headers)
            if method == "OPTIONS" and (cors := self._guard.cors_headers(headers)):
                await exchange.reply(Reply(b"", status=204, headers=[*cors, *_PREFLIGHT]))
                return
            context.principal = self._identify(path, headers)
            if connection is not None:
                connection.active = context
            found = self._hot.get((method, path)) or self._match(method, path, scope, headers)
            if found is None:
                await self._pass_on(exchange, path, context)
                return
            route, params = found
            exchange.label = route.name
            if route.long or b"x-hansang-timeout" in headers:
                context.deadline = arrival + self._seconds(route, headers)
            body = None if connection is None else connection.whole_body(exchange.cycle)
            if body is None:
                body = await exchange.read(self._body_limit)
            elif len(body) > self._body_limit:
                raise too_large(self._body_limit)
            exchange.body = body
            reply = await route.handler(exchange, **params)
            if b"origin" in headers:
                reply.headers = [*reply.headers, *self._guard.cors_headers(headers)]
            if isinstance(reply, Reply):
                await exchange.reply(reply)
            else:
                await exchange.stream(reply)
        except Exception as exc:
            error = exc if isinstance(exc, HansangError) else unexpected(exc, context.request_id)
            await exchange.error(error, path, self._guard.cors_headers(headers))
        except asyncio.CancelledError:
            if connection is None:
                raise
            await exchange.error(_stopping(), path, self._guard.cors_headers(headers))
        finally:
            if connection is not None:
                if connection.active is context:
                    connection.active = None
            elif exchange.watcher is not None:
                exchange.watcher.cancel()
            self._record(exchange.label, exchange.status, monotonic() - arrival)
            if self._log is not None:
                self._log(exchange, exchange.status, monotonic() - arrival)

    def _seconds(self, route: Route, headers: Mapping[bytes, bytes]) -> float:
        """From arrival to the deadline: the route's, or less if the caller wants it sooner."""
        seconds = self._long_timeout if route.long else self._timeout
        wanted = headers.get(b"x-hansang-timeout")
        return seconds if wanted is None else min(seconds, _timeout_of(wanted))

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
                if len(path) <= _HOT_PATH:
                    if len(self._hot) >= _HOT:
                        self._hot.clear()
                    self._hot[method, path] = found
                return found
            allowed.append(route.method)
        if allowed:
            host = headers.get(b"host", b"localhost").decode("latin-1")
            base = f"{scope.get('scheme', 'http')}://{host}{scope.get('root_path', '')}"
            raise wrong_method(method, path, allowed, base)
        return None

    async def _pass_on(self, exchange: Exchange, path: str, context: CallContext) -> None:
        """To a mounted app or the control plane."""
        scope = exchange.scope
        scope[CONTEXT] = context
        extra = self._guard.cors_headers(exchange.headers) if b"origin" in exchange.headers else []
        name = self._mounted(path)
        if name is None:
            try:
                await self._control(scope, exchange.bounded(self._limit(exchange.method, path)), exchange.sender(extra))
            finally:
                exchange.label = getattr(scope.get("route"), "path", exchange.label)
            return
        exchange.label = f"/apps/{name}/"
        if path == f"/apps/{name}":
            target = f"{scope.get('root_path', '')}/apps/{name}/".encode()
            query = b"?" + exchange.query if exchange.query else b""
            await exchange.reply(Reply(b"", status=307, headers=[(b"location", target + query), *extra]))
            return
        await self._mounts[name].app(self._inner(scope, name), exchange.receive, exchange.sender(extra))

    def _mounted(self, path: str) -> str | None:
        """The name of the app that is mounted where `path` leads."""
        name = path.removeprefix("/apps/").partition("/")[0]
        return name if path.startswith("/apps/") and name in self._mounts else None

    def _inner(self, scope: Scope, name: str) -> Scope:
        """What a mounted app sees: its own root and state, and nothing of our connection."""
        inner = {key: value for key, value in scope.items() if key != CONNECTION}
        inner["root_path"] = f"{scope.get('root_path', '')}/apps/{name}"
        inner["state"] = {**scope.get("state", {}), **self._mounts[name].state}
        return inner

    def _limit(self, method: str, path: str) -> int:
        """Bytes that the body of a control-plane request may have."""
        large = any(method == known and pattern.fullmatch(path) for known, pattern in self._uploads)
        return self._upload_limit if large else self._body_limit

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Only mounted apps have WebSockets; the same checks stand before them."""
        arrival = monotonic()
        headers = dict(scope["headers"])
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        name = self._mounted(path)
        try:
            refuse_repeated(scope["headers"])
            self._guard.check(headers)
            self._identify(path, headers)
        except HansangError:
            name = None
        label, status = ("other", 403) if name is None else (f"/apps/{name}/", 101)
        try:
            if name is None:
                await receive()
                await send({"type": "websocket.close", "code": 1008})
            else:
                await self._mounts[name].app(self._inner(scope, name), receive, send)
        finally:
            self._record(label, status, monotonic() - arrival)


def _stopping() -> Unavailable:
    return Unavailable("The server is stopping.", hint="Ask again in a moment.")


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
