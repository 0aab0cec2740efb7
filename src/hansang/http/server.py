"""uvicorn, with what it lacks: slow senders are cut off, heads are bounded, a caller's leaving is told at once, and a
whole JSON answer goes out in one write.

One process, uvloop and httptools. Under another ASGI server the app works too, without these: the front door finds
our connection in the scope, or it does not.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from signal import SIGTERM
from socket import socket
from time import monotonic
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from hansang.core.model import CallContext
from hansang.http.exchange import CONNECTION, ASGIApp

log = logging.getLogger("hansang.http")

HEAD_LIMIT = 64 * 2**10
"""Bytes of a request before its body."""


class Connection(HttpToolsProtocol):
    """One client's connection. `header_timeout` is set by `uvicorn_server`.

    A head must be whole `header_timeout` seconds after its first byte; a body may pause no longer than that. The time
    we do not read (because the app is behind) does not count.
    """

    header_timeout = 10.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.active: CallContext | None = None
        """The call that is being answered; told when the client leaves."""
        self._head_done = False
        self._body_done = True
        self._received = self._head_bytes = 0
        """Bytes of what came last, and of the head in what came before that."""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        if self.active is not None:
            self.active.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._received = len(data)
        super().data_received(data)
        if self._head_done and self._body_done:
            if self._timer is not None:
                self._disarm()
        elif self in self.connections:
            self._still_incomplete()
        else:
            self._disarm()  # now a WebSocket

    def _still_incomplete(self) -> None:
        if self._head_done:
            self._disarm()
        else:
            self._head_bytes += self._received
            if self._head_bytes > HEAD_LIMIT and not self.transport.is_closing():
                self.send_400_response(f"The head of the request is larger than {HEAD_LIMIT} bytes.")
        if self._timer is None:
            self._arm()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[CONNECTION] = self  # type: ignore[literal-required]
        self._head_done = self._body_done = False
        self._head_bytes = -self._received  # what came with the end of the request before

    def on_headers_complete(self) -> None:
        if self._head_bytes > 0 or self._received > HEAD_LIMIT:
            self._measure_head()
        self._head_done = True
        super().on_headers_complete()

    def _measure_head(self) -> None:
        """Raise, which is a 400, if a head that came in several parts or a big one is larger than HEAD_LIMIT."""
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > HEAD_LIMIT:
            raise ValueError(f"the head of a request has {size} bytes")

    def on_message_complete(self) -> None:
        self._body_done = True
        super().on_message_complete()

    def whole_body(self, cycle: RequestResponseCycle) -> bytes | None:
        """The request's body, if all of it is here; None: read it with `receive`."""
        if cycle.more_body or cycle.waiting_for_100_continue:
            return None
        if self.flow.read_paused:
            self.listen()
        return bytes(cycle.body)

    def listen(self) -> None:
        """Read on after a large body: until then nobody would notice that the caller leaves."""
        if not self.pipeline:
            self.flow.resume_reading()

    def abandon(self, cycle: RequestResponseCycle) -> None:
        """Let go of a caller who does not read the answer."""
        cycle.disconnected = True
        self.transport.abort()

    def respond(self, cycle: RequestResponseCycle, status: int, request_id: bytes, body: bytes) -> bool:
        """Send a whole JSON answer in one write. False: nothing was sent, use `send`.

        What `RequestResponseCycle.send` does in two steps for any app, without its checks of names and values of
        headers: these are our own.
        """
        if self.flow.write_paused or cycle.disconnected or not cycle.keep_alive or cycle.scope["method"] == "HEAD":
            return False
        self.transport.write(
            b"%b%bcontent-type: application/json\r\ncontent-length: %d\r\nx-request-id: %b\r\n\r\n%b"
            % (STATUS_LINE[status], _date(cycle.default_headers), len(body), request_id, body)
        )
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        cycle.on_response()
        return True

    def write_chunk(self, cycle: RequestResponseCycle, chunk: bytes) -> bool:
        """Send one piece of a chunked answer that has begun. False: nothing was sent, use `send`."""
        if self.flow.write_paused or cycle.disconnected or not cycle.chunked_encoding:
            return False
        self.transport.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        return True

    def _arm(self) -> None:
        self._timer = self.loop.call_later(self.header_timeout, self._too_slow)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        if self.flow.read_paused:
            self._arm()
        elif not self.transport.is_closing():
            log.info("closed a connection whose request did not arrive within %g s", self.header_timeout)
            self.transport.close()
            self._see_off()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._see_off()

    def _see_off(self, unread: int = 0) -> None:
        """A closing connection stays until its last answer is read, as long as some of it is, now and then."""
        left = self.transport.get_write_buffer_size()
        if left and left == unread:
            self.transport.abort()
        elif left:
            self.loop.call_later(self.header_timeout, self._see_off, left)


def _date(headers: list[tuple[bytes, bytes]]) -> bytes:
    """uvicorn's own header, renewed each second."""
    return b"date: %b\r\n" % headers[0][1] if headers else b""


class _Server(uvicorn.Server):
    """Tells the app when draining begins, and whoever made the server when requests are answered.

    After SIGTERM everything is still answered for `drain_delay` seconds, so that whoever asks `/readyz` can send new
    callers elsewhere; a second signal, or Ctrl+C, does not wait.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        drain_delay: float,
        on_ready: Callable[[], None],
        on_drain: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._drain_delay = drain_delay
        self._on_ready = on_ready
        self._on_drain = on_drain

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal while models load is obeyed when they have; a second one at once, for a thread cannot be stopped."""
        if not self.started and self.should_exit:
            os._exit(128 + sig)
        super().handle_exit(sig, frame)  # before the words: whoever reads them may be quick
        if not self.started:
            log.warning("models are loading: the server stops after that. The same again stops it now.")

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        self._on_drain()
        until = monotonic() + self._drain_delay
        while monotonic() < until and self._captured_signals == [SIGTERM]:  # noqa: ASYNC110 - uvicorn's handler sets it
            await asyncio.sleep(0.05)
        await super().shutdown(sockets)


def uvicorn_server(
    app: ASGIApp,
    *,
    header_timeout: float = 10.0,
    drain_delay: float = 0.0,
    drain_timeout: float = 30.0,
    on_ready: Callable[[], None] = lambda: None,
    on_drain: Callable[[], None] = lambda: None,
) -> uvicorn.Server:
    """A server whose `run(sockets=[listener])` serves until SIGINT or SIGTERM.

    SIGTERM is followed by `drain_delay` seconds of normal service; then requests in flight get `drain_timeout` seconds.
    """
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=type("Connection", (Connection,), {"header_timeout": header_timeout}),
        ws="hansang.http.websockets:WebSockets",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=int(drain_timeout),
        backlog=2048,
    )
    return _Server(config, drain_delay=drain_delay, on_ready=on_ready, on_drain=on_drain)
