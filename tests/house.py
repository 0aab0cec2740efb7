"""Real parts to test the house with: a task on lists, models whose pace a test sets, a server of them, raw sockets.

Nothing here is a mock: the models go through the same executors, batchers and front door as any other.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from time import monotonic, sleep
from typing import Any

import uvicorn

from hansang.access.server_key import ServerKey
from hansang.core.errors import HansangError
from hansang.core.model import Call, CallContext, LoadContext, Model, Mount, Task
from hansang.core.source import Source
from hansang.core.wire import Reply, Request, Route, StreamReply
from hansang.engine.engine import Engine
from hansang.http.control import Status, control_plane
from hansang.http.front_door import FrontDoor
from hansang.http.guard import Guard
from hansang.http.lifespan import LifespanApp, MountedLifespan
from hansang.http.server import uvicorn_server
from hansang.registry.registry import ModelSpec, Registry
from hansang.scheduling.batcher import QueueLimits
from hansang.usage.metrics import Metrics

PATIENCE = 20.0
"""Seconds after which a test that waits gives up. Long, because it is only ever reached by a failure."""


def _joined(deltas: Iterable[Any]) -> list[Any]:
    return list(deltas)


def _cut(request: list[Any], start: int, stop: int) -> list[Any]:
    return request[start:stop]


def _merged(results: Sequence[list[Any]]) -> list[Any]:
    return [value for result in results for value in result]


LISTS = Task(
    name="lists",
    request=list,
    result=list,
    delta=object,
    join=_joined,
    split=iter,
    rows=len,
    shape=lambda request: type(request[0]).__name__,
    cut=_cut,
    merge=_merged,
)
"""A list in, a list of the same length out. A row is an element, a batch has one type of element, so has a stream."""


def twice(value: Any) -> Any:
    return value * 2


class Gate:
    """Closed, it holds a model's steps: `once` lets one through, `set` all from then on."""

    def __init__(self, *, held: bool) -> None:
        self._condition = threading.Condition()
        self._open = not held
        self._permits = 0

    def once(self) -> None:
        with self._condition:
            self._permits += 1
            self._condition.notify()

    def set(self) -> None:
        with self._condition:
            self._open = True
            self._condition.notify_all()

    def passed(self) -> bool:
        """Go through, if it is open."""
        with self._condition:
            if not self._open and self._permits:
                self._permits -= 1
                return True
            return self._open

    def wait(self) -> None:
        with self._condition:
            assert self._condition.wait_for(lambda: self._open or self._permits, PATIENCE)
            if not self._open:
                self._permits -= 1


class Lists(Model):
    """Answers `work(row)` for every row. While `held`, it waits inside `predict` for `gate`.

    `batches` has what each `predict` was given.
    """

    task = LISTS

    def __init__(self, work: Callable[[Any], Any] = twice, *, held: bool = False, **settings: Any) -> None:
        self.work = work
        self.gate = Gate(held=held)
        self.batches: list[list[list[Any]]] = []
        self.ended = 0
        self.loaded = self.unloaded = 0
        for name, value in settings.items():
            setattr(self, name, value)

    def load(self, context: LoadContext) -> None:
        self.loaded += 1

    def unload(self) -> None:
        self.unloaded += 1

    def predict(self, calls: Sequence[Call]) -> Any:
        self.batches.append([list(call.request) for call in calls])
        try:
            self.gate.wait()
            return [self._row_by_row(call) for call in calls]
        finally:
            self.ended += 1

    def _row_by_row(self, call: Call) -> Any:
        results = [self.work(row) for row in call.request]
        return next((result for result in results if isinstance(result, HansangError)), results)


class AsyncLists(Lists):
    async def predict(self, calls: Sequence[Call]) -> Any:
        self.batches.append([list(call.request) for call in calls])
        try:
            while not self.gate.passed():
                await asyncio.sleep(0.001)
            return [self._row_by_row(call) for call in calls]
        finally:
            self.ended += 1


KINDS: dict[str, Callable[..., Lists]] = {
    "inline": lambda *args, **options: Lists(*args, placement="inline", **options),
    "thread": Lists,
    "async": AsyncLists,
}
WAITING = ("thread", "async")
"""Kinds that may wait in `predict` without stopping the event loop."""


class Counting(Model):
    """Streams `work(row)` for every row; `steps` has what it made, `stopped` is set when it is closed or done.

    While `held`, each step waits for a permit of `gate`.
    """

    task = LISTS

    def __init__(self, work: Callable[[Any], Any] = twice, *, held: bool = False, **settings: Any) -> None:
        self.work = work
        self.gate = Gate(held=held)
        self.steps: list[Any] = []
        self.stopped = threading.Event()
        for name, value in settings.items():
            setattr(self, name, value)

    def stream(self, call: Call) -> Any:
        try:
            for row in call.request:
                self.gate.wait()
                self.steps.append(row)
                yield self.work(row)
        finally:
            self.stopped.set()


class AsyncCounting(Counting):
    async def stream(self, call: Call) -> Any:
        try:
            for row in call.request:
                await asyncio.sleep(0)
                while not self.gate.passed():
                    await asyncio.sleep(0.001)
                self.steps.append(row)
                yield self.work(row)
        finally:
            self.stopped.set()


STREAMS: dict[str, Callable[..., Counting]] = {
    "inline": lambda *args, **options: Counting(*args, placement="inline", **options),
    "thread": Counting,
    "async": AsyncCounting,
}


def call(*rows: Any, seconds: float = PATIENCE) -> Call:
    return Call(list(rows), CallContext("req_test", monotonic() + seconds))


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run `main` on an event loop whose every complaint fails the test."""
    complaints: list[Any] = []

    async def whole() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        await asyncio.wait_for(main(), 2 * PATIENCE)

    asyncio.run(whole())
    assert not complaints, complaints


async def until(condition: Callable[[], Any]) -> None:
    for _ in range(int(PATIENCE / 0.002)):
        if condition():
            return
        await asyncio.sleep(0.002)
    raise AssertionError("waited in vain")


def wait_for(condition: Callable[[], Any]) -> None:
    """`until`, for a test that has no event loop."""
    end = monotonic() + PATIENCE
    while not condition():
        assert monotonic() < end, "waited in vain"
        sleep(0.005)


class House:
    """A server of Lists and Counting models: `POST /lists/{model}` and `POST /stream/{model}`, bodies are JSON lists.

    Put together as `app` does it, with routes that are as plain as a route can be.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        *,
        mounts: Mapping[str, Any] | None = None,
        routes: Iterable[Route] = (),
        key: str | None = None,
        hosts: Iterable[str] = (),
        origins: Iterable[str] = (),
        limits: QueueLimits | None = None,
        secure_default: bool = True,
        **options: Any,
    ) -> None:
        self.metrics = Metrics()
        self.status = Status()
        self.registry = Registry(lambda source: Mount(mounts[source.rest]), limits=limits)  # type: ignore[index]
        for name, model in models.items():
            self.registry.add(ModelSpec(name, Source(name, scheme="test", rest=name)), model)
        for name in mounts or {}:
            self.registry.add(ModelSpec(name, Source(name, scheme="test", rest=name)))
        self.engine = Engine(self.registry, self.metrics)
        secret = ServerKey(key)
        control = control_plane([], self.status, self.metrics.exposition, secret.required)
        self.control = control
        self.door = FrontDoor(
            [
                Route("POST", "/lists/{model}", self._whole),
                Route("POST", "/stream/{model}", self._pieces, long=True),
                *routes,
            ],
            control,
            self.registry.mounts,
            guard=Guard(hosts, origins),
            identify=secret.identify,
            record=self.metrics.request,
            **options,
        )
        self.app = LifespanApp(self.door, self.start, self.stop)
        self.port = 0
        self.plain = False
        self.server: uvicorn.Server | None = None

    async def start(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._stack = AsyncExitStack()
        for name, mount in self.registry.mounts.items():
            lifespan = MountedLifespan(name, mount)
            await lifespan.start()
            self._stack.push_async_callback(lifespan.stop)
        for entry in self.registry:
            await self.registry.load(entry.name)
        self.status.started = True

    async def stop(self) -> None:
        await self._stack.aclose()
        await self.registry.close()

    async def _whole(self, request: Request, model: str) -> Reply:
        entry = self.engine.entry(model, LISTS)
        result = await self.engine.predict(entry, json.loads(request.body), request.context, len(request.body))
        return Reply(json.dumps(result).encode())

    async def _pieces(self, request: Request, model: str) -> StreamReply:
        entry = self.engine.entry(model, LISTS)
        deltas = self.engine.stream(entry, json.loads(request.body), request.context, len(request.body))
        return StreamReply(self._lines(deltas), lambda error: f"error: {error.code}\n\n".encode())

    async def _lines(self, deltas: AsyncIterator[Any]) -> AsyncIterator[bytes]:
        try:
            async for delta in deltas:
                yield f"data: {json.dumps(delta)}\n\n".encode()
        finally:
            await deltas.aclose()  # type: ignore[attr-defined]

    def on_loop(self, function: Callable[[], Any]) -> Any:
        """What `function` returns on the event loop's thread; a coroutine is awaited."""

        async def there() -> Any:
            result = function()
            return await result if asyncio.iscoroutine(result) else result

        return asyncio.run_coroutine_threadsafe(there(), self.loop).result(PATIENCE)

    def outcomes(self, model: str) -> dict[str, int]:
        return dict(self.metrics.model(model, "1").outcomes)

    def statuses(self) -> dict[tuple[str, int], int]:
        """Requests by (route, status), as counted for /metrics."""
        return {key: sum(histogram.counts) for key, histogram in self.metrics._requests.items()}

    def post(self, path: str, rows: Any, *headers: str, **options: Any) -> Answer:
        with Raw(self.port) as raw:
            return raw.ask("POST", path, *headers, body=json.dumps(rows).encode(), **options)

    def get(self, path: str, *headers: str, method: str = "GET") -> Answer:
        with Raw(self.port) as raw:
            return raw.ask(method, path, *headers)


def _serving(house: House, server: uvicorn.Server, listener: socket.socket) -> Iterator[House]:
    house.port = listener.getsockname()[1]
    house.server = server
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        sleep(0.005)
    try:
        yield house
    finally:
        for entry in house.registry:
            if isinstance(gate := getattr(entry.model, "gate", None), Gate):
                gate.set()
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive(), "the server did not stop"


@contextmanager
def house(
    models: Mapping[str, Model] | None = None,
    *,
    plain: bool = False,
    header_timeout: float = 10.0,
    drain_timeout: float = 2.0,
    **options: Any,
) -> Iterator[House]:
    """A House on a real socket, in a thread; `plain`: under an unmodified uvicorn with h11."""
    built = House(models or {}, **options)
    built.plain = plain
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", 0))
    if plain:
        config = uvicorn.Config(
            built.app,
            http="h11",
            loop="asyncio",
            lifespan="on",
            log_config=None,
            timeout_graceful_shutdown=int(drain_timeout),
        )
        server = uvicorn.Server(config)
    else:
        server = uvicorn_server(built.app, header_timeout=header_timeout, drain_timeout=drain_timeout)
    yield from _serving(built, server, listener)


class Answer:
    """One HTTP response, read to its end."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        return self.json()["error"]

    @property
    def code(self) -> Any:
        return self.error["code"]

    def __repr__(self) -> str:
        return f"{self.status} {self.headers} {self.body[:300]!r}"


class Raw:
    """A socket and nothing between: sends what a well-behaved client would not."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.socket = socket.create_connection((host, port), timeout=PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb")

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.file.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def request(
        self, method: str, target: str, *headers: str, body: bytes | None = None, host: str | None = ""
    ) -> bytes:
        lines = [f"{method} {target} HTTP/1.1", *headers]
        if host is not None:
            lines.insert(1, f"host: {host or 'localhost'}")
        if body is not None:
            lines.append(f"content-length: {len(body)}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")

    def ask(self, method: str, target: str, *headers: str, **options: Any) -> Answer:
        self.send(self.request(method, target, *headers, **options))
        return self.read(method)

    def read_head(self) -> tuple[int, dict[str, str]]:
        line = self.file.readline()
        if not line:
            raise EOFError("the connection was closed instead of an answer")
        status = int(line.split()[1])
        headers: dict[str, str] = {}
        while (line := self.file.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        return status, headers

    def read(self, method: str = "GET") -> Answer:
        status, headers = self.read_head()
        if method == "HEAD" or status in (100, 204, 304):
            return Answer(status, headers, b"")
        if headers.get("transfer-encoding") == "chunked":
            return Answer(status, headers, b"".join(self.chunks()))
        if "content-length" in headers:
            return Answer(status, headers, self.file.read(int(headers["content-length"])))
        return Answer(status, headers, self.file.read())

    def chunks(self) -> Iterator[bytes]:
        while (size := int(self.file.readline(), 16)) > 0:
            chunk = self.file.read(size)
            self.file.readline()
            yield chunk
        self.file.readline()

    def at_end(self) -> bool:
        """Whether the server closes the connection now, with nothing more to read."""
        with suppress(ConnectionResetError):
            return self.file.read(1) == b""
        return True
