"""The control plane: its own routes, and that every fault in it is told in our words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
from fastapi import APIRouter, FastAPI, HTTPException
from starlette.testclient import TestClient

from conftest import KEY, Running
from hansang import __version__
from hansang.access import server_key
from hansang.app import Server
from hansang.core.errors import Conflict
from hansang.core.model import CallContext
from hansang.core.wire import CONTEXT, Route
from hansang.http.control import Status, control_plane
from hansang.settings import Settings

SHAPE = ["message", "type", "param", "code", "hint"]


async def nothing(request: Any) -> Any:
    """A handler that is never called: the front door is not here."""


class Kitchen:
    """An adapter whose routes fail in every way there is."""

    def __init__(self) -> None:
        self.router = APIRouter()
        self.router.get("/burn")(self.burn)
        self.router.get("/refuse")(self.refuse)
        self.router.get("/raise/{status}")(self.raise_)
        self.router.get("/where")(self.where)

    def routes(self) -> list[Route]:
        return [Route("POST", "/kitchen/{dish}:cook", nothing)]

    def openapi(self) -> dict[str, Any]:
        return {}

    async def burn(self) -> None:
        raise ZeroDivisionError("a secret")

    async def refuse(self) -> None:
        raise Conflict("The pan is in use.", hint="Wait.", headers={"Retry-After": "2"})

    async def raise_(self, status: int) -> None:
        raise HTTPException(status, "said so")

    async def where(self, n: int, flag: bool = False) -> int:
        return n


@contextmanager
def kitchen(status: Status | None = None, **client: Any) -> Iterator[TestClient]:
    plane = control_plane([Kitchen()], status or Status(started=True), lambda: b"metrics 1\n", secured=False)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope[CONTEXT] = CallContext("req-1", 0.0)
        await plane(scope, receive, send)

    with TestClient(app, base_url="http://localhost", follow_redirects=False, **client) as made:
        yield made


def told(reply: httpx2.Response, status: int) -> dict[str, Any]:
    assert reply.status_code == status, reply.text
    assert list(reply.json()) == ["error"]
    assert list(reply.json()["error"]) == SHAPE
    return dict(reply.json()["error"])


def test_a_program_is_greeted_and_a_browser_sent_to_the_documentation() -> None:
    with kitchen() as client:
        greeting = client.get("/").json()
        assert greeting["message"] == "hello world"
        assert greeting["Hello"] == "World"
        assert (greeting["name"], greeting["version"]) == ("hansang", __version__)
        assert greeting["links"]["docs"] == "/docs"
        reply = client.get("/", headers={"accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
        assert (reply.status_code, reply.headers["location"]) == (307, "/docs")


def test_below_a_path_links_and_redirects_keep_it() -> None:
    with kitchen(root_path="/ai") as client:
        assert client.get("/").json()["links"]["models"] == "/ai/v1/models"
        assert client.get("/", headers={"accept": "text/html"}).headers["location"] == "/ai/docs"
        assert "curl -X GET http://localhost/ai/docs" in told(client.post("/docs"), 405)["hint"]
        assert told(client.get("/doc"), 404)["message"] == "Invalid URL (GET /doc)"
        assert client.get("/openapi.json").json()["servers"] == [{"url": "/ai"}]


@pytest.mark.parametrize(
    ("status", "code", "body"),
    [
        (Status(), 503, {"status": "loading", "failed": {}}),
        (Status(started=True), 200, {"status": "ready", "failed": {}}),
        (Status(started=True, draining=True), 503, {"status": "draining", "failed": {}}),
    ],
)
def test_readiness(status: Status, code: int, body: dict[str, Any]) -> None:
    with kitchen(status) as client:
        reply = client.get("/readyz")
        assert (reply.status_code, reply.json()) == (code, body)
        assert client.get("/healthz").json() == {"status": "ok"}


def test_metrics_are_prometheus_text() -> None:
    with kitchen() as client:
        reply = client.get("/metrics")
        assert reply.text == "metrics 1\n"
        assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/metrics", "/docs", "/openapi.json", "/static/icon.svg"])
def test_head_is_answered_wherever_get_is(path: str) -> None:
    with kitchen() as client:
        assert client.head(path).status_code == client.get(path).status_code == 200


def test_an_error_of_ours_keeps_its_status_and_headers() -> None:
    with kitchen() as client:
        reply = client.get("/refuse")
        assert told(reply, 409) == {
            "message": "The pan is in use.",
            "type": "invalid_request_error",
            "param": None,
            "code": None,
            "hint": "Wait.",
        }
        assert reply.headers["retry-after"] == "2"


def test_an_unexpected_exception_is_told_without_its_words() -> None:
    with kitchen(raise_server_exceptions=False) as client:
        reply = client.get("/burn")
        assert told(reply, 500)["code"] == "internal_error"
        assert "secret" not in reply.text


@pytest.mark.parametrize(("status", "kind"), [(418, "invalid_request_error"), (502, "server_error")])
def test_an_exception_of_the_framework_has_our_shape(status: int, kind: str) -> None:
    with kitchen() as client:
        error = told(client.get(f"/raise/{status}"), status)
        assert (error["message"], error["type"]) == ("said so", kind)


@pytest.mark.parametrize(
    ("query", "param", "message"),
    [
        ("", "n", "n: Field required, got None."),
        ("?n=x", "n", "n: Input should be a valid integer, unable to parse string as an integer, got 'x'."),
        ("?n=1&flag=maybe", "flag", "flag: Input should be a valid boolean, unable to interpret input, got 'maybe'."),
    ],
)
def test_a_wrong_query_is_400_with_expected_and_given(query: str, param: str, message: str) -> None:
    with kitchen() as client:
        error = told(client.get(f"/where{query}"), 400)
        assert (error["param"], error["code"], error["message"]) == (param, "invalid_input", message)
        assert len(told(client.get("/where?n=" + "9" * 9000), 400)["message"]) < 250


@pytest.mark.parametrize(
    ("path", "near"), [("/wher", "/where"), ("/kitchen/soup:coke", "/kitchen/{dish}:cook"), ("/healthy", "/healthz")]
)
def test_an_unknown_path_knows_the_routes_of_both_planes(path: str, near: str) -> None:
    with kitchen() as client:
        assert near in told(client.get(path), 404)["hint"]


def test_a_wrong_method_names_the_right_ones() -> None:
    with kitchen() as client:
        for path in ("/where", "/", "/docs", "/static/icon.svg"):
            reply = client.post(path)
            assert told(reply, 405)["code"] == "method_not_allowed"
            assert reply.headers["allow"] == "GET"


def test_a_mounted_server_answers_below_its_path(and_gate: str) -> None:
    outer = FastAPI()
    outer.mount("/ai", Server([and_gate], Settings()).app)
    with TestClient(outer, base_url="http://localhost") as client:
        assert client.get("/ai/").json()["links"]["docs"] == "/ai/docs"
        assert client.get("/ai/predict/AND/1/1").json() == {"result": 1}
        assert list(client.get("/ai/predict/AND/1/x").json()) == ["error"]
        assert isinstance(client.get("/ai/predict/AND/1/x").json()["error"], str)
        assert "http://localhost/ai/v1/models/and:predict" in client.get("/ai/v1/models/and:predict").text
        assert client.get("/ai/docs").status_code == 200
        assert client.get("/ai/static/docs/docs.css").status_code == 200
        assert client.get("/ai/docs/", follow_redirects=False).headers["location"] == "http://localhost/ai/docs"


def test_the_document_says_of_no_public_page_that_it_needs_a_key(serve: Callable[..., Running], and_gate: str) -> None:
    document = serve(and_gate, key=KEY).client.get("/openapi.json").json()
    public = {
        path
        for path, item in document["paths"].items()
        for operation in item.values()
        if operation.get("security") == []
    }
    assert public == server_key.PUBLIC & document["paths"].keys()
    assert document["security"] == [{"key": []}]
