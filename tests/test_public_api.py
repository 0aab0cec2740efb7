"""The names that `import hansang` gives, and what they cost."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urljoin

import pytest

import hansang
from hansang.core.errors import SettingsError
from terminal import started

UVICORN = ("-m", "uvicorn")
MAIN = """
import hansang

app = hansang.Server(models=["and.json"]).app
"""
MOUNTED = """
from fastapi import FastAPI
import hansang

app = FastAPI()


@app.get("/hello")
def hello():
    return "mine"


app.mount("/ai", hansang.Server(models=["and.json"]).app)
"""


def test_the_public_names_are_these() -> None:
    assert sorted(hansang.__all__) == ["Client", "HansangError", "Model", "Server", "__version__", "load", "serve"]
    assert set(hansang.__all__) <= set(dir(hansang))
    for name in hansang.__all__:
        assert getattr(hansang, name) is not None


def test_an_unknown_name_is_told_the_known_ones() -> None:
    with pytest.raises(AttributeError, match="'sevre'; it has Client"):
        hansang.sevre  # noqa: B018


def test_importing_hansang_imports_nothing_heavy() -> None:
    code = "import hansang, sys; print([m for m in sys.modules if m.startswith('hansang.')])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_settings_are_options_of_a_server_and_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANSANG_TIMEOUT", "5")
    server = hansang.Server(queue_calls=3)
    assert (server.settings.timeout, server.settings.queue_calls) == (5.0, 3)
    with pytest.raises(SettingsError, match="tiemout = 3"):
        hansang.Server(tiemout=3)
    with pytest.raises(SettingsError, match="host, port is for whoever listens"):
        hansang.Server(host="0.0.0.0", port=9000)


def test_serve_in_a_running_event_loop_says_what_to_do_instead() -> None:
    async def cell() -> None:
        hansang.serve()

    with pytest.raises(hansang.HansangError, match="event loop is running already") as caught:
        asyncio.run(cell())
    assert "hansang serve lesson.ipynb:FUNCTION" in str(caught.value.hint)


@pytest.mark.parametrize("protocol", ["httptools", "h11"])
def test_uvicorn_serves_the_app(tmp_path: Path, and_gate: str, protocol: str) -> None:
    (tmp_path / "main.py").write_text(MAIN)
    with started("main:app", "--port", "0", "--http", protocol, cwd=tmp_path, program=UVICORN) as server:
        server.url = server.until("running on").split(" on ")[1].split()[0]
        with server.client() as client:
            assert client.get("/readyz").json()["status"] == "ready"
            reply = client.post("/v1/models/and:predict", json={"instances": [[1, 1]]})
            assert (reply.status_code, reply.json()) == (200, {"predictions": [1]})
            assert reply.headers["x-request-id"]
            assert client.get("/docs").status_code == 200
            assert client.post("/v1/models/and:predict", content=b"{").status_code == 400


def test_uvicorn_reloads_the_app(tmp_path: Path, and_gate: str) -> None:
    (tmp_path / "main.py").write_text(MAIN)
    arguments = ("main:app", "--reload", "--port", "0")
    with started(*arguments, cwd=tmp_path, program=UVICORN) as server:
        server.url = server.until("running on").split(" on ")[1].split()[0]
        server.until("startup complete")
        (tmp_path / "main.py").write_text(MAIN.replace("and.json", "other=and.json"))
        server.until("startup complete")
        with server.client() as client:
            assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["other"]


@pytest.mark.parametrize("protocol", ["httptools", "h11"])
def test_mounted_in_another_app_it_starts_at_its_first_request(tmp_path: Path, and_gate: str, protocol: str) -> None:
    (tmp_path / "main.py").write_text(MOUNTED)
    with started("main:app", "--port", "0", "--http", protocol, cwd=tmp_path, program=UVICORN) as server:
        server.url = server.until("running on").split(" on ")[1].split()[0]
        with server.client() as client:
            reply = client.post("/ai/v1/models/and:predict", json={"instances": [[1, 1]]})
            assert (reply.status_code, reply.json()) == (200, {"predictions": [1]})
            assert client.get("/hello").json() == "mine"
            assert client.get("/ai/readyz").json()["status"] == "ready"
            page = client.get("/ai/docs")
            assert page.status_code == 200
            document = client.get("/ai/openapi.json").json()
            assert "/v1/models/and:predict" in document["paths"]
            assert [each["url"] for each in document["servers"]] == ["/ai"]
            addresses = re.findall(r'(?:src|href)="([^"]+)"', page.text)
            assert addresses
            for address in addresses:
                assert client.get(urljoin("/ai/docs", address)).status_code == 200, address
            assert client.get("/ai/v1/nothing").status_code == 404
            assert client.get("/ai/v1/models/and:predict").status_code == 405
            assert "/ai/v1/models/and:predict" in client.get("/ai/v1/models/and:predict").text


def test_mounted_it_tells_why_it_cannot_start_and_tries_again(tmp_path: Path, and_gate: str) -> None:
    (tmp_path / "main.py").write_text(MOUNTED)
    good = Path(and_gate).read_text()
    Path(and_gate).write_text("{")
    with started("main:app", "--port", "0", cwd=tmp_path, program=UVICORN) as server:
        server.url = server.until("running on").split(" on ")[1].split()[0]
        with server.client() as client:
            reply = client.post("/ai/v1/models/and:predict", json={"instances": [[1, 1]]})
            assert (reply.status_code, reply.json()["error"]["message"]) == (503, "The server could not start.")
            server.until("the server did not start: and.json is not a saved perceptron")
            Path(and_gate).write_text(good)
            reply = client.post("/ai/v1/models/and:predict", json={"instances": [[1, 1]]})
            assert reply.json() == {"predictions": [1]}
