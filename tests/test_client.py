"""`hansang.Client`, against real servers."""

from __future__ import annotations

import http.server
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from conftest import KEY, Running
from hansang import Client, HansangError
from hansang.client import JobEvent
from hansang.core.errors import (
    BadRequest,
    Conflict,
    InvalidInput,
    ModelNotFound,
    NotFound,
    Unauthorized,
    Unavailable,
    UnsafeArtifact,
)

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


GATE = [[0, 0], [0, 1], [1, 0], [1, 1]]


def test_it_trains_and_tells_every_event(serve: Serve) -> None:
    client = Client(serve(demo=False).url)
    told: list[JobEvent] = []
    job = client.train("and", trainer="perceptron", seed=3, format="pickle", on_event=told.append)
    assert job["state"] == "succeeded"
    assert (job["result"]["version"], job["result"]["file"]) == (1, "perceptron.pkl")
    assert [told[0].kind, told[-1].kind, {event.kind for event in told[1:-1]}] == ["started", "succeeded", {"epoch"}]
    assert [event.id for event in told] == list(range(1, len(told) + 1))
    assert told[-2].data["errors"] == 0
    assert list(client.events(job["id"], after=told[-2].id)) == told[-1:]
    assert client.predict("and", GATE) == [0, 0, 0, 1]
    assert client.model("and")["metrics"]["accuracy"] == 1.0
    assert "errors_by_epoch" not in client.models()[0]["metrics"]


def test_it_trains_on_rows_and_on_a_csv_file(serve: Serve, tmp_path: Path) -> None:
    client = Client(serve(demo=False).url)
    rows = [[*row, 1 - row[0]] for row in GATE]
    client.train("first", np.array(rows).tolist(), trainer="perceptron")
    assert client.predict("first", GATE) == [1, 1, 0, 0]
    table = tmp_path / "\ud45c.csv"
    table.write_text("y,a,b\n" + "".join(f"{a | b},{a},{b}\n" for a, b in GATE))
    job = client.train("second", table, target="y", trainer="perceptron", options={"epochs": 50})
    assert (job["params"]["data"]["target"], job["params"]["options"]["epochs"]) == ("y", 50)
    assert client.predict("second", a=0, b=1) == 1


def test_what_cannot_be_trained_is_the_servers_error(serve: Serve, tmp_path: Path) -> None:
    client = Client(serve(demo=False).url)
    with pytest.raises(BadRequest, match="no trainer 'mpl'") as wrong:
        client.train("xor", trainer="mpl")
    assert (wrong.value.param, wrong.value.hint) == ("trainer", "Did you mean mlp? There are: mlp, perceptron.")
    with pytest.raises(InvalidInput, match="cannot be read: No such file"):
        client.train("xor", tmp_path / "none.csv")
    (tmp_path / "text.csv").write_text("a,y\nred,1\nblue,0\n")
    with pytest.raises(HansangError, match="tells 0 from 1 by numbers"):
        client.train("colours", tmp_path / "text.csv", trainer="perceptron")
    failed = next(job for job in client.jobs() if job["model"] == "colours")
    assert (failed["state"], failed["error"]["code"]) == ("failed", "invalid_data")


def test_a_job_is_cancelled_and_cannot_be_twice(serve: Serve) -> None:
    client = Client(serve(demo=False).url)
    rows = [[x / 200, x / 200 + 0.001 * (x % 7)] for x in range(200)]
    job = client.train("slow", rows, trainer="mlp", options={"epochs": 100_000}, wait=False)
    events = client.events(job["id"])
    assert next(events).kind == "started"
    client.cancel(job["id"])
    assert [event.kind for event in events][-1] == "cancelled"
    assert client.job(job["id"])["state"] == "cancelled"
    with pytest.raises(Conflict, match="nothing to cancel"):
        client.cancel(job["id"])
    with pytest.raises(NotFound, match="There is no job"):
        list(client.events("job_none"))


def test_versions_are_uploaded_listed_rolled_back_and_removed(serve: Serve, and_gate: str, tmp_path: Path) -> None:
    client = Client(serve(demo=False).url)
    assert client.upload(and_gate, "gate")["version"] == 1
    (tmp_path / "or.json").write_text('{"weights": [1, 1], "bias": -0.5}')
    assert client.upload(tmp_path / "or.json", "gate")["version"] == 2
    assert [(version["version"], version["current"]) for version in client.versions("gate")] == [(2, True), (1, False)]
    assert client.model("gate")["versions"] == ["2", "1"]
    assert client.predict("gate", GATE) == [0, 1, 1, 1]
    assert client.rollback("gate")["version"] == "1"
    assert client.predict("gate", GATE) == [0, 0, 0, 1]
    assert client.rollback("gate", 2)["version"] == "2"
    assert client.load("gate@1")["state"] == "ready"
    assert client.predict("gate@1", GATE) == [0, 0, 0, 1]
    assert client.unload("gate@1")["state"] == "unloaded"
    client.remove("gate@1")
    assert client.model("gate")["versions"] == ["2"]
    client.remove("gate")
    assert client.models() == []


def test_a_large_upload_to_a_server_that_refuses_it_says_why(serve: Serve, tmp_path: Path) -> None:
    class Canary:
        def __reduce__(self) -> object:
            return (Path.touch, (tmp_path / "canary",))

    client = Client(serve(demo=False, upload_limit=30_000_000).url)
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Canary()))
    with pytest.raises(UnsafeArtifact):
        client.upload(tmp_path / "evil.pkl")
    assert not (tmp_path / "canary").exists()
    (tmp_path / "huge.onnx").write_bytes(bytes(31_000_000))
    with pytest.raises(HansangError) as refused:
        client.upload(tmp_path / "huge.onnx")
    assert refused.value.code in ("body_too_large", "connection_lost")
    assert client.ready()
