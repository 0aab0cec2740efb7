"""What each feature costs on W1's path: the request as bytes in, the answer as bytes out, in this process, no kernel.

The real uvicorn protocol and the real app are driven through a transport that only counts; then the same with one
part replaced by a do-nothing of the same shape, or with one more header sent. The difference is what the part costs.
Unlike the rest of the bench this knows hansang from inside. Figures leave out sockets, so they say what a feature
adds in microseconds, not what share of a request it is.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import uvicorn
import uvloop
from uvicorn.server import ServerState

from hansang.access.server_key import ServerKey
from hansang.app import open_source
from hansang.core.source import parse
from hansang.engine.engine import Engine
from hansang.http.exchange import ASGIApp
from hansang.http.front_door import FrontDoor
from hansang.http.guard import Guard
from hansang.http.lifespan import LifespanApp
from hansang.http.server import uvicorn_server
from hansang.protocols.predict_v1 import PredictV1
from hansang.protocols.tabular_codec import TabularCodec
from hansang.registry.registry import ModelSpec, Registry
from hansang.usage.metrics import Metrics, ModelMetrics
from harness.servers import BENCH, KEY

_BODY = b'{"instances":[[1,1]]}'


class _NoModelMetrics(ModelMetrics):
    def record(self, *what: Any) -> None:
        pass


class _NoMetrics(Metrics):
    def request(self, *what: Any) -> None:
        pass

    def model(self, name: str, version: str) -> ModelMetrics:
        return _NoModelMetrics()


class _NoGuard(Guard):
    def check(self, headers: Mapping[bytes, bytes]) -> None:
        pass


class _Wire(asyncio.Transport):
    """Counts what is written, and is never full."""

    def __init__(self) -> None:
        super().__init__({"sockname": ("127.0.0.1", 8000), "peername": ("127.0.0.1", 50000)})
        self.writes = 0
        self.last = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes += 1
        self.last = bytes(data)

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        pass


@dataclass
class _Variant:
    name: str
    protocol: asyncio.Protocol
    wire: _Wire
    request: bytes

    async def ask(self, times: int) -> float:
        """CPU microseconds per request."""
        began = time.process_time()
        for _ in range(times):
            writes = self.wire.writes
            self.protocol.data_received(self.request)
            while self.wire.writes == writes:
                await asyncio.sleep(0)
        return 1e6 * (time.process_time() - began) / times


def _request(path: str, body: bytes, headers: Sequence[bytes] = ()) -> bytes:
    head = [b"POST %b HTTP/1.1" % path.encode(), b"Host: 127.0.0.1:8000", *headers]
    head += [b"Content-Type: application/json", b"Content-Length: %d" % len(body), b"", b""]
    return b"\r\n".join(head) + body


def _connected(config: uvicorn.Config) -> tuple[asyncio.Protocol, _Wire]:
    config.load()
    wire = _Wire()
    state = ServerState()
    protocol = config.http_protocol_class(config=config, server_state=state, app_state={})  # type: ignore[call-arg]
    protocol.connection_made(wire)
    return protocol, wire


async def _app(*, guard: Guard | None = None, metrics: Metrics | None = None, key: ServerKey | None = None) -> ASGIApp:
    """hansang with the gate loaded, put together as `app.py` does, with parts exchanged."""
    metrics = metrics or Metrics()
    registry = Registry(open_source)
    registry.add(ModelSpec(*parse(f"and={BENCH / 'models' / 'and.json'}")))
    door = FrontDoor(
        PredictV1(Engine(registry, metrics)).routes(),
        _nothing,
        {},
        guard=guard or Guard(),
        identify=(key or ServerKey(KEY)).identify,
        record=metrics.request,
    )

    async def start() -> None:
        await registry.load("and")

    app = LifespanApp(door, start, _stop)
    await app.started()
    return app


async def _nothing(scope: Any, receive: Any, send: Any) -> None:
    pass


async def _stop() -> None:
    pass


async def _floor(scope: Any, receive: Any, send: Any) -> None:
    """The floor of servers/floor.py, for this workload."""
    a, b = orjson.loads((await receive())["body"])["inputs"]
    body = orjson.dumps({"result": 1 if 0.5 * a + 0.5 * b - 0.75 >= 0 else 0})
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


_WITH_KEY = b"Authorization: Bearer " + KEY.encode()
FLOOR, ALL_ON = "the floor", "hansang as served"
_KEY, _METRICS, _GUARD = "the key: parsed, compared", "metrics: request and model", "the check of Host and Origin"
_ID, _DEADLINE = "+ a request id of the caller's", "+ a deadline of the caller's"
_CONNECTION = "our own connection instead of uvicorn's"
_TAKEN_OUT, _PUT_IN = (_KEY, _METRICS, _GUARD), (_ID, _DEADLINE)


async def _variants() -> list[_Variant]:
    path = "/v1/models/and:predict"
    plain = _request(path, _BODY, [_WITH_KEY])

    def ours(name: str, app: ASGIApp, request: bytes = plain) -> _Variant:
        return _Variant(name, *_connected(uvicorn_server(app).config), request)

    def stock(name: str, app: Any, request: bytes) -> _Variant:
        return _Variant(
            name, *_connected(uvicorn.Config(app, http="httptools", lifespan="off", log_config=None)), request
        )

    app = await _app()
    return [
        stock(FLOOR, _floor, _request("/predict", b'{"inputs":[1,1]}')),
        ours(ALL_ON, app),
        ours(_KEY, await _app(key=ServerKey(None)), _request(path, _BODY)),
        ours(_METRICS, await _app(metrics=_NoMetrics())),
        ours(_GUARD, await _app(guard=_NoGuard())),
        ours(_ID, app, _request(path, _BODY, [_WITH_KEY, b"X-Request-Id: order-17"])),
        ours(_DEADLINE, app, _request(path, _BODY, [_WITH_KEY, b"X-Hansang-Timeout: 5"])),
        stock(_CONNECTION, app, plain),
    ]


async def _measured(rounds: int, times: int) -> dict[str, float]:
    """Median CPU microseconds by variant; the variants take turns."""
    variants = await _variants()
    for variant in variants:
        await variant.ask(times)
        if b" 200 " not in variant.wire.last and variant.name == ALL_ON:
            raise RuntimeError(f"{variant.name}: {variant.wire.last!r}")
    found: dict[str, list[float]] = {variant.name: [] for variant in variants}
    for _ in range(rounds):
        for variant in variants:
            found[variant.name].append(await variant.ask(times))
    return {name: statistics.median(values) for name, values in found.items()}


def _per_call(work: Callable[[], object], times: int = 20_000) -> float:
    """CPU microseconds, the median of seven."""

    def once() -> float:
        began = time.process_time()
        for _ in range(times):
            work()
        return 1e6 * (time.process_time() - began) / times

    return statistics.median(once() for _ in range(7))


async def _codec() -> tuple[float, float]:
    """What checking the body, and writing the answer, cost beyond plain orjson."""
    registry = Registry(open_source)
    registry.add(ModelSpec(*parse(f"and={BENCH / 'models' / 'and.json'}")))
    entry = await registry.load("and")
    codec = TabularCodec("and", entry.model.signature)
    from hansang.tasks.tabular import Table

    table, answer = Table({"result": [1]}, 1), {"predictions": [1]}
    decode = _per_call(lambda: codec.decode(_BODY)) - _per_call(lambda: orjson.loads(_BODY))
    encode = _per_call(lambda: codec.encode(table, columnar=False)) - _per_call(lambda: orjson.dumps(answer))
    return decode, encode


def costs(rounds: int = 15, times: int = 1000) -> dict[str, float]:
    """CPU microseconds: the floor and hansang whole, then what each part adds."""

    async def both() -> tuple[dict[str, float], tuple[float, float]]:
        return await _measured(rounds, times), await _codec()

    measured, (decode, encode) = uvloop.run(_run(both))
    whole = measured[ALL_ON]
    without = {name: whole - value for name, value in measured.items() if name in _TAKEN_OUT}
    within = {**without, "the check of the body, beyond orjson": decode, "the answer's encoding, beyond orjson": encode}
    return {
        FLOOR: measured[FLOOR],
        ALL_ON: whole,
        **within,
        "all else: routing, engine, request id, deadline": whole - measured[FLOOR] - sum(within.values()),
        **{name: value - whole for name, value in measured.items() if name in _PUT_IN},
        _CONNECTION: whole - measured[_CONNECTION],
    }


async def _run(work: Callable[[], Awaitable[Any]]) -> Any:
    return await work()


def page() -> str:
    """A Markdown section."""
    found = costs()
    lines = [
        "## What each feature costs\n",
        "In process, bytes in and bytes out through the real uvicorn protocol, no sockets: CPU microseconds per "
        "request, medians of turns of 1000. A part's cost is the difference to the same server with that part "
        "replaced by one that does nothing (a header's: to the same request with it). An idle inline model's deadline "
        "is two comparisons and cannot be taken out; a negative number is a saving.\n",
        "| | us |\n| --- | ---: |",
    ]
    lines += [f"| {name} | {value:.2f} |" for name, value in found.items()]
    return "\n".join(lines) + "\n"
