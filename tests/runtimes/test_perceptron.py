"""Perceptrons from JSON: what they answer, and what is told of a file that is none."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import Running
from hansang.core.errors import LoadFailed
from hansang.core.model import Call, CallContext, LoadContext, Model
from hansang.core.source import parse
from hansang.runtimes.records import RecordRuntime
from hansang.tasks.tabular import Table
from hansang.testing import check_runtime


def write(folder: Path, text: str) -> Path:
    path = folder / "gate.json"
    path.write_text(text, encoding="utf-8")
    return path


def load(path: Path) -> Model:
    model = RecordRuntime().open(parse(str(path))[1])
    assert isinstance(model, Model)
    model.load(LoadContext())
    return model


def test_it_keeps_the_contract(and_gate: str) -> None:
    requests = [Table({"left": [0, 1], "right": [1, 1]}, 2), Table({"left": [1], "right": [0]}, 1)]
    model = RecordRuntime().open(parse(and_gate)[1])
    check_runtime(model, requests, wrong=Table({"left": ["one"], "right": [1]}, 1))


def test_a_gate_answers_its_truth_table(serve: Callable[..., Running], and_gate: str) -> None:
    rows = list(product([0, 1], repeat=2))
    assert serve(and_gate).predict("and", *rows) == {"predictions": [0, 0, 0, 1]}


@given(weights=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=4), bias=st.floats(-1e6, 1e6), data=st.data())
def test_it_fires_when_the_weighted_sum_reaches_zero(
    weights: list[float], bias: float, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    width = len(weights)
    model = load(write(tmp_path_factory.mktemp("gate"), f'{{"weights": {weights}, "bias": {bias}}}'))
    row = data.draw(st.lists(st.floats(-1e6, 1e6), min_size=width, max_size=width))
    assert model.signature is not None
    table = Table({field.name: [value] for field, value in zip(model.signature.inputs, row, strict=True)}, 1)
    (answer,) = model.predict([Call(table, CallContext("test", 0.0))])  # type: ignore[misc]
    fires = sum(weight * value for weight, value in zip(weights, row, strict=True)) + bias >= 0
    assert answer.columns == {"result": [int(fires)]}


@pytest.mark.parametrize(
    ("saved", "names"),
    [
        ('{"weights": [1], "bias": 0}', ["x"]),
        ('{"weights": [1, 1], "bias": [0]}', ["left", "right"]),
        ('{"weights": [1, 1, 1], "bias": 0}', ["x1", "x2", "x3"]),
        ('{"weights": [1, 1], "bias": 0, "inputs": ["하나", "둘"]}', ["하나", "둘"]),
    ],
)
def test_inputs_are_named(tmp_path: Path, saved: str, names: list[str]) -> None:
    signature = load(write(tmp_path, saved)).signature
    assert signature is not None
    assert [field.name for field in signature.inputs] == names


def test_inspect_counts_parameters_and_shows_the_card_beside(tmp_path: Path) -> None:
    path = write(tmp_path, '{"weights": [1, 1], "bias": 0}')
    (tmp_path / "gate.card.json").write_text('{"title": {"ko": "논리곱", "en": "AND"}, "limits": "0 and 1"}')
    info = load(path).info
    assert (info["parameters"], info["bytes"]) == ({"float64": 3}, 24)
    assert (info["title"], info["card"]["limits"]) == ("AND", "0 and 1")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "not JSON"),
        ("{", "character 1"),
        ("[1]", "list"),
        ('{"weights": [1]}', "bias missing"),
        ('{"weights": [], "bias": 0}', "finite numbers"),
        ('{"weights": [true], "bias": 0}', "finite numbers"),
        ('{"weights": [NaN], "bias": 0}', "finite numbers"),
        ('{"weights": [1e999], "bias": 0}', "finite numbers"),
        (f'{{"weights": [{"9" * 400}], "bias": 0}}', "finite numbers"),
        (f'{{"weights": [{"9" * 5000}], "bias": 0}}', "too long"),
        ("[" * 100_000, "too deep"),
        ('{"weights": [1, 2], "bias": 0, "inputs": ["a", "a"]}', "2 different names"),
        ('{"weights": [1, 2], "bias": 0, "inputs": "ab"}', "2 different names"),
    ],
)
def test_a_file_that_is_no_perceptron_is_told(tmp_path: Path, text: str, told: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(LoadFailed, match=told) as failed:
        load(path)
    assert str(path) in failed.value.message
    assert failed.value.hint


def test_another_file_under_the_name_is_told_for_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "gate.json"
    path.write_bytes(b"\x80\x04\x95rest of a pickle")
    with pytest.raises(LoadFailed, match="a pickle"):
        load(path)


def test_a_missing_file_names_those_beside_it(tmp_path: Path) -> None:
    write(tmp_path, "{}")
    source: Any = parse(str(tmp_path / "gaet.json"))[1]
    with pytest.raises(LoadFailed) as failed:
        RecordRuntime().open(source)
    assert "gate.json" in str(failed.value.hint)
