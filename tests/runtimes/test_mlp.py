"""Networks of our trainer, as files: what they answer, and what is told of a record that is none."""

from __future__ import annotations

import json
import pickle
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from hansang.core.errors import InvalidInput, LoadFailed
from hansang.core.model import LoadContext
from hansang.core.source import parse
from hansang.runtimes.records import RecordRuntime
from hansang.tasks.tabular import Table
from hansang.testing import check_runtime
from learning import ask, opened

RECORD: dict[str, Any] = {
    "format": "hansang.mlp",
    "inputs": [{"name": "무게", "mean": 2.0, "std": 2.0}, {"name": "colour", "categories": ["blue", "red"]}],
    "target": {"name": "kind", "kind": "class", "mean": 0.0, "std": 1.0, "classes": ["가", "나", "다"]},
    "activation": "tanh",
    "layers": [
        {"weight": [[1.0, 0.0, 2.0], [0.5, -1.0, 0.0]], "bias": [0.0, 0.5]},
        {"weight": [[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], "bias": [0.0, 0.0, 0.1]},
    ],
}


def write(folder: Path, record: Any) -> Path:
    path = folder / "net.json"
    path.write_text(record if isinstance(record, str) else json.dumps(record), encoding="utf-8")
    return path


def changed(path: str, value: Any) -> dict[str, Any]:
    """The record with the part at `path` changed; `...` takes it out."""
    record: Any = deepcopy(RECORD)
    *way, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    part = record
    for step in way:
        part = part[step]
    if value is ...:
        del part[last]
    else:
        part[last] = value
    return record  # type: ignore[no-any-return]


def test_it_keeps_the_contract(tmp_path: Path) -> None:
    model = RecordRuntime().open(parse(str(write(tmp_path, RECORD)))[1])
    requests = [
        Table({"무게": [9.0, -9.0], "colour": ["red", "blue"]}, 2),
        Table({"무게": [0.0], "colour": ["blue"]}, 1),
    ]
    check_runtime(model, requests)


def test_it_answers_a_class_and_how_likely_it_is(tmp_path: Path) -> None:
    model = opened(write(tmp_path, RECORD))
    answers = ask(model, 무게=[9.0, -9.0], colour=["red", "blue"])
    assert answers["result"] == ["가", "다"]
    assert all(1 / 3 < share < 1 for share in answers["probability"])
    assert model.info["parameters"] == {"float32": 17}


def test_another_target_is_a_number_or_a_yes(tmp_path: Path) -> None:
    record = changed("layers.1", {"weight": [[1.0, 0.0]], "bias": [0.0]})
    record["target"] = {"name": "price", "kind": "number", "mean": 100.0, "std": 10.0}
    (price,) = ask(opened(write(tmp_path, record)), 무게=[90.0], colour=["red"])["result"]
    assert price == pytest.approx(110.0)
    record["target"] = {"name": "ok", "kind": "binary", "classes": [0, 1]}
    assert ask(opened(write(tmp_path, record)), 무게=[90.0, -90.0], colour=["red", "red"])["result"] == [1, 0]


def test_enormous_inputs_give_finite_answers(tmp_path: Path) -> None:
    record = changed("layers", [{"weight": [[1e30, 1e30, 1e30]], "bias": [0.0]}])
    record["target"] = {"name": "ok", "kind": "binary", "classes": [0, 1]}
    answers = ask(opened(write(tmp_path, record)), 무게=[1e5, -1e5], colour=["red", "blue"])
    assert answers == {"result": [1, 0], "probability": [1.0, 0.0]}


def test_an_unknown_category_is_the_callers_fault(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="'green' is no category"):
        ask(opened(write(tmp_path, RECORD)), 무게=[1.0], colour=["green"])


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("layers", ..., "layers"),
        ("layers", [], "0 outputs|3 outputs"),
        ("layers.0.weight", [[1.0, 2.0]], "for 3 inputs"),
        ("layers.0.weight", [[1.0], [1.0, 2.0]], "inhomogeneous"),
        ("layers.0.weight", "text", "could not convert"),
        ("layers.0.bias", [0.0], "for 3 inputs"),
        ("layers.1.bias.0", float("nan"), "not finite"),
        ("layers.1.bias.0", float("inf"), "not finite"),
        ("layers.1.bias.0", None, "not finite|NoneType"),
        ("target", ..., "target"),
        ("target", "y", "indices|string"),
        ("target.classes", ["가"], "do not fit"),
        ("inputs.0.name", ..., "name"),
        ("inputs", [], "for 0 inputs"),
        ("inputs.1.categories", 5, "iterable|len"),
        ("inputs.0.std", 0, "deviation"),
        ("inputs.0.mean", float("nan"), "deviation"),
        ("inputs.0.mean", "2", "real number"),
    ],
)
def test_a_record_that_is_none_is_told_when_it_loads(tmp_path: Path, path: str, value: Any, told: str) -> None:
    with pytest.raises(LoadFailed, match=told) as caught:
        opened(write(tmp_path, changed(path, value)))
    assert "net.json" in caught.value.message
    assert caught.value.hint


def test_a_file_cut_at_any_place_is_told(tmp_path: Path) -> None:
    for name, content in (("net.json", json.dumps(RECORD).encode()), ("net.pkl", pickle.dumps(RECORD, protocol=4))):
        path = tmp_path / name
        for kept in range(0, len(content), 17):
            path.write_bytes(content[:kept])
            with pytest.raises(LoadFailed, match=name):
                opened(path)


def test_it_may_be_loaded_again_after_it_was_unloaded(tmp_path: Path) -> None:
    model = opened(write(tmp_path, RECORD))
    before = ask(model, 무게=[1.0], colour=["red"])
    model.unload()
    model.load(LoadContext())
    assert ask(model, 무게=[1.0], colour=["red"]) == before
