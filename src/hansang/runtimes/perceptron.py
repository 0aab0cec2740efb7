"""Perceptrons: `{"weights": [0.5, 0.5], "bias": -0.75}`.

One neuron with a step at 0: answers 1 if the weighted sum of its inputs plus the bias is at least 0, else 0
(Rosenblatt 1958). Training is not here; which files hold one is `records`' business.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from operator import mul
from pathlib import Path
from typing import Any

from hansang.core.artifact import card_beside
from hansang.core.errors import LoadFailed
from hansang.core.model import Call, LoadContext, Model
from hansang.core.signature import Field, Signature
from hansang.tasks.tabular import TABULAR, Table

_SHAPE = '{"weights": [0.5, 0.5], "bias": -0.75, "inputs": ["left", "right"]}'


class Perceptron(Model):
    """A few multiplications: it runs on the event loop."""

    task = TABULAR
    placement = "inline"
    max_batch_size = 1024

    def __init__(self, read: Callable[[], Any], path: Path, container: str) -> None:
        self._read = read
        self.path = path
        self.container = container

    def load(self, context: LoadContext) -> None:
        path = self.path
        saved = _checked(self._read(), path)
        self.weights = [float(weight) for weight in saved["weights"]]
        self.bias = float(saved["bias"])
        names = saved.get("inputs") or default_inputs(len(self.weights))
        self.signature = Signature(
            inputs=tuple(Field(name, "float64") for name in names),
            outputs=(Field("result", "int64", choices=(0, 1)),),
        )
        self.info = {
            "format": f"perceptron {self.container}",
            "parameters": {"float64": len(self.weights) + 1},
            "bytes": 8 * (len(self.weights) + 1),
            "file": str(path),
            **card_beside(path),
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


def _checked(saved: Any, path: Path) -> dict[str, Any]:
    def wrong(what: str) -> LoadFailed:
        return LoadFailed(f"{path} is not a saved perceptron: {what}.", hint=f"Expected {_SHAPE}")

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
