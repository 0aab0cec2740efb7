"""The network with a hidden layer: XOR from any seed, classes, numbers, and the same again from every format."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from hansang.core.errors import BadRequest
from hansang.jobs.jobs import Cancelled
from hansang.training.data import Dataset, gate, read_dataset
from learning import Listening, ask, opened, train

pytest.importorskip("torch")
from hansang.training.mlp import MLPTrainer

TRAINER = MLPTrainer()
FORMATS = list(TRAINER.formats)


def table(kind: str) -> Dataset:
    """A hundred rows with numbers and Korean categories, and a target of the given kind."""
    colours = ["빨강", "파랑", "초록"]
    rows: list[list[Any]] = []
    for n in range(100):
        x, colour = (n * 37 % 100) / 10 - 5, colours[n % 3]
        y = {"binary": int(x > 0), "words": "크다" if x > 0 else "작다", "digits": n % 3 + 5, "number": 1e6 + 3 * x}[
            kind
        ]
        rows.append([x, 1.7e9 + n, colour, y])
    return read_dataset({"rows": rows, "columns": ["x", "time", "colour", "y"]}, "m", None)


def rows_of(data: Dataset) -> dict[str, list[Any]]:
    columns = {}
    for column, values in zip(data.inputs, data.columns, strict=True):
        columns[column.name] = [column.categories[v] if column.categories else float(v) for v in values]
    return columns


def test_xor_is_learnt_from_twenty_of_twenty_seeds(tmp_path: Path) -> None:
    data = gate("xor")
    trained = [train(TRAINER, data, tmp_path, seed=seed) for seed in range(20)]
    assert [one.metrics["accuracy"] for one in trained] == [1.0] * 20
    assert all(one.converged and one.note is None for one in trained)


@pytest.mark.parametrize("name", ["and", "or", "nand", "nor", "xnor", "not"])
def test_every_gate_is_learnt(tmp_path: Path, name: str) -> None:
    data = gate(name)
    model = opened(train(TRAINER, data, tmp_path).file)
    assert ask(model, **rows_of(data))["result"] == data.y.tolist()


def test_a_seed_makes_the_same_network_again_and_another_another(tmp_path: Path) -> None:
    first, again, other = (train(TRAINER, gate("xor"), tmp_path, seed=s).file.read_bytes() for s in (5, 5, 2**32 - 1))
    assert first == again
    assert first != other


def test_each_epoch_is_told(tmp_path: Path) -> None:
    job = Listening()
    train(TRAINER, gate("xor"), tmp_path, job=job)
    assert [told["epoch"] for told in job.heard] == list(range(1, len(job.heard) + 1))
    assert job.heard[-1]["loss"] < job.heard[0]["loss"]
    assert job.heard[-1]["accuracy"] == 1.0
    assert len(job.heard[-1]["layers"][0]["weight"]) == 8
    assert job.job.progress > 0


@pytest.mark.parametrize("saved_as", [name for name in FORMATS if name != "onnx"])
@pytest.mark.parametrize("kind", ["binary", "words", "digits", "number"])
def test_every_format_gives_back_the_same_numbers(tmp_path: Path, saved_as: str, kind: str) -> None:
    data = table(kind)
    as_json = train(TRAINER, data, tmp_path / "a", epochs=3)
    told, other = opened(as_json.file), opened(train(TRAINER, data, tmp_path / "b", epochs=3, saved_as=saved_as).file)
    assert other.record["layers"] == json.loads(as_json.file.read_text())["layers"]  # type: ignore[attr-defined]
    assert other.signature == told.signature
    assert ask(other, **rows_of(data)) == ask(told, **rows_of(data))


@pytest.mark.parametrize("kind", ["binary", "words", "digits", "number"])
def test_onnx_answers_as_json_does_within_rounding(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("onnx")
    data = table(kind)
    told = ask(opened(train(TRAINER, data, tmp_path, epochs=3).file), **rows_of(data))
    answers = ask(opened(train(TRAINER, data, tmp_path, epochs=3, saved_as="onnx").file), **rows_of(data))
    assert answers.keys() == told.keys()
    for name, values in answers.items():
        if isinstance(values[0], float):
            assert values == pytest.approx(told[name], rel=1e-5)
        else:
            assert values == told[name]


def test_columns_named_as_parts_of_the_graph_do_no_harm_and_those_named_as_answers_are_told(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    names = ["concat_1", "constant_1", "/constant_1 x", "y"]
    data = read_dataset({"rows": [[0, 1, 2, 0], [2, 1, 0, 1]], "columns": names}, "m", None)
    columns = {"concat_1": [2.0], "constant_1": [1.0], "/constant_1 x": [0.0]}
    assert ask(opened(train(TRAINER, data, tmp_path, saved_as="onnx").file), **columns)["result"] == [1]
    for name in ("result", "probability"):
        data = read_dataset({"rows": [[0, 0], [1, 1]], "columns": [name, "y"]}, "m", None)
        assert opened(train(TRAINER, data, tmp_path).file)
        with pytest.raises(BadRequest, match=f"A column is named '{name}'"):
            train(TRAINER, data, tmp_path, saved_as="onnx")


def test_the_rows_it_never_saw_are_measured(tmp_path: Path) -> None:
    metrics = train(TRAINER, table("binary"), tmp_path, epochs=60).metrics
    assert (metrics["rows"], metrics["test_rows"]) == (80, 20)
    assert metrics["test_accuracy"] > 0.8
    assert sum(map(sum, metrics["confusion"])) == 20
    assert metrics["classes"] == [0, 1]
    metrics = train(TRAINER, table("number"), tmp_path, epochs=200).metrics
    assert metrics["test_r2"] > 0.8
    assert metrics["test_rmse"] < 5
    assert "accuracy" not in metrics


def test_figures_are_finite_where_nothing_varies(tmp_path: Path) -> None:
    rows = [[n % 7, 0.5 if n else 1.5] for n in range(60)]
    trained = train(TRAINER, read_dataset({"rows": rows}, "m", None), tmp_path, epochs=1)
    json.dumps(trained.metrics, allow_nan=False)


def test_a_cancelled_training_stops_in_the_middle(tmp_path: Path) -> None:
    job = Listening(cancel_at=2)
    with pytest.raises(Cancelled):
        train(TRAINER, table("binary"), tmp_path, job=job, epochs=100_000)
    assert list(tmp_path.iterdir()) == []


def test_a_table_not_learnt_says_so(tmp_path: Path) -> None:
    trained = train(TRAINER, gate("xor"), tmp_path, epochs=1, hidden=1)
    assert not trained.converged
    assert "more epochs" in str(trained.note)


def test_large_numbers_give_finite_figures_and_a_loss_that_is_not_finite_fails_in_words(tmp_path: Path) -> None:
    rows = [[n, (-1) ** n * 10.0 ** (n % 150)] for n in range(60)]
    data = read_dataset({"rows": rows}, "m", None)
    trained = train(TRAINER, data, tmp_path, learning_rate=10, epochs=20)
    assert all(math.isfinite(value) for value in trained.metrics.values() if isinstance(value, float))
    data.columns[0][3] = math.inf
    with pytest.raises(BadRequest, match="the loss is no finite number") as caught:
        train(TRAINER, data, tmp_path)
    assert caught.value.hint == "Try a smaller learning_rate."


def test_a_network_too_large_for_its_file_is_refused(tmp_path: Path) -> None:
    rows = [[f"t{n}", f"u{n}", n % 2] for n in range(900)]
    with pytest.raises(BadRequest, match="too many") as caught:
        train(TRAINER, read_dataset({"rows": rows}, "m", None), tmp_path, hidden=4096)
    assert "hidden" in str(caught.value.hint)


def test_the_number_of_threads_is_left_as_it_was(tmp_path: Path) -> None:
    import torch

    before = torch.get_num_threads()
    train(TRAINER, gate("and"), tmp_path)
    assert torch.get_num_threads() == before
