"""`hansang models`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Running
from terminal import typed


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_list_asks_a_server(serve: Callable[..., Running], and_gate: str) -> None:
    url = serve(and_gate, f"second={and_gate}").url
    assert typed("models", "list", "--url", url).out == "and     tabular\nsecond  tabular\n"
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
