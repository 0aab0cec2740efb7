"""`/openapi.json`: one valid document for what is loaded now, and a server that keeps to it whatever is sent."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from referencing import Registry, Resource
from schemathesis.checks import CHECKS
from schemathesis.specs.openapi.checks import positive_data_acceptance

from conftest import KEY, Running, running
from hansang.core.signature import Field
from hansang.tasks.tabular import Blob
from tables import Rows, same

STATUSES = {"200", "400", "404", "413", "500", "503", "504", "default"}


@dataclass
class Flower:
    """A dataclass as an input."""

    petal: float
    name: str = "iris"


class Unknown:
    """A type that JSON has no form for."""


def wide() -> Rows:
    """A model with a field of every kind."""
    return Rows(
        "wide",
        lambda *values: values[0],
        Field("count", "int8", default=3, description="how many"),
        Field("grid", "float32", (2, None)),
        Field("file", "bytes"),
        Field("any", "json"),
        Field("flower", "json", annotation=Flower),
        Field("kind", "string", choices=("a", "b")),
        Field("flag", "bool"),
        outputs=[Field("result", "int8")],
    )


def draw() -> Rows:
    """A model that answers an image."""
    image = Blob(b"\x89PNG\r\n\x1a\n", "image/png")
    return Rows("draw", lambda text: image, Field("text", "string"), outputs=[Field("result", "image")])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("models")
    (folder / "and.json").write_text('{"weights": [0.5, 0.5], "bias": -0.75}', encoding="utf-8")
    # A name that could meet another operation's.
    (folder / "one.json").write_text('{"weights": [-1.0], "bias": 0.5}', encoding="utf-8")
    (folder / "gates.py").write_text(
        "def xor(left: int, right: int) -> int:\n    return left ^ right\n", encoding="utf-8"
    )
    paths = [str(folder / name) for name in ("and.json", "one.json", "gates.py:xor")]
    with running(*paths, "echo:", Rows("any", same), wide(), draw()) as served:
        yield served


@pytest.fixture(scope="module")
def document(server: Running) -> dict[str, Any]:
    made: dict[str, Any] = server.client.get("/openapi.json").json()
    return made


def operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def body_check(document: Mapping[str, Any], model: str) -> Draft202012Validator:
    """What the document says of a model's body, as something that checks."""
    post = document["paths"][f"/v1/models/{model}:predict"]["post"]
    schema = post["requestBody"]["content"]["application/json"]["schema"]
    resource = Resource.from_contents({"$schema": "https://json-schema.org/draft/2020-12/schema", **document})
    whole = json.loads(json.dumps(schema).replace("#/components", "urn:document#/components"))
    return Draft202012Validator(whole, registry=Registry().with_resource("urn:document", resource))


def test_the_document_is_valid_openapi(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    validate(document)


def test_every_operation_has_an_id_of_its_own_a_summary_and_a_tag_that_is_described(document: dict[str, Any]) -> None:
    described = {tag["name"] for tag in document["tags"]}
    ids = Counter(operation["operationId"] for _, _, operation in operations(document))
    assert [name for name, count in ids.items() if count > 1] == []
    for path, _, operation in operations(document):
        assert operation["summary"], path
        assert set(operation["tags"]) <= described, path


def test_every_reference_leads_somewhere_and_every_schema_is_used(document: dict[str, Any]) -> None:
    text = json.dumps(document)
    for name in document["components"]["schemas"]:
        assert f'"#/components/schemas/{name}"' in text, name
    assert "#/$defs" not in text
    assert "HTTPValidationError" not in text


def test_every_operation_documents_its_errors_in_the_shape_they_have(document: dict[str, Any]) -> None:
    for path, _, operation in operations(document):
        responses = operation["responses"]
        assert "default" in responses, path
        assert "422" not in responses, path
        shape = "ClassicError" if path.startswith(("/predict/", "/items/", "/train/")) else "Error"
        for status, response in responses.items():
            if status in STATUSES - {"200"} and path != "/readyz":
                if "$ref" in response:
                    response = document["components"]["responses"][response["$ref"].rpartition("/")[2]]
                told = response["content"]["application/json"]["schema"]["$ref"]
                assert told == f"#/components/schemas/{shape}", (path, status)
    assert document["paths"]["/v1/models/and:predict"]["post"]["responses"].keys() == STATUSES


def test_every_loaded_model_has_its_operation(document: dict[str, Any]) -> None:
    for model in ("and", "one", "xor", "any", "wide", "draw"):
        assert f"/v1/models/{model}:predict" in document["paths"]


def test_a_typed_model_is_described_by_its_fields(document: dict[str, Any]) -> None:
    post = document["paths"]["/v1/models/and:predict"]["post"]
    assert post["description"].splitlines() == [
        "(left: float64, right: float64) -> (result: int64: 0 or 1)",
        "",
        "- format: perceptron JSON",
        "- parameters: 3 float64",
        "- bytes: 24",
    ]
    content = post["requestBody"]["content"]
    assert [form["title"] for form in content["application/json"]["schema"]["anyOf"]] == [
        "Rows",
        "Rows by name",
        "Named columns",
    ]
    row = document["components"]["schemas"]["and.request.Row"]
    assert row["required"] == ["left", "right"]
    assert row["properties"]["left"]["type"] == "number"
    form = content["application/x-www-form-urlencoded"]["schema"]
    assert form["properties"].keys() == {"left", "right"}
    answer = post["responses"]["200"]["content"]["application/json"]["schema"]["anyOf"][0]
    assert answer["properties"]["predictions"]["items"] == {"enum": [0, 1], "type": "integer"}


def test_an_untyped_model_says_so(document: dict[str, Any]) -> None:
    post = document["paths"]["/v1/models/any:predict"]["post"]
    assert post["description"] == "Untyped: any JSON is passed on as it is."
    assert post["requestBody"]["content"]["application/json"]["schema"]["properties"]["instances"]["items"] == {}


def test_defaults_descriptions_and_limits_are_told(document: dict[str, Any]) -> None:
    row = document["components"]["schemas"]["wide.request.Row"]["properties"]
    assert row["count"] == {
        "default": 3,
        "description": "how many",
        "minimum": -128,
        "maximum": 127,
        "title": "Count",
        "type": "integer",
    }
    assert row["kind"]["enum"] == ["a", "b"]
    assert "count" not in document["components"]["schemas"]["wide.request.Row"]["required"]


def test_an_image_is_told_as_json_and_as_bytes(document: dict[str, Any]) -> None:
    content = document["paths"]["/v1/models/draw:predict"]["post"]["responses"]["200"]["content"]
    assert content.keys() == {"application/json", "image/*"}


@pytest.mark.parametrize("model", ["and", "one", "xor", "any", "wide", "draw"])
def test_the_example_fits_its_schema_and_is_answered(server: Running, document: dict[str, Any], model: str) -> None:
    post = document["paths"][f"/v1/models/{model}:predict"]["post"]
    example = post["requestBody"]["content"]["application/json"]["example"]
    body_check(document, model).validate(example)
    assert server.client.post(f"/v1/models/{model}:predict", json=example).status_code == 200


def test_a_model_whose_types_have_no_schema_does_not_spoil_the_document(serve: Callable[..., Running]) -> None:
    odd = Rows("odd", same, Field("x", "json", annotation=Unknown), outputs=[Field("y", "json", annotation=Unknown)])
    unable = Rows("unable", same, Field("x", "json", annotation=Literal))
    document = serve(odd, unable).client.get("/openapi.json").json()
    validate(document)
    assert "It cannot be called" in document["paths"]["/v1/models/unable:predict"]["post"]["description"]


def test_a_model_is_told_with_what_its_card_says_whatever_that_is(serve: Callable[..., Running]) -> None:
    card = {"limits": "only 0 and 1", "licence": "MIT", "more": object()}
    told = Rows("told", same, info={"title": "A dish", "description": "Served hot.", "parameters": 3, "card": card})
    odd = Rows("odd", same, info={"title": 7, "format": object, "bytes": {"a": 1}, "card": "text", "parameters": {}})
    document = serve(told, odd).client.get("/openapi.json").json()
    validate(document)
    post = document["paths"]["/v1/models/told:predict"]["post"]
    assert post["summary"] == "Predict with A dish"
    assert post["description"].endswith("Served hot.\n\n- parameters: 3\n- limits: only 0 and 1\n- licence: MIT")
    assert document["paths"]["/v1/models/odd:predict"]["post"]["summary"] == "Predict with 7"


def test_with_a_key_the_document_asks_for_it_and_says_what_is_answered_without(serve: Callable[..., Running]) -> None:
    document = serve(key=KEY).client.get("/openapi.json").json()
    validate(document)
    assert document["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
    assert "401" in document["paths"]["/v1/models"]["get"]["responses"]
    assert "401" not in document["paths"]["/healthz"]["get"]["responses"]


# What the schema allows and we refuse for a reason it cannot say: columns of different lengths, an integer written
# as 1.0, a chat's stream_options without a stream.
CONFORM = [check for check in CHECKS.get_all() if check is not positive_data_acceptance]


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=lambda mode: str(mode.value))
def test_whatever_is_sent_the_server_keeps_to_the_document(server: Running, mode: schemathesis.GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    statuses: Counter[int] = Counter()
    for found in schema.get_all_operations():
        operation = found.ok()

        @settings(
            max_examples=10, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def holds(case: schemathesis.Case) -> None:
            response = case.call()
            statuses[response.status_code] += 1
            case.validate_response(response, checks=CONFORM)

        try:
            holds()
        except Unsatisfiable:
            assert mode is schemathesis.GenerationMode.NEGATIVE  # nothing to get wrong in a plain GET
    assert sum(statuses.values()) > 50
    assert not [status for status in statuses if status >= 500]
    assert statuses[400 if mode is schemathesis.GenerationMode.NEGATIVE else 200] > 30
