"""Starting and stopping, ours and that of the apps mounted in it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request, WebSocket
from starlette.applications import Starlette

from hansang.app import Server
from hansang.core.errors import LoadFailed
from hansang.core.model import Mount
from hansang.http.lifespan import LifespanApp, MountedLifespan
from hansang.settings import Settings
from house import House, Lists, Raw, house, run, until


class Recorder:
    """An ASGI lifespan's two ends, and what the app said."""

    def __init__(self) -> None:
        self.inbox: asyncio.Queue[Any] = asyncio.Queue()
        self.said: list[str] = []

    async def send(self, message: Any) -> None:
        self.said.append(message["type"])


async def start_and_stop(app: Any) -> list[str]:
    ends = Recorder()
    for kind in ("startup", "shutdown"):
        ends.inbox.put_nowait({"type": f"lifespan.{kind}"})
    await app({"type": "lifespan"}, ends.inbox.get, ends.send)
    return ends.said


async def get(app: Any, path: str) -> int:
    """The status that an ASGI app answers."""
    seen: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        seen.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
        "http_version": "1.1",
        "scheme": "http",
    }
    await app(scope, receive, send)
    return int(seen[0]["status"])


def test_a_server_can_be_started_and_stopped_again_and_again() -> None:
    async def main() -> None:
        model = Lists()
        served = House({"a": model})
        for n in range(1, 4):
            assert await start_and_stop(served.app) == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
            assert (model.loaded, model.unloaded) == (n, n)

    run(main)


def test_callers_of_a_server_without_lifespan_wait_for_one_start() -> None:
    async def main() -> None:
        model = Lists()
        served = House({"a": model})
        assert await asyncio.gather(*(get(served.app, "/healthz") for _ in range(10))) == [200] * 10
        assert model.loaded == 1
        await served.stop()

    run(main)


def test_a_caller_who_leaves_while_the_server_starts_does_not_stop_the_start() -> None:
    async def main() -> None:
        served = House({"a": Lists()})
        first = asyncio.ensure_future(get(served.app, "/healthz"))
        await asyncio.sleep(0)
        first.cancel()
        assert await get(served.app, "/healthz") == 200
        await served.stop()

    run(main)


def test_a_start_that_fails_is_503_and_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        attempts = 0

        async def start() -> None:
            nonlocal attempts
            attempts += 1
            if attempts < 3:
                raise LoadFailed("The disk is on fire.")

        async def stop() -> None:
            pass

        app = LifespanApp(House({}).door, start, stop)
        assert [await get(app, "/healthz") for _ in range(3)] == [503, 503, 200]

    run(main)
    assert "on fire" in caplog.text


def test_a_start_that_fails_under_lifespan_says_why() -> None:
    async def main() -> None:
        async def start() -> None:
            raise LoadFailed("The disk is on fire.")

        app = LifespanApp(House({}).door, start, start)
        assert await start_and_stop(app) == ["lifespan.startup.failed"]
        assert isinstance(app.error, LoadFailed)

    run(main)


# ---- mounted apps ----


@asynccontextmanager
async def with_state(app: Any) -> AsyncIterator[dict[str, Any]]:
    app.state.log.append("up")
    yield {"model": "loaded", "counter": [0]}
    app.state.log.append("down")


def app_with_state() -> FastAPI:
    app = FastAPI(lifespan=with_state)
    app.state.log = []

    @app.get("/")
    async def read(request: Request) -> dict[str, Any]:
        request.state.counter[0] += 1
        request.state.own = 1
        return {"model": request.state.model, "count": request.state.counter[0]}

    @app.get("/own")
    async def own(request: Request) -> bool:
        return hasattr(request.state, "own")

    @app.websocket("/ws")
    async def ws(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(socket.state.model)
        await socket.close()

    return app


def test_a_mounted_app_starts_and_stops_with_the_server_and_finds_its_state() -> None:
    app = app_with_state()
    with house({}, mounts={"site": app}) as served:
        assert app.state.log == ["up"]
        assert served.get("/apps/site/").json() == {"model": "loaded", "count": 1}
        assert served.get("/apps/site/").json() == {"model": "loaded", "count": 2}
        assert served.get("/apps/site/own").json() is False, "what one request leaves is not another's"
        with Raw(served.port) as raw:
            raw.send(
                raw.request(
                    "GET",
                    "/apps/site/ws",
                    "connection: upgrade",
                    "upgrade: websocket",
                    "sec-websocket-version: 13",
                    "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
                )
            )
            assert raw.read_head()[0] == 101
            assert b"loaded" in raw.file.read(2 + len("loaded"))
    assert app.state.log == ["up", "down"]


def mounted(app: Any) -> MountedLifespan:
    return MountedLifespan("site", Mount(app))


async def silent(scope: Any, receive: Any, send: Any) -> None:
    """An app that knows nothing of lifespans."""
    assert scope["type"] == "http"


async def returns(scope: Any, receive: Any, send: Any) -> None:
    """Another one."""


async def answers_http(scope: Any, receive: Any, send: Any) -> None:
    """One that takes every scope for a request."""
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize(
    "app", [silent, returns, answers_http, Starlette()], ids=["silent", "returns", "answers_http", "starlette"]
)
def test_an_app_without_a_lifespan_is_served_all_the_same(app: Any) -> None:
    async def main() -> None:
        lifespan = mounted(app)
        await lifespan.start()
        await lifespan.stop()
        await lifespan.stop()

    run(main)


@asynccontextmanager
async def fails(app: Any) -> AsyncIterator[None]:
    raise ValueError("no database")
    yield


async def says_failed(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})


async def says_failed_and_raises(scope: Any, receive: Any, send: Any) -> None:
    await says_failed(scope, receive, send)
    raise ValueError("no database")


@pytest.mark.parametrize(
    "app",
    [Starlette(lifespan=fails), FastAPI(lifespan=fails), says_failed, says_failed_and_raises],
    ids=["starlette", "fastapi", "says_failed", "says_failed_and_raises"],
)
def test_an_app_that_cannot_start_stops_the_start_with_its_reason(app: Any) -> None:
    async def main() -> None:
        with pytest.raises(LoadFailed, match=r"site did not start.*no database"):
            await mounted(app).start()

    run(main)


@asynccontextmanager
async def fails_to_stop(app: Any) -> AsyncIterator[None]:
    yield
    raise ValueError("cannot let go")


def test_an_app_that_fails_to_stop_is_in_the_log_and_stops_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        lifespan = mounted(Starlette(lifespan=fails_to_stop))
        await lifespan.start()
        await lifespan.stop()

    with caplog.at_level(logging.WARNING):
        run(main)
    assert "cannot let go" in caplog.text


@asynccontextmanager
async def never_stops(app: Any) -> AsyncIterator[None]:
    yield
    await asyncio.sleep(3600)


def test_an_app_that_never_stops_does_not_keep_the_server(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hansang.http.lifespan.STOP_TIMEOUT", 0.05)

    async def main() -> None:
        lifespan = mounted(Starlette(lifespan=never_stops))
        await lifespan.start()
        await lifespan.stop()

    run(main)
    assert "did not stop" in caplog.text


def test_an_app_mounted_twice_in_a_row_starts_with_a_clean_state() -> None:
    async def main() -> None:
        app = app_with_state()
        mount = Mount(app)
        for _ in range(2):
            lifespan = MountedLifespan("site", mount)
            await lifespan.start()
            assert mount.state == {"model": "loaded", "counter": [0]}
            await lifespan.stop()
        assert app.state.log == ["up", "down", "up", "down"]

    run(main)


def test_a_whole_server_can_be_started_again_too(tmp_path: Path, and_gate: str) -> None:
    """As every second `with TestClient(app)` does."""

    async def main() -> None:
        server = Server([f"gate={and_gate}"], Settings(home=tmp_path))
        for _ in range(2):
            ends = Recorder()
            ends.inbox.put_nowait({"type": "lifespan.startup"})
            life = asyncio.ensure_future(server.app({"type": "lifespan"}, ends.inbox.get, ends.send))
            await until(lambda: ends.said)  # noqa: B023
            assert await get(server.app, "/readyz") == 200
            assert server.registry.ready("gate").state == "ready"
            ends.inbox.put_nowait({"type": "lifespan.shutdown"})
            await life
            assert ends.said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]

    run(main)


def test_a_request_after_the_end_does_not_start_the_server_again() -> None:
    async def main() -> None:
        model = Lists()
        served = House({"a": model})
        await start_and_stop(served.app)
        assert await get(served.app, "/healthz") == 503
        assert model.loaded == 1

    run(main)
