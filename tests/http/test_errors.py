"""How errors are written: the shapes, the near routes, the command to send instead."""

from __future__ import annotations

import json
import shlex

import pytest

from hansang.core import errors
from hansang.core.errors import HansangError, InvalidInput, QueueFull, Unauthorized
from hansang.http.errors import error_object, internal, is_classic, render, unknown_path, wrong_method

ROUTES = ["/", "/docs", "/openapi.json", "/v1/models", "/v1/models/{name}", "/v1/models/{model}:predict"]
ROUTES += ["/items/{item_id}", "/predict/{gate}/{left}/{right}", "/predict/{gate}/{x}"]


def every_error() -> list[type[HansangError]]:
    return [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, HansangError)
    ]  # fmt: skip


@pytest.mark.parametrize("kind", every_error())
def test_every_error_has_openais_shape_and_a_hint(kind: type[HansangError]) -> None:
    reply = render(kind("It broke.", hint="Mend it.", param="x"), "/v1/models")
    assert reply.status == kind.status
    assert reply.content_type == b"application/json"
    body = json.loads(reply.body)
    assert list(body) == ["error"]
    assert list(body["error"]) == ["message", "type", "param", "code", "hint"]
    assert body["error"] == {
        "message": "It broke.",
        "type": kind.type,
        "param": "x",
        "code": kind.code,
        "hint": "Mend it.",
    }
    assert (kind.type == "invalid_request_error") == (kind.status < 499)


@pytest.mark.parametrize("path", ["/predict/AND/1/1", "/items/x"])
def test_the_classic_routes_answer_one_text(path: str) -> None:
    assert is_classic(path)
    reply = render(InvalidInput("It broke.", hint="Mend it."), path)
    assert (reply.status, json.loads(reply.body)) == (400, {"error": "It broke. Mend it."})
    assert json.loads(render(InvalidInput("It broke."), path).body) == {"error": "It broke."}


@pytest.mark.parametrize("path", ["/", "/predict", "/v1/predict/x", "/v1/models/items/x", "/itemsx"])
def test_no_other_route_is_classic(path: str) -> None:
    assert not is_classic(path)


def test_an_errors_headers_go_out_with_it() -> None:
    full = QueueFull("Full.", headers={"Retry-After": "1"})
    assert list(render(full, "/").headers) == [(b"retry-after", b"1")]
    assert render(Unauthorized("Who?"), "/").headers == []


def test_a_lone_surrogate_in_a_message_is_still_an_error_that_can_be_read() -> None:
    body = json.loads(render(InvalidInput("\udcff is no name"), "/v1/models").body)
    assert body["error"]["message"] == "\udcff is no name"


def test_a_fault_of_ours_names_the_request_and_nothing_else() -> None:
    told = error_object(internal("req-1"))
    assert told["code"] == "internal_error"
    assert "req-1" in str(told["message"])
    assert "req-1" in str(told["hint"])


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("/v1/model", "/v1/models"),
        ("/doc", "/docs"),
        ("/openapi.jsn", "/openapi.json"),
        ("/v1/model/and", "/v1/models/{name}"),
        ("/v1/model/and:predict", "/v1/models/{model}:predict"),
        ("/v1/models/and/predict", "/v1/models/{model}:predict"),
        ("/item/7", "/items/{item_id}"),
        ("/predict/AND/1/1/", "/predict/{gate}/{left}/{right}"),
        ("/predicts/AND/1/1", "/predict/{gate}/{left}/{right}"),
    ],
)
def test_an_unknown_path_is_told_with_the_routes_that_look_alike(path: str, near: str) -> None:
    error = unknown_path("GET", path, ROUTES)
    assert (error.status, error.code) == (404, "unknown_url")
    assert f"GET {path}" in error.message
    assert near in str(error.hint)


def test_a_path_like_no_other_is_sent_to_the_documentation() -> None:
    assert unknown_path("GET", "/wp-admin/setup.php", ROUTES).hint == "GET /docs shows every route."


def test_a_long_path_is_cut_short() -> None:
    assert len(unknown_path("GET", "/" + "x" * 60_000, ROUTES).message) < 300


def test_a_wrong_method_gets_the_command_that_is_right() -> None:
    error = wrong_method("GET", "/v1/models/and:predict", ["POST"], "http://127.0.0.1:8000/ai")
    assert (error.status, error.headers) == (405, {"Allow": "POST"})
    assert error.message == "/v1/models/and:predict answers POST, not GET."
    assert str(error.hint).startswith("A browser's address bar sends GET. Send it so: curl -X POST ")
    assert "http://127.0.0.1:8000/ai/v1/models/and:predict" in str(error.hint)
    assert "-H 'Content-Type: application/json'" in str(error.hint)
    assert wrong_method("POST", "/docs", ["GET"], "http://h").hint == "Send it so: curl -X GET http://h/docs"


def test_the_command_cannot_do_anything_else() -> None:
    path = "/v1/models/x'; rm -rf ~ #$(id)`id`:predict"
    hint = str(wrong_method("GET", path, ["POST"], "http://h$(id)").hint)
    words = shlex.split(hint.partition("Send it so: ")[2], comments=True)
    assert words[:3] == ["curl", "-X", "POST"]
    assert words[3].startswith("http://h$(id)/v1/models/x%27%3B%20rm")
    assert words[4:] == ["-H", "Content-Type: application/json", "-d", "{...}"]
