"""The perceptron's rule: what a line separates is learnt, what none does is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from hansang.core.errors import BadRequest
from hansang.jobs.jobs import Cancelled
from hansang.training.data import gate, read_dataset
from hansang.training.perceptron import PerceptronTrainer
from learning import Listening, ask, opened, train

TRAINER = PerceptronTrainer()
FORMATS = list(TRAINER.formats)


@pytest.mark.parametrize("name", ["and", "or", "nand", "nor", "not"])
def test_every_gate_that_a_line_separates_is_learnt_from_any_seed(tmp_path: Path, name: str) -> None:
    data = gate(name)
    for seed in range(20):
        trained = train(TRAINER, data, tmp_path, seed=seed)
        assert (trained.converged, trained.note, trained.metrics["accuracy"]) == (True, None, 1.0)
    columns = {column.name: values.tolist() for column, values in zip(data.inputs, data.columns, strict=True)}
    assert ask(opened(trained.file), **columns)["result"] == data.y.tolist()


@pytest.mark.parametrize("name", ["xor", "xnor"])
def test_what_no_line_separates_is_said_with_what_to_use(tmp_path: Path, name: str) -> None:
    trained = train(TRAINER, gate(name), tmp_path)
    assert not trained.converged
    assert trained.note is not None
    assert "never will" in trained.note
    assert "not linearly separable" in trained.note
    assert "`mlp`" in trained.note
    assert trained.metrics["errors"] > 0


def test_too_few_epochs_are_no_proof(tmp_path: Path) -> None:
    trained = train(TRAINER, gate("and"), tmp_path, epochs=1)
    assert not trained.converged
    assert "never" not in str(trained.note)
    rows = {"rows": [[0.3, 0], [0.4, 1], [0.5, 0], [0.6, 1]]}
    trained = train(TRAINER, read_dataset(rows, "m", None), tmp_path)
    assert "may not be linearly separable" in str(trained.note)


def test_each_epoch_is_told(tmp_path: Path) -> None:
    job = Listening()
    trained = train(TRAINER, gate("and"), tmp_path, job=job)
    assert [told["epoch"] for told in job.heard] == list(range(1, trained.metrics["epochs"] + 1))
    assert [told["errors"] for told in job.heard] == trained.metrics["errors_by_epoch"]
    last = job.heard[-1]
    assert (last["errors"], last["accuracy"], len(last["weights"])) == (0, 1.0, 2)
    assert isinstance(last["bias"], float)


def test_many_epochs_are_told_in_some_hundred_events(tmp_path: Path) -> None:
    job = Listening()
    train(TRAINER, gate("xor"), tmp_path, job=job, epochs=5000)
    assert len(job.heard) == 500


def test_a_seed_makes_the_same_weights_again_and_another_others(tmp_path: Path) -> None:
    first, again, other = (train(TRAINER, gate("and"), tmp_path, seed=seed).file.read_bytes() for seed in (5, 5, 6))
    assert first == again
    assert first != other


@pytest.mark.parametrize("saved_as", FORMATS)
@pytest.mark.parametrize("name", ["and", "not"])
def test_every_format_gives_back_the_same_numbers(tmp_path: Path, saved_as: str, name: str) -> None:
    data = gate(name)
    told = opened(train(TRAINER, data, tmp_path, seed=1).file)
    loaded = opened(train(TRAINER, data, tmp_path, seed=1, saved_as=saved_as).file)
    assert (loaded.weights, loaded.bias) == (told.weights, told.bias)  # type: ignore[attr-defined]
    assert loaded.signature == told.signature
    columns = {column.name: values.tolist() for column, values in zip(data.inputs, data.columns, strict=True)}
    assert ask(loaded, **columns)["result"] == data.y.tolist()


def test_a_cancelled_training_stops_in_the_middle(tmp_path: Path) -> None:
    job = Listening(cancel_at=3)
    with pytest.raises(Cancelled):
        train(TRAINER, gate("xor"), tmp_path, job=job, epochs=100_000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rows", [[[0, "a"], [1, "b"]], [[0, 1], [1, 2]], [["x", 0], ["y", 1]], [[0, 0.5], [1, 1.5]]])
def test_what_is_not_for_a_perceptron_says_mlp(tmp_path: Path, rows: list[list[object]]) -> None:
    with pytest.raises(BadRequest) as caught:
        train(TRAINER, read_dataset({"rows": rows}, "m", None), tmp_path)
    assert '"mlp"' in str(caught.value.hint)


def test_a_large_table_may_be_cancelled_within_an_epoch_and_is_learnt_as_one(tmp_path: Path) -> None:
    rows = [[(n * 37 % 1009) / 1009, n % 13, int(n * 37 % 1009 > 504)] for n in range(10_000)]
    data = read_dataset({"rows": rows}, "m", None)
    trained = train(TRAINER, data, tmp_path, epochs=30)
    assert trained.metrics["accuracy"] > 0.95
    job = Listening()
    job.cancel()
    with pytest.raises(Cancelled):
        train(TRAINER, data, tmp_path, job=job)
