"""`GET /v1/models` and `GET /v1/models/{name}`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from conftest import KEY, Running
from hansang.core.errors import ModelFailed
from hansang.core.signature import Field
from tables import Rows, same

OPENAI = {"id", "object", "created", "owned_by"}
OURS = {"ready", "state", "task", "version", "versions", "source", "format", "display_name", "last_error"}
OURS |= {"memory", "metrics"}


def test_the_list_is_openais_with_more_fields(serve: Callable[..., Running], and_gate: str) -> None:
    server = serve(and_gate, "echo:", Rows("any", same))
    listed = server.client.get("/v1/models").json()
    assert list(listed) == ["object", "data"]
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["and", "echo", "any"]
    for model in listed["data"]:
        assert model.keys() == OPENAI | OURS
        assert (model["object"], model["owned_by"], model["ready"]) == ("model", "hansang", True)
        assert isinstance(model["created"], int)
    gate = listed["data"][0]
    assert (gate["task"], gate["state"], gate["version"], gate["versions"]) == ("tabular", "ready", "1", ["1"])
    assert (gate["format"], gate["source"], gate["last_error"]) == ("perceptron JSON", "and.json", None)


def test_one_model_says_what_it_takes_and_where_it_is_called(serve: Callable[..., Running], and_gate: str) -> None:
    model = serve(and_gate).client.get("/v1/models/and").json()
    assert model.keys() == OPENAI | OURS | {"typed", "signature", "inputs", "outputs", "routes", "info"}
    assert model["signature"] == "(left: float64, right: float64) -> (result: int64: 0 or 1)"
    assert model["inputs"][0] == {
        "name": "left",
        "type": "float64",
        "dtype": "float64",
        "shape": [],
        "required": True,
        "default": None,
        "choices": None,
        "description": "",
    }
    assert model["outputs"][0]["choices"] == [0, 1]
    assert "POST /v1/models/and:predict" in model["routes"]
    assert model["info"]["parameters"] == {"float64": 3}
    assert model["info"]["bytes"] == 24


def test_an_untyped_model_says_so(serve: Callable[..., Running]) -> None:
    model = serve(Rows("any", same)).client.get("/v1/models/any").json()
    assert (model["typed"], model["signature"], model["inputs"]) == (False, None, [])


def test_a_chat_model_names_the_chat_route(serve: Callable[..., Running]) -> None:
    model = serve("echo:").client.get("/v1/models/echo").json()
    assert model["routes"] == ["POST /v1/chat/completions"]


def test_defaults_and_shapes_are_told(serve: Callable[..., Running]) -> None:
    fields = Field("a", "int8", default=3, description="how many"), Field("b", "float32", (2, None))
    model = serve(Rows("wide", lambda a, b: a, *fields)).client.get("/v1/models/wide").json()
    first, second = model["inputs"]
    assert (first["default"], first["required"], first["description"]) == (3, False, "how many")
    assert (second["shape"], second["type"]) == ([2, None], "float32[2, any]")


def test_no_path_of_the_machine_is_told(serve: Callable[..., Running], and_gate: str, tmp_path: Path) -> None:
    def fails(value: Any) -> Any:
        raise ModelFailed(f"{tmp_path}/weights.bin is gone, see https://example.com/a/b or /tmp/x/y.txt.")

    server = serve(and_gate, Rows("fails", fails))
    server.predict("fails", 1)
    for path in ("/v1/models", "/v1/models/and", "/v1/models/fails"):
        assert str(tmp_path) not in server.client.get(path).text
    assert server.client.get("/v1/models/and").json()["info"]["file"] == "and.json"
    told = server.client.get("/v1/models/fails").json()["last_error"]
    assert told == "weights.bin is gone, see https://example.com/a/b or y.txt."


@pytest.mark.parametrize(("asked", "hint"), [("nand", "Did you mean and?"), ("soup", "Models here: and.")])
def test_an_unknown_model_is_404_with_near_names(
    serve: Callable[..., Running], and_gate: str, asked: str, hint: str
) -> None:
    reply = serve(and_gate).client.get(f"/v1/models/{asked}")
    assert reply.status_code == 404
    assert reply.json()["error"] == {
        "message": f"The model {asked!r} does not exist here.",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
        "hint": hint,
    }


def test_name_at_version_is_the_model(serve: Callable[..., Running], and_gate: str) -> None:
    assert serve(and_gate).client.get("/v1/models/and@1").json()["id"] == "and"


def test_openais_client_reads_the_list_and_the_model(serve: Callable[..., Running], and_gate: str) -> None:
    server = serve(and_gate, "echo:", key=KEY)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["and", "echo"]
        assert client.models.retrieve("and").owned_by == "hansang"
        with pytest.raises(openai.NotFoundError) as caught:
            client.models.retrieve("nand")
    assert caught.value.code == "model_not_found"
