"""What every test may use: a clean environment, and a real server on a real socket."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from hansang.access.server_key import ServerKey
from hansang.app import Server
from hansang.http.server import uvicorn_server
from hansang.settings import Settings

KEY = "test-key-0123456789-0123456789-0123456789"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the machine reaches a test, and no test writes outside its own folder."""
    for name in list(os.environ):
        if name.startswith("HANSANG_") or name.endswith("_API_KEY"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


class Running:
    """A server that answers at `url`; `client` is a plain HTTP client for it."""

    def __init__(self, server: Server, port: int, headers: dict[str, str]) -> None:
        self.server = server
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.client = httpx2.Client(base_url=self.url, headers=headers, timeout=30, trust_env=False)

    def predict(self, model: str, *instances: Any, **options: Any) -> Any:
        """The answer of `:predict`, as JSON."""
        reply = self.client.post(f"/v1/models/{model}:predict", json={"instances": list(instances)}, **options)
        return reply.json()


@contextmanager
def running(*models: Any, key: str | None = None, header_timeout: float = 10.0, **settings: Any) -> Iterator[Running]:
    """Serve `models` in a thread of this process, with our own uvicorn, until the block ends."""
    server = Server(models, Settings(**settings), key=ServerKey(key))
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    ready = threading.Event()
    uvicorn = uvicorn_server(server.app, header_timeout=header_timeout, drain_timeout=2, on_ready=ready.set)
    thread = threading.Thread(target=uvicorn.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not ready.wait(0.02):
        assert thread.is_alive(), "the server did not start"
    served = Running(server, listener.getsockname()[1], {"authorization": f"Bearer {key}"} if key else {})
    try:
        yield served
    finally:
        served.client.close()
        uvicorn.should_exit = True
        thread.join(15)
        assert not thread.is_alive(), "the server did not stop"


@pytest.fixture
def serve() -> Iterator[Callable[..., Running]]:
    """`serve("gates.py:f", ..., key=KEY, timeout=1)` starts a server that stops with the test."""
    with ExitStack() as stack:
        yield lambda *models, **options: stack.enter_context(running(*models, **options))


@pytest.fixture
def and_gate(tmp_path: Path) -> str:
    """A perceptron file."""
    path = tmp_path / "and.json"
    path.write_text('{"weights": [0.5, 0.5], "bias": -0.75}', encoding="utf-8")
    return str(path)
