"""Training over HTTP: jobs, tables in forms, the notes' classic route, and every request that is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import Running, running

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(home=tmp_path_factory.mktemp("home")) as served:
        yield served


def train(server: Running, model: str, body: Any = None, **options: Any) -> Any:
    """The job, when it has ended."""
    if body is not None:
        options["json"] = body
    reply = server.client.post(f"/v1/models/{model}/train", **options)
    assert reply.status_code == 202, reply.text
    assert reply.headers["location"] == f"/v1/jobs/{reply.json()['id']}"
    events(server, reply.json())
    return server.client.get(reply.headers["location"]).json()


def events(server: Running, job: Any) -> list[tuple[str, Any]]:
    """All events of a job, until it ends."""
    told: list[tuple[str, Any]] = []
    for block in server.client.get(job["events"]).text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        assert int(fields["id"]) == len(told) + 1
        told.append((fields["event"], json.loads(fields["data"])))
    return told


def refused(server: Running, body: Any = None, model: str = "m", status: int = 400, **options: Any) -> str:
    if body is not None:
        options["json"] = body
    reply = server.client.post(f"/v1/models/{model}/train", **options)
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert error["hint"]
    return f"{error['param']}: {error['message']} {error['hint']}"


@pytest.mark.parametrize("gate", ["and", "OR", "Not", "nand", "nor", "xor", "xnor"])
def test_the_notes_train_a_gate_and_ask_it(server: Running, gate: str) -> None:
    reply = server.client.post(f"/train/{gate}")
    assert (reply.status_code, reply.json()) == (200, {"result": "OK"})
    answers = {"and": 1, "or": 1, "nand": 0, "nor": 0, "xor": 0, "xnor": 1, "not": 0}
    path = f"/predict/{gate.upper()}/1" + ("" if gate == "Not" else "/1")
    assert server.client.get(path).json() == {"result": answers[gate.lower()]}


def test_a_gate_is_trained_after_it_was_asked_in_vain(serve: Callable[..., Running], tmp_path: Path) -> None:
    server = serve(home=tmp_path)
    reply = server.client.get("/predict/AND/1/1")
    assert reply.status_code == 409
    told = reply.json()["error"]
    assert told.endswith(f"curl -X POST {server.url}/train/and")
    assert server.client.post(told.rpartition(" ")[2].removeprefix(server.url)).json() == {"result": "OK"}
    assert server.client.get("/predict/AND/1/1").json() == {"result": 1}


def test_an_unknown_gate_of_the_notes_is_told_in_their_shape(server: Running) -> None:
    reply = server.client.post("/train/nannd")
    assert reply.status_code == 400
    assert "Did you mean nand?" in reply.json()["error"]


def test_an_empty_body_on_a_gates_name_is_enough(server: Running) -> None:
    job = train(server, "and")
    assert job["state"] == "succeeded"
    assert job["params"]["trainer"] == "perceptron"
    assert job["result"]["converged"]
    assert job["result"]["version"] >= 1


def test_xor_takes_the_network_unless_the_perceptron_is_named(server: Running) -> None:
    assert train(server, "xor")["params"]["trainer"] == "mlp"
    job = train(server, "line", {"data": "xor", "trainer": "perceptron"})
    assert job["state"] == "succeeded"
    assert job["result"]["converged"] is False
    assert "not linearly separable" in job["result"]["note"]


def test_the_events_tell_each_epoch_and_the_end(server: Running) -> None:
    job = server.client.post("/v1/models/told/train", json={"data": "and"}).json()
    told = events(server, job)
    kinds = [kind for kind, _ in told]
    assert kinds[0] == "started"
    assert kinds[-1] == "succeeded"
    assert set(kinds[1:-1]) == {"epoch"}
    assert told[1][1].keys() >= {"epoch", "errors", "accuracy", "weights", "bias"}
    assert told[-1][1]["result"]["model"] == "told"
    later = server.client.get(job["events"], headers={"last-event-id": str(len(told) - 1)}).text
    assert later.startswith(f"id: {len(told)}\n")


@pytest.mark.parametrize("trainer", ["perceptron", "mlp"])
@pytest.mark.parametrize("saved_as", ["json", "pickle", "safetensors", "torch", "onnx"])
def test_every_format_is_served_when_the_job_has_ended(server: Running, trainer: str, saved_as: str) -> None:
    if (trainer, saved_as) == ("perceptron", "onnx"):
        assert "perceptron cannot save as 'onnx'" in refused(
            server, {"data": "or", "format": "onnx", "trainer": trainer}
        )
        return
    if saved_as == "onnx":
        pytest.importorskip("onnx")
    name = f"{trainer}-{saved_as}"
    job = train(server, name, {"data": "or", "trainer": trainer, "format": saved_as, "seed": 7})
    assert job["state"] == "succeeded", job
    answers = server.predict(name, [0, 0], [0, 1], [1, 0], [1, 1])["predictions"]
    assert [answer["result"] if isinstance(answer, dict) else answer for answer in answers] == [0, 1, 1, 1]


def test_versions_are_kept_and_the_last_answers(server: Running) -> None:
    first, second = (train(server, "turns", {"data": gate})["result"]["version"] for gate in ("and", "nand"))
    assert second == first + 1
    assert server.predict("turns", [1, 1]) == {"predictions": [0]}
    model = server.client.get("/v1/models/turns").json()
    assert model["id"] == "turns"


FLOWERS = "꽃잎,색,품종\n" + "".join(
    f"{n % 10 / 10 + (0 if n % 2 else 3)},{('흰', '붉은')[n % 3 == 0]},{('제비꽃', '장미')[n % 2 == 0]}\n"
    for n in range(60)
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp949"])
def test_a_table_in_a_form(server: Running, encoding: str) -> None:
    files = {"table": ("flowers.csv", FLOWERS.encode(encoding), "text/csv")}
    fields = {"target": "품종", "seed": "3", "options": '{"epochs": 40}', "format": "safetensors"}
    job = train(server, "flowers", files=files, data=fields)
    assert job["state"] == "succeeded", job
    assert job["params"]["data"]["categories"] == ["색"]
    assert job["params"]["data"]["classes"] == {"장미": 30, "제비꽃": 30}
    assert job["result"]["metrics"]["test_accuracy"] == 1.0
    answers = server.predict("flowers", {"꽃잎": 3.5, "색": "흰"}, {"꽃잎": 0.2, "색": "붉은"})["predictions"]
    assert [answer["result"] for answer in answers] == ["장미", "제비꽃"]
    wrong = server.predict("flowers", {"꽃잎": 3.5, "색": "푸른"})["error"]
    assert "색" in wrong["message"]


def test_a_table_without_a_named_target_takes_the_last_column(server: Running) -> None:
    files = {"table": ("t.csv", b"a,b,y\n0,0,0\n0,1,1\n1,0,1\n1,1,1\n", "text/csv")}
    assert train(server, "last", files=files, data={"trainer": "perceptron"})["params"]["data"]["target"] == "y"


@pytest.mark.parametrize(
    ("content", "fields", "told"),
    [
        (b"", {}, "first line"),
        (b"a,y\n", {}, "no rows"),
        (b"a,y\n1\n", {}, "Line 2"),
        (b"a,y\n1,0\n2,1\n", {"target": "z"}, "no column 'z'"),
        (b"a,y\n1,0\n,1\n", {}, "a is empty in line 3"),
        (b"\x00\x01" * 50, {}, "not text"),
        (b"a,y\n1,0\n2,1\n", {"seed": "x"}, "seed"),
        (b"a,y\n1,0\n2,1\n", {"options": "{"}, "options is '{'"),
        (b"a,y\n1,0\n2,1\n", {"colour": "x"}, "'colour' is not known"),
        (b"a,y\n1,0\n2,1\n", {"trainer": "mpl"}, "Did you mean mlp?"),
    ],
)
def test_a_form_that_is_wrong_is_told(server: Running, content: bytes, fields: dict[str, str], told: str) -> None:
    assert told in refused(server, files={"table": ("t.csv", content, "text/csv")}, data=fields)


def test_two_tables_in_one_form_are_refused(server: Running) -> None:
    files = [("a", ("a.csv", b"a,y\n1,0\n", "text/csv")), ("b", ("b.csv", b"a,y\n1,0\n", "text/csv"))]
    reply = server.client.post("/v1/models/m/train", files=files)
    assert reply.status_code == 400
    assert "error" in reply.json()


def test_a_form_that_is_none_is_refused(server: Running) -> None:
    for content_type in ("multipart/form-data", "multipart/form-data; boundary=x"):
        reply = server.client.post("/v1/models/m/train", content=b"garbage", headers={"content-type": content_type})
        assert reply.status_code == 400, reply.text


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"trainer": "perceptrn", "data": "and"}, "Did you mean perceptron?"),
        ({"trainer": "zzz", "data": "and"}, "There are: mlp, perceptron."),
        ({"trainer": ["mlp"], "data": "and"}, "trainer"),
        ({"data": "annd"}, "Did you mean and?"),
        ({}, "There is no gate 'm'"),
        ({"dat": "and"}, "Did you mean data?"),
        ({"data": "and", "format": "jsn"}, "Did you mean json?"),
        ({"data": "and", "format": ["json"]}, "format"),
        ({"data": "and", "format": {"a": 1}}, "format"),
        ({"data": "and", "options": {"epoch": 5}}, "Did you mean epochs?"),
        ({"data": "and", "options": {"epochs": 0}}, "1 to 100000"),
        ({"data": "and", "options": {"epochs": 10**9}}, "1 to 100000"),
        ({"data": "and", "options": {"epochs": -5}}, "1 to 100000"),
        ({"data": "and", "options": {"epochs": 2.5}}, "options.epochs is 2.5"),
        ({"data": "and", "options": {"epochs": "many"}}, "epochs is 'many'"),
        ({"data": "and", "options": {"epochs": True}}, "epochs is True"),
        ({"data": "and", "options": {"epochs": None}}, "epochs is None"),
        ({"data": "and", "options": {"learning_rate": 0}}, "1e-06 to 10"),
        ({"data": "and", "options": {"learning_rate": 1e308}}, "1e-06 to 10"),
        ({"data": "and", "options": [1]}, "An object such as"),
        ({"data": "and", "seed": -1}, "0 to 4294967295"),
        ({"data": "and", "seed": 2**32}, "0 to 4294967295"),
        ({"data": "and", "seed": 1.5}, "seed is 1.5"),
        ({"data": "and", "seed": True}, "seed is True"),
        ({"data": {"rows": [[0, 1], [1]]}}, "data.rows[1]"),
        ({"data": {"rows": [[0, 0], [1, 1]]}, "target": ["y"]}, "no column"),
    ],
)
def test_a_request_that_is_wrong_names_what_and_the_nearest(server: Running, body: Any, told: str) -> None:
    assert told in refused(server, body)


@pytest.mark.parametrize("body", [b"{", b"[]", b"5", b'"and"', b"null", b"\xff", b'{"options": {"epochs": 1e999}}'])
def test_a_body_that_is_no_object_is_refused(server: Running, body: bytes) -> None:
    refused(server, content=body)


def test_a_name_that_no_model_may_have_is_refused(server: Running) -> None:
    for name in ("-x", "a b", "..", "%2e%2e", "x" * 200):
        reply = server.client.post(f"/v1/models/{name}/train", json={"data": "and"})
        assert reply.status_code in (400, 404), name


def test_a_model_of_the_command_line_is_not_replaced(
    serve: Callable[..., Running], and_gate: str, tmp_path: Path
) -> None:
    server = serve(and_gate, home=tmp_path)
    assert "command line" in refused(server, model="and", status=409)
    assert server.client.post("/train/and").status_code == 409


def test_what_a_trainer_cannot_learn_fails_the_job_in_words(server: Running) -> None:
    job = train(server, "m", {"trainer": "perceptron", "data": {"rows": [["a", 0], ["b", 1]]}})
    assert job["state"] == "failed"
    assert 'Use the trainer "mlp"' in job["error"]["hint"]
    assert server.client.get("/v1/models/m").status_code == 404


def test_a_training_is_cancelled_in_the_middle_and_nothing_is_published(server: Running) -> None:
    rows = [[n, n % 7, n % 2] for n in range(2000)]
    body = {"trainer": "mlp", "data": {"rows": rows}, "options": {"epochs": 100_000}}
    job = server.client.post("/v1/models/long/train", json=body).json()
    waiting = server.client.post("/v1/models/waits/train", json={"data": "and"}).json()
    assert server.client.delete(f"/v1/jobs/{waiting['id']}").json()["state"] == "cancelled"
    server.client.delete(f"/v1/jobs/{job['id']}")
    assert events(server, job)[-1][0] == "cancelled"
    assert server.client.get(f"/v1/jobs/{job['id']}").json()["state"] == "cancelled"
    assert server.client.delete(f"/v1/jobs/{job['id']}").status_code == 409
    for name in ("long", "waits"):
        assert server.client.get(f"/v1/models/{name}").status_code == 404


def test_what_can_be_trained_is_listed(server: Running) -> None:
    listed = {trainer["name"]: trainer for trainer in server.client.get("/v1/trainers").json()["data"]}
    assert listed.keys() == {"mlp", "perceptron"}
    assert listed["perceptron"]["formats"] == ["json", "pickle", "safetensors", "torch"]
    epochs = next(option for option in listed["mlp"]["options"] if option["name"] == "epochs")
    assert (epochs["low"], epochs["high"], epochs["whole"]) == (1, 100_000, True)


def test_what_was_trained_is_there_after_a_restart(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with running(home=home) as served:
        train(served, "xor", {"trainer": "mlp", "format": "torch"})
        before = served.predict("xor", [0, 0], [0, 1], [1, 0], [1, 1])
    with running(home=home) as served:
        assert served.predict("xor", [0, 0], [0, 1], [1, 0], [1, 1]) == before
