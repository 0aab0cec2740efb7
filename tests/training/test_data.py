"""What a request's data becomes, and what is told of data that cannot be learnt from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hansang.core.errors import BadRequest
from hansang.training.data import Dataset, read_dataset


def of_csv(folder: Path, text: str, target: str | None = None) -> Dataset:
    path = folder / "table.csv"
    path.write_text(text, encoding="utf-8")
    return read_dataset(None, "model", path, target)


def of_rows(rows: Any, **more: Any) -> Dataset:
    return read_dataset({"rows": rows, **more}, "model", None)


def refused(data: Any, **more: Any) -> str:
    with pytest.raises(BadRequest) as caught:
        read_dataset(data, "model", None, **more)
    assert caught.value.hint
    assert len(caught.value.message) < 400
    return f"{caught.value.message} {caught.value.hint}"


@pytest.mark.parametrize(
    ("name", "answers"),
    [
        ("and", [0, 0, 0, 1]),
        ("or", [0, 1, 1, 1]),
        ("nand", [1, 1, 1, 0]),
        ("nor", [1, 0, 0, 0]),
        ("xor", [0, 1, 1, 0]),
        ("xnor", [1, 0, 0, 1]),
        ("not", [1, 0]),
    ],
)
def test_a_gates_truth_table(name: str, answers: list[int]) -> None:
    data = read_dataset(name.upper(), "model", None)
    assert data.y.tolist() == answers
    assert data.is_gate
    assert data.target.kind == "binary"
    learnt, tested = data.split(0)
    assert (len(learnt), len(tested)) == (len(answers), 0)


def test_a_model_named_as_a_gate_is_that_gate() -> None:
    assert read_dataset(None, "XOR", None).source == "gate xor"


def test_an_unknown_gate_names_the_nearest() -> None:
    assert "Did you mean nand?" in refused("nnand")
    assert "There is no gate 'model'" in refused(None)
    assert "Gates: not, and, or," in refused("x" * 10_000)


@pytest.mark.parametrize("data", [5, True, [], [[0, 1]], {}, {"target": "y"}])
def test_data_of_another_shape_is_refused(data: Any) -> None:
    assert '{"rows"' in refused(data)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([], "empty"),
        ({}, "empty"),
        ("0,1", "empty"),
        ([[]], "data.rows[0] is []"),
        ([1, 2], "data.rows[0] is 1"),
        ([[1]], "one column only"),
        ([[0, 1], [1]], "data.rows[1] has not 2 values"),
        ([[0, 1], 5], "data.rows[1] has not 2 values"),
        ([[0, 1], {"a": 1}], "data.rows[1] has not 2 values"),
        ([{"a": 0, "y": 1}, [0, 1]], "data.rows[1] is [0, 1]"),
        ([{"a": 0, "y": 1}, {"a": 0}], "data.rows[1] has a; the first row has a, y."),
        ([{"a": 0, "y": 1}, {"a": 0, "y": 1, "z": 2}], "data.rows[1] has a, y, z"),
        ([[0, None], [1, 1]], "data.rows[0].y is None"),
        ([[0, [1]], [1, 1]], "data.rows[0].y is [1]"),
        ([[0, 1], [1, 1]], "1 in every row"),
        ([[1e300, 1], [2e300, 0]], "too large"),
        ([["a", "x"], ["b", "x"]], "one class only ('x')"),
        ([[0, 0.5], [1, 0.5]], "0.5 in every row"),
        ([[0, 0], ["", 1], [1, 1]], "The column x1 is empty in data.rows 1."),
        ([[1e308, 0], [-1e308, 1]], "too large"),
        ([list(range(2000))], "At most 1000"),
    ],
)
def test_rows_that_are_no_table_are_told_by_row(rows: Any, told: str) -> None:
    assert told in refused({"rows": rows})


@pytest.mark.parametrize("columns", ["ab", ["a"], ["a", "a"], ["a", ""], {"a": 1}, 5])
def test_columns_must_name_each_value(columns: Any) -> None:
    assert "2 different names" in refused({"rows": [[0, 1], [1, 0]], "columns": columns})


@pytest.mark.parametrize("target", ["z", 5, ["y"], {"y": 1}])
def test_a_target_that_is_no_column_names_the_columns(target: Any) -> None:
    rows = [{"height": 0, "y": 1}, {"height": 1, "y": 0}]
    assert "Columns: height, y." in refused({"rows": rows, "target": target})
    assert "Columns: height, y." in refused({"rows": rows}, target=target)


def test_a_near_target_is_named() -> None:
    assert "Did you mean height?" in refused({"rows": [{"height": 0, "y": 1}], "target": "hight"})


def test_an_unknown_part_of_data_is_named() -> None:
    assert "data.taget" in refused({"rows": [[0, 1]], "taget": "y"})


def test_rows_as_lists_and_as_objects_are_the_same() -> None:
    lists = of_rows([[1, "red", 0], [2, "blue", 1]], columns=["size", "colour", "y"])
    objects = of_rows([{"size": 1, "colour": "red", "y": 0}, {"y": 1, "colour": "blue", "size": 2}])
    assert lists.inputs == objects.inputs
    assert np.array_equal(lists.features(), objects.features())
    assert lists.y.tolist() == objects.y.tolist() == [0, 1]


def test_true_and_false_are_one_and_nought() -> None:
    data = of_rows([[True, False], [False, True]])
    assert data.target.kind == "binary"
    assert data.inputs[0].categories is None


def test_text_becomes_categories_in_korean_too(tmp_path: Path) -> None:
    data = of_csv(tmp_path, "품종,무게,크기\n푸들,3,소형\n진돗개,20,대형\n푸들,4,소형\n", "크기")
    assert data.inputs[0].categories == ("진돗개", "푸들")
    assert data.target.classes == ("대형", "소형")
    assert data.features()[:, :2].tolist() == [[0, 1], [1, 0], [0, 1]]
    told = data.describe()
    assert told["categories"] == ["품종"]
    assert told["classes"] == {"대형": 1, "소형": 2}


@pytest.mark.parametrize(
    ("values", "kind", "classes"),
    [
        (["0", "1", "1"], "binary", (0, 1)),
        (["0.0", "1.0", "1"], "binary", (0, 1)),
        (["3", "1", "2"], "class", (1, 2, 3)),
        (["a", "b", "a"], "class", ("a", "b")),
        (["0.5", "1", "2"], "number", None),
        ([str(n) for n in range(30)], "number", None),
        (["1e30", "2e30", "1"], "number", None),
    ],
)
def test_what_the_target_is(tmp_path: Path, values: list[str], kind: str, classes: Any) -> None:
    data = of_csv(tmp_path, "x,y\n" + "".join(f"{n},{value}\n" for n, value in enumerate(values)))
    assert (data.target.kind, data.target.classes) == (kind, classes)


def test_a_column_that_never_changes_does_no_harm(tmp_path: Path) -> None:
    data = of_csv(tmp_path, "a,b,y\n" + "0.1,1,0\n0.1,2,1\n" * 30)
    assert data.inputs[0].std == 1.0
    assert np.isfinite(data.features()).all()


def test_uneven_classes_are_said(tmp_path: Path) -> None:
    notes = of_csv(tmp_path, "x,y\n" + "1,0\n" * 95 + "2,1\n" * 5).describe()["notes"]
    assert "always answering 0 would be right in 95.0%" in notes[0]


def test_the_split_follows_the_seed(tmp_path: Path) -> None:
    data = of_csv(tmp_path, "x,y\n" + "".join(f"{n},{n % 2}\n" for n in range(100)))
    learnt, tested = data.split(3)
    assert (len(learnt), len(tested)) == (80, 20)
    assert sorted([*learnt, *tested]) == list(range(100))
    assert data.split(3)[1].tolist() == tested.tolist()
    assert data.split(4)[1].tolist() != tested.tolist()


def test_few_rows_are_not_split_and_it_is_said() -> None:
    data = of_rows([[0, 0], [1, 1]])
    assert [len(part) for part in data.split(0)] == [2, 0]
    assert "Fewer than 50 rows" in data.describe()["notes"][0]


def test_too_many_different_texts_are_no_categories(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="1001 different texts"):
        of_csv(tmp_path, "name,y\n" + "".join(f"n{n},{n % 2}\n" for n in range(1001)))


def test_categories_may_not_fill_the_memory(tmp_path: Path) -> None:
    rows = "".join(",".join(f"t{(n * 7 + c) % 1000}" for c in range(90)) + f",{n % 2}\n" for n in range(3000))
    data = of_csv(tmp_path, ",".join(f"c{c}" for c in range(90)) + ",y\n" + rows)
    with pytest.raises(BadRequest, match="too many"):
        data.features()
