"""The perceptron's learning rule: for each row, weights += rate * error * inputs, bias += rate * error.

It ends with the first epoch without an error, which comes if a line separates the two classes (Rosenblatt 1962,
Novikoff 1962), and never if none does: XOR. Then it says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from hansang.core.errors import BadRequest
from hansang.jobs.jobs import JobContext
from hansang.training.data import Dataset
from hansang.training.saving import save_record
from hansang.training.trainer import Option, Trained

if TYPE_CHECKING:
    import numpy as np

_FEW_WEIGHTS = 16
_MOST_EVENTS = 500
_PROOF_EPOCHS = 2000
_ROWS_AT_ONCE = 4096
"""Rows between two looks whether the job was cancelled."""


class PerceptronTrainer:
    """Two classes, 0 and 1, of rows of numbers."""

    name = "perceptron"
    description = "One neuron with a step. Learns what a straight line can separate: AND, OR, NOT, not XOR."
    options = (
        Option("epochs", 100, 1, 100_000, "rounds over the data, at most", whole=True),
        Option("learning_rate", 0.1, 1e-6, 10, "how far one error moves the weights"),
    )
    formats = MappingProxyType({"json": ".json", "pickle": ".pkl", "safetensors": ".safetensors", "torch": ".pt"})

    def train(
        self, data: Dataset, options: Mapping[str, float], seed: int, saved_as: str, folder: Path, job: JobContext
    ) -> Trained:
        """Runs until an epoch has no error, at most `epochs`."""
        import numpy as np

        self._check(data)
        began = perf_counter()
        x, y = np.stack(data.columns, axis=1), data.y
        random = np.random.default_rng(seed)
        weights: Any = random.random(x.shape[1])
        bias = float(random.random())
        epochs, rate = int(options["epochs"]), options["learning_rate"]
        every = max(1, epochs // _MOST_EVENTS)
        history = []
        for epoch in range(1, epochs + 1):
            errors = 0
            for start in range(0, len(y), _ROWS_AT_ONCE):
                job.check()
                part = slice(start, start + _ROWS_AT_ONCE)
                bias, wrong = _epoch(x[part], y[part], weights, bias, rate)
                errors += wrong
            history.append(errors)
            if epoch % every == 0 or errors == 0 or epoch == epochs:
                told: dict[str, Any] = {"epoch": epoch, "errors": errors, "accuracy": 1 - errors / len(y)}
                if len(weights) <= _FEW_WEIGHTS:
                    told |= {"weights": weights.tolist(), "bias": bias}
                job.event("epoch", told, epoch / epochs)
            if errors == 0:
                break
        record = {
            "format": "hansang.perceptron",
            "inputs": [column.name for column in data.inputs],
            "weights": weights.tolist(),
            "bias": bias,
        }
        file = save_record(record, saved_as, folder / f"perceptron{self.formats[saved_as]}")
        right = float(((x @ weights + bias >= 0) == y).mean())
        metrics = {
            "epochs": len(history),
            "errors": history[-1],
            "accuracy": right,
            "errors_by_epoch": history[:_MOST_EVENTS],
        }
        note = None if history[-1] == 0 else _why_not(x, y, epochs)
        return Trained(file, perf_counter() - began, metrics, converged=history[-1] == 0, note=note)

    def _check(self, data: Dataset) -> None:
        if data.target.kind != "binary":
            raise _use_mlp(f"{data.target.name} is not 0 or 1 in every row")
        if categories := [column.name for column in data.inputs if column.categories is not None]:
            raise _use_mlp(f"{categories[0]} holds text")


def _epoch(x: np.ndarray, y: np.ndarray, weights: np.ndarray, bias: float, rate: float) -> tuple[float, int]:
    """Goes over the rows, in order; changes `weights`. Returns the bias and how many rows were wrong."""
    errors = 0
    for row, wanted in zip(x, y.tolist(), strict=True):
        error = wanted - (1 if float(row @ weights) + bias >= 0 else 0)
        if error:
            weights += rate * error * row
            bias += rate * error
            errors += 1
    return bias, errors


def _why_not(x: np.ndarray, y: np.ndarray, epochs: int) -> str:
    if _cycles(x, y):
        return (
            f"It did not converge in {epochs} epochs, and never will: no straight line separates the two classes "
            "(the data is not linearly separable). Train it with the trainer `mlp`, which has a hidden layer."
        )
    return (
        f"It did not converge in {epochs} epochs. If more epochs do not help, the classes may not be linearly "
        "separable: use the trainer `mlp`."
    )


def _cycles(x: np.ndarray, y: np.ndarray) -> bool:
    """Whether no line separates the classes, proved for tables of 0 and 1.

    With whole numbers the rule is exact, and one round depends on nothing but the weights it begins with: weights
    that come again come again for ever.
    """
    if len(x) > 256 or not ((x == 0) | (x == 1)).all():
        return False
    rows = [([int(value) for value in row], int(wanted)) for row, wanted in zip(x, y, strict=True)]
    weights, bias = [0] * x.shape[1], 0
    seen = set()
    for _ in range(_PROOF_EPOCHS):
        state = (*weights, bias)
        if state in seen:
            return True
        seen.add(state)
        wrong = False
        for row, wanted in rows:
            total = sum(w * value for w, value in zip(weights, row, strict=True)) + bias
            if error := wanted - (1 if total >= 0 else 0):
                weights = [w + error * value for w, value in zip(weights, row, strict=True)]
                bias += error
                wrong = True
        if not wrong:
            return False
    return False


def _use_mlp(why: str) -> BadRequest:
    return BadRequest(
        f"A perceptron tells 0 from 1 by numbers; {why}.",
        hint='Use the trainer "mlp", which takes categories and any number of classes.',
        param="trainer",
        code="invalid_data",
    )
