"""Perceptrons saved as JSON: `{"weights": [0.5, 0.5], "bias": -0.75}`.

One neuron with a step at 0: answers 1 if the weighted sum of its inputs plus the bias is at least 0, else 0
(Rosenblatt 1958). Training is not here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from operator import mul
from pathlib import Path
from typing import Any

from hansang.core.artifact import card_beside, first_bytes, looks_like
from hansang.core.errors import LoadFailed
from hansang.core.model import Call, LoadContext, Model
from hansang.core.signature import Field, Signature
from hansang.core.source import Source
from hansang.tasks.tabular import TABULAR, Table

_SHAPE = '{"weights": [0.5, 0.5], "bias": -0.75, "inputs": ["left", "right"]}'


class PerceptronRuntime:
    """Claims `*.json`."""

    name = "perceptron"
    sources = "a perceptron (*.json with weights and bias)"

    def claims(self, source: Source) -> bool:
        return source.suffix == ".json"

    def open(self, source: Source) -> Model:
        return Perceptron(source.file())


class Perceptron(Model):
    """A few multiplications: it runs on the event loop."""

    task = TABULAR
    placement = "inline"
    max_batch_size = 1024

    def __init__(self, path: Path) -> None:
        self.path = path
        self.weights: list[float] = []
        self.bias = 0.0

    def load(self, context: LoadContext) -> None:
        saved = _read(self.path)
        self.weights = [float(weight) for weight in saved["weights"]]
        self.bias = float(saved["bias"])
        names = saved.get("inputs") or default_inputs(len(self.weights))
        self.signature = Signature(
            inputs=tuple(Field(name, "float64") for name in names),
            outputs=(Field("result", "int64", choices=(0, 1)),),
        )
        self.info = {
            "format": "perceptron JSON",
            "parameters": {"float64": len(self.weights) + 1},
            "bytes": 8 * (len(self.weights) + 1),
            "file": str(self.path),
            **card_beside(self.path),
            **{key: saved[key] for key in ("title", "card") if key in saved},
        }

    def predict(self, calls: Sequence[Call]) -> Sequence[Table]:
        return [self._answer(call.request) for call in calls]

    def _answer(self, table: Table) -> Table:
        weights, bias = self.weights, self.bias
        rows = zip(*table.columns.values(), strict=True)
        return Table({"result": [1 if sum(map(mul, weights, row)) + bias >= 0 else 0 for row in rows]}, table.rows)


def default_inputs(count: int) -> list[str]:
    """`left` and `right` for two, as a gate has; `x` for one; `x1`, `x2`, ... for more."""
    return {1: ["x"], 2: ["left", "right"]}.get(count) or [f"x{n}" for n in range(1, count + 1)]


def _read(path: Path) -> dict[str, Any]:
    def wrong(what: str) -> LoadFailed:
        return LoadFailed(f"{path} is not a saved perceptron: {what}.", hint=f"Expected {_SHAPE}")

    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as exc:
        what, hint = looks_like(first_bytes(path))
        raise LoadFailed(f"{path} is not JSON text (byte {exc.start}) but {what}.", hint=hint) from None
    except json.JSONDecodeError as exc:
        raise wrong(f"it is not JSON ({exc.msg} at character {exc.pos})") from None
    except (ValueError, RecursionError):
        raise wrong("it holds a number too long, or lists too deep") from None
    if not isinstance(saved, dict):
        raise wrong(f"it holds a {type(saved).__name__}, expected an object")
    if missing := {"weights", "bias"} - saved.keys():
        raise wrong(f"{' and '.join(sorted(missing))} missing")
    weights, bias, names = saved["weights"], saved["bias"], saved.get("inputs")
    if isinstance(bias, list) and len(bias) == 1:
        saved["bias"] = bias = bias[0]
    if not isinstance(weights, list) or not weights or not all(map(_is_number, [*weights, bias])):
        raise wrong("weights must be a list of finite numbers, bias one such number")
    if names is not None and (
        not isinstance(names, list) or len(set(map(str, names))) != len(weights) or not all(map(_is_text, names))
    ):
        raise wrong(f"inputs must be {len(weights)} different names, one for each weight")
    return saved


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)
