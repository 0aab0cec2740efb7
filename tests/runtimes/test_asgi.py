"""An existing ASGI app is served as it is, under its own path and behind our front door."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import websockets

from conftest import KEY, Running
from hansang.core.errors import LoadFailed
from hansang.core.model import Mount
from hansang.core.source import parse
from hansang.runtimes.asgi import AsgiRuntime, is_asgi
from hansang.runtimes.python_files import load_object

NOTE = """
from fastapi import FastAPI
app = FastAPI()

@app.get("/")
def read_root():
    return {"message": "hello world"}
"""

APP = """
from contextlib import asynccontextmanager
from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import StreamingResponse

said = []

@asynccontextmanager
async def lifespan(app):
    said.append("started")
    yield {"greeting": "hi"}
    open("stopped", "w").close()

app = FastAPI(title="Mine", lifespan=lifespan)

@app.get("/state")
async def state(request: Request): return [said, request.state.greeting, request.url_for("state").path]

@app.post("/echo")
async def echo(request: Request): return (await request.body()).decode()

@app.get("/fails")
async def fails(): raise RuntimeError("secret detail")

@app.get("/slow")
async def slow():
    async def pieces():
        for n in range(3):
            yield f"{n} "
    return StreamingResponse(pieces(), media_type="text/plain")

@app.websocket("/ws")
async def ws(socket: WebSocket):
    await socket.accept()
    await socket.send_text((await socket.receive_text()).upper() + socket.state.greeting)

@app.get("/needs/{number}")
async def needs(number: int): return number
"""


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[..., Running]) -> Running:
    monkeypatch.chdir(tmp_path)
    return serve(f"mine={written(tmp_path, 'code.py', APP)}:app")


def test_the_note_s_program_answers_as_it_is(tmp_path: Path, serve: Callable[..., Running]) -> None:
    client = serve(f"{written(tmp_path, '5_1.py', NOTE)}:app").client
    assert client.get("/apps/5_1/").json() == {"message": "hello world"}
    assert client.get("/apps/5_1", follow_redirects=True).json() == {"message": "hello world"}
    docs = client.get("/apps/5_1/docs")
    assert docs.headers["content-type"].startswith("text/html")
    assert "/apps/5_1/openapi.json" in docs.text
    described = client.get("/apps/5_1/openapi.json").json()
    assert described["paths"].keys() == {"/"}
    assert described["servers"] == [{"url": "/apps/5_1"}]
    assert client.get("/apps/5_1/nowhere").status_code == 404


def test_its_lifespan_runs_and_its_requests_see_what_it_left(tmp_path: Path, mounted: Running) -> None:
    assert mounted.client.get("/apps/mine/state").json() == [["started"], "hi", "/apps/mine/state"]
    assert mounted.client.get("/apps/mine/state").json() == [["started"], "hi", "/apps/mine/state"]


def test_its_lifespan_ends_with_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from conftest import running

    monkeypatch.chdir(tmp_path)
    with running(f"{written(tmp_path, 'code.py', APP)}:app"):
        assert not (tmp_path / "stopped").exists()
    assert (tmp_path / "stopped").exists()


def test_an_app_that_cannot_start_says_why(tmp_path: Path) -> None:
    from hansang.app import Server
    from hansang.settings import Settings

    text = APP.replace('said.append("started")', 'raise RuntimeError("no database")')
    server = Server([f"{written(tmp_path, 'code.py', text)}:app"], Settings())
    with pytest.raises(LoadFailed, match=r"app code did not start.*no database") as caught:
        asyncio.run(server.start())
    assert "Traceback" not in caught.value.message


def test_bodies_streams_and_errors_pass(mounted: Running) -> None:
    assert mounted.client.post("/apps/mine/echo", content="한상".encode()).json() == "한상"
    assert mounted.client.get("/apps/mine/slow").text == "0 1 2 "
    assert mounted.client.get("/apps/mine/needs/x").status_code == 422
    assert mounted.client.get("/apps/mine/echo").status_code == 405
    assert "x-request-id" in mounted.client.get("/apps/mine/slow").headers


def test_websockets_pass(mounted: Running) -> None:
    async def talk() -> str | bytes:
        async with websockets.connect(f"ws://127.0.0.1:{mounted.port}/apps/mine/ws", proxy=None) as socket:
            await socket.send("hello ")
            return await socket.recv()

    assert asyncio.run(talk()) == "HELLO hi"


def test_an_exception_is_500_and_leaks_nothing(mounted: Running, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        reply = mounted.client.get("/apps/mine/fails")
        # The answer is sent before the app's exception comes out; once another is answered, it has.
        assert mounted.client.get("/apps/mine/slow").status_code == 200
    assert reply.status_code == 500
    assert "secret" not in reply.text
    assert "Traceback" not in reply.text
    assert any(record.exc_info and "secret detail" in str(record.exc_info[1]) for record in caplog.records)


def test_an_app_without_framework_may_raise_too(tmp_path: Path, serve: Callable[..., Running]) -> None:
    text = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise RuntimeError("no lifespan here")
    if scope["path"].endswith("fails"):
        raise ValueError("secret detail")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["path"].encode()})
"""
    client = serve(f"{written(tmp_path, 'plain.py', text)}:app").client
    assert client.get("/apps/plain/a").text == "/apps/plain/a"
    reply = client.get("/apps/plain/fails")
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "internal_error")
    assert "secret" not in reply.text


def test_the_front_door_s_checks_stand_before_it(tmp_path: Path, serve: Callable[..., Running]) -> None:
    server = serve(f"{written(tmp_path, '5_1.py', NOTE)}:app", key=KEY)
    assert server.client.get("/apps/5_1/").status_code == 200
    assert server.client.get("/apps/5_1/", headers={"authorization": "Bearer wrong"}).status_code == 401
    assert server.client.get("/apps/5_1/", headers={"host": "evil.example"}).status_code == 403


def test_the_file_is_run_once(tmp_path: Path, serve: Callable[..., Running]) -> None:
    """Though both the runtime of apps and that of functions look at it."""
    ran = f"with open({str(tmp_path / 'ran')!r}, 'a') as file: file.write('.')"
    path = written(tmp_path, "both.py", f"{NOTE}\n{ran}\ndef f(x: int): return x")
    server = serve(f"{path}:app", f"{path}:f")
    assert server.predict("f", 1) == {"predictions": [1]}
    assert (tmp_path / "ran").read_text() == "."


def test_an_app_made_in_code_is_served(serve: Callable[..., Running]) -> None:
    from fastapi import FastAPI

    app = FastAPI()

    @app.get("/hello")
    async def hello() -> str:
        return "hello"

    assert serve(app).client.get("/apps/fastapi/hello").json() == "hello"


def test_what_is_an_app(tmp_path: Path) -> None:
    text = """
import functools
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
app = FastAPI(title="T")
starlette = Starlette()
wrapped = CORSMiddleware(app)
async def plain(scope, receive, send): ...
def returns_a_coroutine(scope, receive, send): ...
class Callable:
    async def __call__(self, scope, receive, send): ...
instance = Callable()
async def other(a, b, c): ...
def function(x: int) -> int: return x
value = 5
"""
    path = written(tmp_path, "code.py", text)
    apps = ["app", "starlette", "wrapped", "plain", "returns_a_coroutine", "instance"]
    names = [*apps, "Callable", "other", "function", "value"]
    assert [name for name in names if is_asgi(load_object(parse(f"{path}:{name}")[1]))] == apps
    runtime, source = AsgiRuntime(), parse(f"{path}:app")[1]
    assert runtime.claims(source)
    mount = runtime.open(source)
    assert isinstance(mount, Mount)
    assert mount.title == "T"
    assert "/docs" in mount.routes
    assert not runtime.claims(parse(f"{path}:function")[1])
    assert not runtime.claims(parse("iris.onnx")[1])
    assert runtime.wrap(5) is None
    with pytest.raises(LoadFailed, match="is not an ASGI app"):
        runtime.open(parse(f"{path}:function")[1])
