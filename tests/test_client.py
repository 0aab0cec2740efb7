"""`hansang.Client`, against real servers."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from conftest import KEY, Running
from hansang import Client, HansangError
from hansang.core.errors import InvalidInput, ModelNotFound, NotFound, Unauthorized, Unavailable

Serve = Callable[..., Running]


@contextmanager
def answering(status: int, body: bytes = b"", **headers: str) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A server that is not ours, and the headers it was sent."""
    asked: list[dict[str, str]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append({name.lower(): value for name, value in self.headers.items()})
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def test_it_predicts_rows_and_a_row_by_name(serve: Serve, and_gate: str) -> None:
    client = Client(serve(and_gate).url + "/")
    assert client.ready()
    assert client.predict("and", [{"left": 1, "right": 1}, {"left": 0, "right": 1}]) == [1, 0]
    assert client.predict("and", np.array([[1, 1], [0, 1]])) == [1, 0]
    assert client.predict("and", left=1, right=1) == 1
    with pytest.raises(TypeError, match="not both"):
        client.predict("and", [[1, 1]], left=1)  # type: ignore[call-overload]


def test_bytes_are_sent_and_may_be_named_model(serve: Serve, tmp_path: object) -> None:
    def size(model: bytes) -> int:
        return len(model)

    assert Client(serve(size).url).predict("size", model=b"\x00\xff") == 2


def test_it_lists_models_and_tells_about_one(serve: Serve, and_gate: str) -> None:
    client = Client(serve(and_gate).url)
    assert [model["id"] for model in client.models()] == ["and"]
    assert client.model("and")["info"]["bytes"] == 24


def test_errors_are_those_of_the_server(serve: Serve, and_gate: str) -> None:
    client = Client(serve(and_gate).url)
    with pytest.raises(InvalidInput, match=r"instances\[0\]\.left: expected float64") as caught:
        client.predict("and", [["a", 1]])
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "invalid_input", "instances[0].left")
    assert caught.value.hint is not None
    with pytest.raises(ModelNotFound) as unknown:
        client.predict("adn", [[1, 1]])
    assert (unknown.value.status, unknown.value.hint) == (404, "Did you mean and?")


def test_the_key_comes_from_the_argument_or_the_environment_and_is_not_shown(
    serve: Serve, and_gate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = serve(and_gate, key=KEY).url
    with pytest.raises(Unauthorized, match="You didn't provide an API key"):
        Client(url).models()
    with pytest.raises(Unauthorized, match="Incorrect API key"):
        Client(url, KEY + "x").models()
    assert Client(url, KEY).models()
    monkeypatch.setenv("HANSANG_API_KEY", KEY)
    assert Client(url).models()
    assert KEY not in repr(Client(url))


def test_the_key_does_not_follow_a_redirection_to_another_server() -> None:
    with (
        answering(200, b"{}") as (other, asked),
        answering(307, Location=f"{other}/v1/models/x") as (url, first),
    ):
        Client(url, KEY).model("x")
    assert first[0]["authorization"] == f"Bearer {KEY}"
    assert len(asked) == 1
    assert "authorization" not in asked[0]


def test_no_server_is_unavailable() -> None:
    client = Client("http://127.0.0.1:9")
    assert not client.ready()
    with pytest.raises(Unavailable, match=r"Nothing answers at http://127\.0\.0\.1:9: ") as caught:
        client.models()
    assert caught.value.code == "no_server"


@pytest.mark.parametrize(
    ("status", "body", "kind"), [(200, b"<html>", HansangError), (404, b"nginx", NotFound), (503, b"[]", Unavailable)]
)
def test_an_answer_that_is_not_ours_is_an_error_of_its_status(status: int, body: bytes, kind: type) -> None:
    with answering(status, body) as (url, _), pytest.raises(kind, match=f"answered {status}, and not as a hansang"):
        Client(url).models()


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "file:///etc/passwd", "http://", "ftp://127.0.0.1"])
def test_an_address_that_is_none_is_an_error(url: str) -> None:
    with pytest.raises(HansangError, match="is not a server's address"):
        Client(url)


def test_a_proxy_of_the_environment_is_not_used_for_this_machine(
    serve: Serve, and_gate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert Client(serve(and_gate).url).ready()
