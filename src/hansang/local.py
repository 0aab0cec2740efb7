"""`hansang.load(source)`: one model in this process, answering as the server would.

It is a server without a socket: a request goes through the same door, checks, queue and codec, so that what works
here works there. Fast paths for arrays are not here; ask the library that made the model.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar, overload

from hansang.access.server_key import ServerKey
from hansang.app import Server
from hansang.client import decode, predict_body, predict_path, predictions
from hansang.core.errors import BadRequest, LoadFailed
from hansang.core.model import Model
from hansang.core.signature import Signature
from hansang.core.source import parse
from hansang.http.exchange import ASGIApp, Message
from hansang.registry.registry import Entry, ModelSpec
from hansang.settings import Settings

T = TypeVar("T")
_FOREVER = 10.0**8
_ANY_SIZE = 2**62


def load(source: Any, *, sample: Any = None) -> LocalModel:
    """Open and load a model: a source as on the command line, a typed function, or a Model.

    `sample` is one row, to learn the types of a model that does not say what it takes.
    """
    return LocalModel(source, sample=sample)


class LocalModel:
    """A loaded model. `close` gives back what it took; so does the end of a `with` block."""

    def __init__(self, source: Any, *, sample: Any = None) -> None:
        settings = Settings(timeout=_FOREVER, long_timeout=_FOREVER, body_limit=_ANY_SIZE, queue_bytes=_ANY_SIZE)
        self._server = Server([_spec(source, sample)], settings, key=ServerKey(None))
        self._entry = _the_model(self._server)
        self._loop = _Loop()
        self.close = weakref.finalize(self, _close, self._loop, self._server)
        self.close.atexit = False  # the process takes all with it
        try:
            self._loop.run(self._server.app.started())
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> LocalModel:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        takes = self.signature.describe() if self.signature else "untyped"
        return f"<{self.name}: {takes}>"

    @property
    def name(self) -> str:
        return self._entry.name

    @property
    def model(self) -> Model:
        """The model itself, as its runtime opened it."""
        return self._entry.model

    @property
    def signature(self) -> Signature | None:
        """What it takes and gives. None: untyped, any JSON reaches it."""
        return self._entry.model.signature

    @overload
    def predict(self, rows: Sequence[Any], /) -> list[Any]: ...
    @overload
    def predict(self, /, **row: Any) -> Any: ...
    def predict(self, rows: Sequence[Any] | None = None, /, **row: Any) -> Any:
        """One prediction for each of `rows`, in order; or the one prediction for a row given by name."""
        body = predict_body(rows, row)
        status, answer = self._loop.run(_post(self._server.app, predict_path(self.name), body))
        return predictions(decode(status, answer), rows)


def _spec(source: Any, sample: Any) -> Any:
    if isinstance(source, str | os.PathLike):
        return ModelSpec(*parse(os.fspath(source)), sample=sample)
    if sample is not None:
        raise BadRequest("A sample goes with a source, not with an object.", hint="Give the object type hints instead.")
    return source


def _the_model(server: Server) -> Entry:
    for entry in server.registry:
        return entry
    (name,) = server.registry.mounts
    raise LoadFailed(f"{name} is a web application, not a model.", hint="Serve it: hansang serve SOURCE")


def _close(loop: _Loop, server: Server) -> None:
    loop.finish(server.stop())


async def _post(app: ASGIApp, path: str, body: bytes) -> tuple[int, bytes]:
    """One request to an ASGI app, without a socket."""
    told: list[Message] = []
    asked = False

    async def receive() -> Message:
        nonlocal asked
        if asked:
            await asyncio.Future()  # this caller does not leave
        asked = True
        return {"type": "http.request", "body": body}

    async def send(message: Message) -> None:
        told.append(message)

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}
    await app(scope, receive, send)
    return told[0]["status"], b"".join(message.get("body", b"") for message in told[1:])


class _Loop:
    """An event loop on a thread of its own: callers may be in a notebook, which has one running already."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="hansang-local", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def finish(self, work: Coroutine[Any, Any, None]) -> None:
        """Do the last of the work, then end."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        future.add_done_callback(lambda _: self._loop.call_soon_threadsafe(self._loop.stop))
        if threading.current_thread() is not self._thread:  # the garbage collector may call from any
            self._thread.join()
            future.result()
