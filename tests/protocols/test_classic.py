"""The classic routes: a first web API's shapes, with honest statuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import KEY, Running
from hansang.core.signature import Field
from tables import Rows, same


@pytest.fixture
def server(serve: Callable[..., Running], and_gate: str, tmp_path: Path) -> Running:
    inverse = tmp_path / "not.json"
    inverse.write_text('{"weights": [-1.0], "bias": 0.5}', encoding="utf-8")
    texts = Rows("texts", lambda a, b: a + b, Field("a", "string"), Field("b", "string"))
    flags = Rows("flags", lambda a, b: a and b, Field("a", "bool"), Field("b", "bool"))
    one_of = Rows("one_of", lambda a, b: a, Field("a", "int64", choices=(0, 1)), Field("b", "int8"))
    return serve(and_gate, str(inverse), "echo:", texts, flags, one_of, Rows("any", same))


def refusal(server: Running, path: str, status: int) -> str:
    reply = server.client.get(path)
    assert reply.status_code == status, reply.text
    assert list(reply.json()) == ["error"]
    told = reply.json()["error"]
    assert isinstance(told, str)
    return told


@pytest.mark.parametrize(("left", "right", "result"), [(0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 1)])
@pytest.mark.parametrize("gate", ["AND", "and", "And"])
def test_a_gate_of_two_inputs(server: Running, gate: str, left: int, right: int, result: int) -> None:
    reply = server.client.get(f"/predict/{gate}/{left}/{right}")
    assert (reply.status_code, reply.json()) == (200, {"result": result})


@pytest.mark.parametrize(("x", "result"), [(0, 1), (1, 0)])
def test_a_gate_of_one_input(server: Running, x: int, result: int) -> None:
    assert server.client.get(f"/predict/NOT/{x}").json() == {"result": result}


def test_numbers_become_what_the_model_takes(server: Running) -> None:
    assert server.client.get("/predict/FLAGS/1/1").json() == {"result": True}
    assert server.client.get("/predict/one_of/1/-3").json() == {"result": 1}
    assert "expected bool" in refusal(server, "/predict/flags/2/1", 400)
    assert "expected int64: 0 or 1" in refusal(server, "/predict/one_of/2/0", 400)
    assert "expected int8" in refusal(server, "/predict/one_of/1/128", 400)
    assert "expected float64" in refusal(server, f"/predict/and/1/{'9' * 400}", 400)


def test_an_item_is_its_number(server: Running) -> None:
    assert server.client.get("/items/7").json() == {"item_id": 7}
    assert server.client.get("/items/-1").json() == {"item_id": -1}


@pytest.mark.parametrize("path", ["/items/abc", "/items/1.5", f"/items/{'9' * 5000}", "/predict/AND/1/x"])
def test_what_is_not_an_integer_is_a_bad_request(server: Running, path: str) -> None:
    told = refusal(server, path, 400)
    assert "integer" in told
    assert len(told) < 250


def test_an_unknown_gate_is_404_with_the_gates_there_are(server: Running) -> None:
    assert refusal(server, "/predict/IF/1/1", 404) == "There is no gate 'IF' here. Gates of 2: and, flags, one_of."
    assert refusal(server, "/predict/BUFFER/1", 404) == "There is no gate 'BUFFER' here. Gates of 1: not."


@pytest.mark.parametrize("path", ["/predict/XOR/1/1", "/predict/xor/0", "/predict/Xor/0/0"])
def test_a_gate_that_is_not_trained_is_409_with_the_command_to_train_it(server: Running, path: str) -> None:
    told = refusal(server, path, 409)
    assert "is not trained yet." in told
    assert told.endswith(f"curl -X POST {server.url}/train/xor")
    assert "no gate" in refusal(server, "/predict/xor@1/1/1", 404)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/predict/AND/1", "and takes 2 inputs (left: float64, right: float64); this route asks it with 1."),
        ("/predict/NOT/1/1", "not takes 1 input"),
        ("/predict/texts/1/1", "texts takes 2 inputs (a: string, b: string)"),
        ("/predict/any/1/1", "any takes any JSON"),
        ("/predict/echo/1/1", "does chat"),
    ],
)
def test_a_model_that_is_no_such_gate_is_a_bad_request(server: Running, path: str, told: str) -> None:
    assert told in refusal(server, path, 400)


def test_a_longer_path_is_404_and_another_method_405(server: Running) -> None:
    assert "/predict/{gate}/{left}/{right}" in refusal(server, "/predict/AND/1/1/1", 404)
    reply = server.client.post("/predict/AND/1/1")
    assert (reply.status_code, reply.headers["allow"]) == (405, "GET")
    assert list(reply.json()) == ["error"]


def test_a_missing_key_is_told_in_the_classic_shape(serve: Callable[..., Running], and_gate: str) -> None:
    server = serve(and_gate, key=KEY)
    assert server.client.get("/predict/AND/1/1").json() == {"result": 1}
    reply = server.client.get("/predict/AND/1/1", headers={"authorization": ""})
    assert reply.status_code == 401
    assert isinstance(reply.json()["error"], str)


def test_a_model_that_fails_is_told_with_an_honest_status(serve: Callable[..., Running]) -> None:
    def fails(a: Any, b: Any) -> Any:
        raise ZeroDivisionError

    server = serve(Rows("fails", fails, Field("a", "int64"), Field("b", "int64")))
    assert "failed on this request" in refusal(server, "/predict/fails/1/1", 500)
    nan = Rows("nan", lambda a, b: float("nan"), Field("a", "int64"), Field("b", "int64"))
    assert "NaN" in refusal(serve(nan), "/predict/nan/1/1", 500)
