"""`hansang models`."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Running
from hansang import Client
from hansang.registry.repository import Repository
from terminal import typed


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_list_asks_a_server(serve: Callable[..., Running], and_gate: str) -> None:
    url = serve(and_gate, f"second={and_gate}").url
    lines = typed("models", "list", "--url", url).out.splitlines()
    assert lines[0].startswith("and     tabular  version 1  ready  ")
    assert lines[1].startswith("second  tabular  version 1  ready  ")
    listed = json.loads(typed("models", "list", "--url", url, "--json").out)
    assert [model["id"] for model in listed] == ["and", "second"]


def test_no_server_is_told_with_the_way_to_start_one() -> None:
    answer = typed("models", "list", "--url", "http://127.0.0.1:9")
    assert answer.status == 1
    assert answer.err.startswith("error: Nothing answers at http://127.0.0.1:9: ")
    assert "hint: Start a server (hansang serve MODEL)" in answer.err


def test_inspect_shows_the_signature_and_the_weight_of_a_source(and_gate: str) -> None:
    answer = typed("models", "inspect", and_gate)
    assert answer.status == 0
    lines = answer.out.splitlines()
    assert "format        perceptron JSON" in lines
    assert "signature     (left: float64, right: float64) -> (result: int64: 0 or 1)" in lines
    assert "float64       3 parameters x 8 bytes = 24 bytes" in lines
    assert "  fp16        3 parameters x 2 bytes = 6 bytes: fits" in lines
    told = json.loads(typed("models", "inspect", and_gate, "--json").out)
    assert (told["parameters"], told["bytes"]) == (3, 24)
    assert told["dtypes"] == {"float64": {"parameters": 3, "bytes": 24}}
    assert {form: fit["bytes"] for form, fit in told["fits"].items()} == {"fp64": 24, "fp32": 12, "fp16": 6, "int8": 3}


def test_inspect_asks_a_server_about_a_name(serve: Callable[..., Running], and_gate: str) -> None:
    url = serve(and_gate).url
    told = json.loads(typed("models", "inspect", "and", "--url", url, "--json").out)
    assert (told["name"], told["parameters"], told["state"]) == ("and", 3, "ready")
    answer = typed("models", "inspect", "adn", "--url", url)
    assert answer.status == 1
    assert answer.err == "error: The model 'adn' does not exist here.\nhint: Did you mean and?\n"


def test_inspect_says_when_a_model_is_untyped_and_a_sample_types_it(here: Path) -> None:
    (here / "loose.py").write_text("def add(a, b):\n    return a + b\n")
    assert "signature     none: untyped, any JSON is passed on" in typed("models", "inspect", "loose.py:add").out
    typed_by_sample = typed("models", "inspect", "loose.py:add", "--sample", "[1, 2]").out
    assert "signature     (a: int64, b: int64) -> (result: int64)" in typed_by_sample


def test_the_arithmetic_alone() -> None:
    out = typed("models", "inspect", "--parameters", "3").out
    assert "  fp64        3 parameters x 8 bytes = 24 bytes: fits" in out.splitlines()
    out = typed("models", "inspect", "--parameters", "1e12").out
    assert "1,000,000,000,000 parameters x 8 bytes = 8,000,000,000,000 bytes (7.3 TiB)" in out
    huge = json.loads(typed("models", "inspect", "--parameters", "1e30", "--json").out)
    assert not any(fit["fits"] for fit in huge["fits"].values())


@pytest.mark.parametrize("count", ["0", "-3", "many", "nan", "1e-3"])
def test_what_is_no_number_of_parameters_is_refused(count: str) -> None:
    answer = typed("models", "inspect", f"--parameters={count}")
    assert answer.status == 1
    assert "is not a number of parameters" in answer.err


def test_a_file_is_added_to_the_repository_of_a_home(here: Path, and_gate: str) -> None:
    answer = typed("models", "add", and_gate, "--home", "home")
    assert (answer.status, answer.err) == (0, "")
    first, digest, advice = answer.out.splitlines()
    assert first == "and  version 1  perceptron JSON  (left: float64, right: float64) -> (result: int64: 0 or 1)"
    assert digest == "sha256:" + hashlib.sha256(Path(and_gate).read_bytes()).hexdigest()
    assert advice.endswith("hansang models load and")
    again = json.loads(typed("models", "add", and_gate, "--name", "and", "--home", "home", "--json").out)
    assert (again["version"], again["provenance"]["filename"]) == (2, "and.json")
    assert Repository(here / "home" / "models").current("and") == 2


def test_an_added_file_is_looked_at_and_tried_first(here: Path) -> None:
    class Canary:
        def __reduce__(self) -> object:
            return (Path.touch, (here / "canary",))

    (here / "evil.pkl").write_bytes(pickle.dumps(Canary()))
    (here / "broken.onnx").write_bytes(b"nothing")
    (here / "code.py").write_text("def f(x: int) -> int:\n    return x\n")
    for name, why in (("evil.pkl", "touch"), ("broken.onnx", "broken.onnx"), ("code.py", "Code is not stored"),
                      ("none.onnx", "There is no file none.onnx")):  # fmt: skip
        answer = typed("models", "add", name, "--home", "home")
        assert answer.status == 1
        assert why in answer.err
    assert not (here / "canary").exists()
    assert Repository(here / "home" / "models").names() == []
    assert not list((here / "home" / "models").glob(".incoming/*"))


def test_weights_are_added_with_their_class_and_served_after_a_start(here: Path, serve: Callable[..., Running]) -> None:
    import torch
    from safetensors.torch import save_file

    (here / "nets.py").write_text(
        "import torch\n\nclass One(torch.nn.Linear):\n    def __init__(self):\n        super().__init__(1, 1)\n"
    )
    save_file({"weight": torch.tensor([[3.0]]), "bias": torch.tensor([1.0])}, here / "net.safetensors")
    refused = typed("models", "add", "net.safetensors", "--home", "home")
    assert refused.status == 1
    assert "Name the class they belong to" in refused.err
    assert typed("models", "add", "net.safetensors", "--class", "nets.py:One", "--home", "home").status == 0
    assert serve(demo=False, home=here / "home").predict("net", [2.0]) == {"predictions": [[7.0]]}
    code = typed("models", "add", "net.safetensors", "--class", "nets.py:One", "--url", "http://127.0.0.1:9")
    assert code.status == 2
    assert "--class is for the repository here" in code.err


def test_a_server_is_given_versions_and_told_which_to_serve(
    here: Path, serve: Callable[..., Running], and_gate: str
) -> None:
    url = serve(demo=False).url
    for _ in range(2):
        assert typed("models", "add", and_gate, "--name", "gate", "--url", url).status == 0
    (line,) = typed("models", "list", "--url", url).out.splitlines()
    assert line.startswith("gate  tabular  version 2 of 2, 1  ready  ")
    for words, told in [
        (("rollback", "gate"), "gate: version 1 answers now.\n"),
        (("rollback", "gate@2"), "gate@2: version 2 answers now.\n"),
        (("load", "gate@1"), "gate@1: version 1 is ready.\n"),
        (("unload", "gate@1"), "gate@1: version 1 is unloaded.\n"),
        (("remove", "gate@1"), "gate@1: removed.\n"),
        (("unload", "gate"), "gate: version 2 is unloaded.\n"),
    ]:
        answer = typed("models", *words, "--url", url)
        assert (answer.status, answer.out) == (0, told)
    assert Client(url).model("gate")["state"] == "unloaded"
    assert typed("models", "remove", "gate", "--url", url).status == 0
    assert Client(url).models() == []
    wrong = typed("models", "rollback", "gate@new", "--url", url)
    assert "hint: Versions are numbers: gate@1" in wrong.err
