"""`POST /v1/models/{name}:predict`, over a real socket."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import KEY, Running
from hansang.core.errors import InvalidInput
from hansang.core.signature import Field
from hansang.tasks.tabular import Blob, Table
from tables import Answering, Rows, same

PNG = b"\x89PNG\r\n\x1a\n..."


def image(value: Any) -> Blob:
    return Blob(PNG, "image/png")


def post(server: Running, model: str, **options: Any) -> Any:
    return server.client.post(f"/v1/models/{model}:predict", **options)


def error(reply: Any, status: int) -> dict[str, Any]:
    """The error of a reply, checked to be of the one shape."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/json"
    body: dict[str, Any] = reply.json()
    assert body.keys() == {"error"}
    assert list(body["error"]) == ["message", "type", "param", "code", "hint"]
    assert body["error"]["message"]
    return dict(body["error"])


def test_rows_may_be_lists_or_objects(serve: Callable[..., Running], and_gate: str) -> None:
    server = serve(and_gate)
    assert server.predict("and", [1, 1], [0, 1]) == {"predictions": [1, 0]}
    assert server.predict("and", {"left": 1, "right": 1}) == {"predictions": [1]}


def test_columns_are_answered_with_columns(serve: Callable[..., Running], and_gate: str) -> None:
    reply = post(serve(and_gate), "and", json={"inputs": {"left": [1, 0], "right": [1, 1]}})
    assert reply.json() == {"outputs": [1, 0]}


def test_a_form_is_one_row_and_curls_default_content_type_does_not_make_json_one(
    serve: Callable[..., Running], and_gate: str
) -> None:
    server = serve(and_gate)
    assert post(server, "and", data={"left": "1", "right": "1"}).json() == {"predictions": [1]}
    as_curl = {"content-type": "application/x-www-form-urlencoded"}
    reply = post(server, "and", content=b' {"instances": [[1, 1]]}', headers=as_curl)
    assert reply.json() == {"predictions": [1]}
    assert error(post(server, "and", content=b"left", headers=as_curl), 400)["code"] == "invalid_input"


def test_a_multipart_form_is_refused_with_what_to_send_instead(serve: Callable[..., Running], and_gate: str) -> None:
    told = error(post(serve(and_gate), "and", files={"left": b"1"}), 400)
    assert told["code"] == "invalid_json"
    assert "base64" in told["hint"] or "b64" in told["hint"]


def test_an_untyped_model_takes_and_gives_any_json(serve: Callable[..., Running]) -> None:
    server = serve(Rows("any", same))
    rows = [1, "a", None, [True, {"b": [1.5]}], 2**70]
    assert server.predict("any", *rows) == {"predictions": rows}


def test_name_at_version_may_stand_for_a_name(serve: Callable[..., Running], and_gate: str) -> None:
    server = serve(and_gate)
    assert server.predict("and@1", [1, 1]) == {"predictions": [1]}
    assert error(post(server, "and@2", json={"instances": [[1, 1]]}), 404)["code"] == "model_not_found"


def test_an_unknown_model_is_404_with_near_names(serve: Callable[..., Running], and_gate: str) -> None:
    told = error(post(serve(and_gate), "nand", json={"instances": [[1, 1]]}), 404)
    assert told == {
        "message": "The model 'nand' does not exist here.",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
        "hint": "Did you mean and?",
    }


def test_a_model_of_another_task_is_a_bad_request(serve: Callable[..., Running]) -> None:
    told = error(post(serve("echo:"), "echo", json={"instances": [1]}), 400)
    assert told["code"] == "wrong_task"


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"", "invalid_json", None),
        (b"{", "invalid_json", None),
        (b'{"instances": [[1, NaN]]}', "invalid_json", None),
        (b'{"instances": [["\\ud800", 1]]}', "invalid_json", None),
        (b"\xff\xfe", "invalid_json", None),
        (b"[" * 100_000, "invalid_json", None),
        (b'{"instances": []}', "invalid_input", "instances"),
        (b'{"instances": [[1]]}', "invalid_input", "instances[0].right"),
        (b'{"instances": [[1, "1"]]}', "invalid_input", "instances[0].right"),
        (b'{"instances": [[1, %s]]}' % (b"9" * 400), "invalid_input", "instances[0].right"),
    ],
)
def test_a_wrong_body_is_400(
    serve: Callable[..., Running], and_gate: str, body: bytes, code: str, param: str | None
) -> None:
    server = serve(and_gate)
    told = error(post(server, "and", content=body), 400)
    assert (told["code"], told["param"], told["type"]) == (code, param, "invalid_request_error")
    assert told["hint"]
    assert server.predict("and", [1, 1]) == {"predictions": [1]}


def test_a_body_over_the_limit_is_413(serve: Callable[..., Running], and_gate: str) -> None:
    told = error(post(serve(and_gate, body_limit=1024), "and", content=b" " * 1025), 413)
    assert told["code"] == "body_too_large"
    assert "body_limit" in told["hint"]


def test_get_is_405_with_allow_and_the_command_to_send(serve: Callable[..., Running], and_gate: str) -> None:
    server = serve(and_gate)
    reply = server.client.get("/v1/models/and:predict")
    told = error(reply, 405)
    assert reply.headers["allow"] == "POST"
    assert f"curl -X POST {server.url}/v1/models/and:predict" in told["hint"]


def test_what_a_model_raises_stays_in_the_log(serve: Callable[..., Running], caplog: pytest.LogCaptureFixture) -> None:
    def fails(value: Any) -> Any:
        raise ZeroDivisionError("a secret")

    server = serve(Rows("fails", fails))
    reply = post(server, "fails", json={"instances": [1]}, headers={"x-request-id": "req-7"})
    told = error(reply, 500)
    assert (told["code"], reply.headers["x-request-id"]) == ("model_failed", "req-7")
    assert "secret" not in reply.text
    assert "req-7" in told["hint"]
    assert "a secret" in caplog.text


def test_a_model_may_refuse_a_row_in_its_own_words(serve: Callable[..., Running]) -> None:
    def picky(value: Any) -> Any:
        raise InvalidInput("No fish today.", hint="Ask for soup.", param="instances[0]")

    told = error(post(serve(Rows("picky", picky)), "picky", json={"instances": ["fish"]}), 400)
    assert (told["message"], told["hint"]) == ("No fish today.", "Ask for soup.")


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (Table({"result": [float("nan")]}, 1), "NaN or Infinity"),
        (Table({"result": [object()]}, 1), "it holds a object"),
        (Table({"result": [1, 2]}, 2), "answered 2 rows for 1"),
        (Table({"result": [1, 2]}, 1), "other lengths"),
        (Table({}, 0), "answered 0 rows for 1"),
    ],
)
def test_nonsense_from_a_model_is_its_failure(serve: Callable[..., Running], answer: Table, told: str) -> None:
    failed = error(post(serve(Answering("odd", answer)), "odd", json={"instances": [1]}), 500)
    assert (failed["code"], failed["type"]) == ("model_failed", "server_error")
    assert told in failed["message"]


@pytest.mark.parametrize("accept", ["image/png", "image/*", "text/html, image/png;q=0.9"])
def test_one_image_comes_as_bytes_to_who_asks_for_them(serve: Callable[..., Running], accept: str) -> None:
    server = serve(Rows("draw", image, Field("x", "int64"), outputs=[Field("result", "image")]))
    reply = post(server, "draw", json={"instances": [1]}, headers={"accept": accept})
    assert (reply.content, reply.headers["content-type"]) == (PNG, "image/png")
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in reply.headers["content-security-policy"]


@pytest.mark.parametrize("accept", ["*/*", "application/json", "application/json, image/png", "audio/wav"])
def test_an_image_comes_as_json_to_everybody_else(serve: Callable[..., Running], accept: str) -> None:
    server = serve(Rows("draw", image, Field("x", "int64"), outputs=[Field("result", "image")]))
    reply = post(server, "draw", json={"instances": [1]}, headers={"accept": accept})
    assert reply.json()["predictions"][0]["content_type"] == "image/png"


def test_two_images_come_as_json(serve: Callable[..., Running]) -> None:
    server = serve(Rows("draw", image, Field("x", "int64")))
    reply = post(server, "draw", json={"instances": [1, 2]}, headers={"accept": "image/png"})
    assert len(reply.json()["predictions"]) == 2


def test_bytes_whose_type_would_break_a_header_come_as_json(serve: Callable[..., Running]) -> None:
    odd = Rows("odd", lambda value: Blob(b"x", "image/\r\nset-cookie: a=b"), Field("x", "int64"))
    reply = post(serve(odd), "odd", json={"instances": [1]}, headers={"accept": "image/*"})
    assert reply.headers["content-type"] == "application/json"
    assert "set-cookie" not in reply.headers


def test_a_key_is_asked_for_where_there_is_one(serve: Callable[..., Running], and_gate: str) -> None:
    server = serve(and_gate, key=KEY)
    assert server.predict("and", [1, 1]) == {"predictions": [1]}
    reply = post(server, "and", json={"instances": [[1, 1]]}, headers={"authorization": "Bearer wrong"})
    assert error(reply, 401)["code"] == "invalid_api_key"
    assert reply.headers["www-authenticate"] == "Bearer"


def test_models_from_a_folder_with_a_korean_name_are_served(serve: Callable[..., Running], tmp_path: Path) -> None:
    folder = tmp_path / "모델"
    folder.mkdir()
    (folder / "문.json").write_text('{"weights": [1.0], "bias": -0.5}', encoding="utf-8")
    server = serve(f"gate={folder / '문.json'}")
    assert server.predict("gate", 1, 0) == {"predictions": [1, 0]}
