"""The demo table is what its cards say: same bytes, small, as good as measured, and rebuilt by its recipes."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import Running
from hansang import demo

ROOT = Path(__file__).parent.parent
SLACK = 0.02
LOGIC = {
    "and": [0, 0, 0, 1],
    "or": [0, 1, 1, 1],
    "nand": [1, 1, 1, 0],
    "xor": [0, 1, 1, 0],
}
PAIRS = [[0, 0], [0, 1], [1, 0], [1, 1]]


def card(name: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((demo.MODELS / f"{name}.card.json").read_text(encoding="utf-8"))
    return read


@pytest.fixture
def table(serve: Callable[..., Running]) -> Running:
    return serve(*(f"{name}={path}" for name, path in demo.sources().items()))


def test_the_table_is_complete() -> None:
    assert set(demo.sources()) == {"and", "or", "not", "nand", "xor", "iris"}


def test_gates_and_xor_answer_their_truth_tables(table: Running) -> None:
    for name, expected in LOGIC.items():
        predictions = table.predict(name, *PAIRS)["predictions"]
        assert [row["result"] if isinstance(row, dict) else row for row in predictions] == expected, name
    assert table.predict("not", 0, 1) == {"predictions": [1, 0]}


def test_the_classic_route_answers_xor_with_a_bare_result(table: Running) -> None:
    assert [table.client.get(f"/predict/XOR/{a}/{b}").json()["result"] for a, b in PAIRS] == LOGIC["xor"]


def test_xor_is_as_sure_as_its_card_says(table: Running) -> None:
    rows = table.predict("xor", *PAIRS)["predictions"]
    sure = [row["probability"] if row["result"] else 1 - row["probability"] for row in rows]
    assert min(sure) == pytest.approx(card("xor")["metrics"]["least_probability"], abs=1e-3)


def test_iris_is_as_good_as_its_card_says(table: Running) -> None:
    from sklearn.datasets import load_iris
    from sklearn.model_selection import train_test_split

    data = load_iris()
    species = np.array(data.target_names)[data.target]
    _, flowers, _, expected = train_test_split(data.data, species, test_size=0.25, stratify=species, random_state=0)
    predictions = table.predict("iris", *flowers.tolist())["predictions"]
    right = np.mean([row["species"] == name for row, name in zip(predictions, expected, strict=True)])
    assert right >= card("iris")["metrics"]["accuracy"] - SLACK
    assert all(sum(row["probabilities"]) == pytest.approx(1, abs=1e-5) for row in predictions)


def test_iris_takes_its_measures_by_name(table: Running) -> None:
    flower = {"sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2}
    (prediction,) = table.predict("iris", flower)["predictions"]
    assert prediction["species"] == "setosa"


@pytest.mark.parametrize("name", demo.sources())
def test_a_card_is_of_its_model_and_complete(name: str) -> None:
    path, told = demo.sources()[name], card(name)
    data = path.read_bytes()
    assert (told["name"], told["size_bytes"]) == (name, len(data))
    assert told["sha256"] == hashlib.sha256(data).hexdigest()
    assert set(told["title"]) == {"en", "ko"}
    assert (ROOT / told["training"]["script"]).is_file()
    for key in ("version", "task", "architecture", "parameters", "data", "metrics", "limits", "licence"):
        assert told[key], key


def test_the_table_is_small() -> None:
    sizes = [path.stat().st_size for path in demo.sources().values()]
    assert max(sizes) <= 10_000_000
    assert sum(sizes) <= 20_000_000


def test_models_show_their_cards(table: Running) -> None:
    for entry in table.server.registry:
        assert entry.model.info["card"] == card(entry.name)
        assert entry.model.info["title"] == card(entry.name)["title"]["en"]


def rebuild(script: str, out: Path) -> None:
    subprocess.run([sys.executable, ROOT / "recipes" / script, "--out", out], check=True, capture_output=True)


def test_the_recipe_rebuilds_the_gates_to_the_bit(tmp_path: Path) -> None:
    rebuild("gates.py", tmp_path)
    for name in ("and", "or", "nand", "not"):
        assert (tmp_path / f"{name}.json").read_bytes() == demo.sources()[name].read_bytes()


def test_the_recipe_rebuilds_xor(tmp_path: Path) -> None:
    import onnx
    from onnx import numpy_helper

    rebuild("xor.py", tmp_path)
    built, shipped = onnx.load(tmp_path / "xor.onnx"), onnx.load(demo.sources()["xor"])
    assert built.graph.node == shipped.graph.node
    for ours, theirs in zip(built.graph.initializer, shipped.graph.initializer, strict=True):
        assert np.allclose(numpy_helper.to_array(ours), numpy_helper.to_array(theirs), atol=1e-3), ours.name
