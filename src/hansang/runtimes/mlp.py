"""A `hansang.mlp` record, as our trainer saves it: a small network, run with numpy.

It needs no PyTorch, so what was trained with it is served by the light install too. float32, as it was trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hansang.core.artifact import card_beside
from hansang.core.errors import InvalidInput, LoadFailed
from hansang.core.model import Call, LoadContext, Model
from hansang.core.signature import Field, Signature
from hansang.tasks.tabular import TABULAR, Table

if TYPE_CHECKING:
    import numpy as np


class MLP(Model):
    """One matrix product per layer for a whole batch."""

    task = TABULAR
    max_batch_size = 256

    def __init__(self, read: Callable[[], Any], path: Path, container: str) -> None:
        self._read = read
        self.path = path
        self.container = container
        self.record: Mapping[str, Any] = {}
        self._layers: list[tuple[np.ndarray, np.ndarray]] = []

    def load(self, context: LoadContext) -> None:
        try:
            self._take(self._read())
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as exc:
            raise LoadFailed(
                f"{self.path} is not a whole hansang.mlp record: {exc!r}.",
                hint="Was it changed by hand? Train it again.",
            ) from None

    def _take(self, record: Any) -> None:
        self.record = record
        self.signature = _signature(record)
        self._layers = _layers(record)
        count = sum(weight.size + bias.size for weight, bias in self._layers)
        self.info = {
            "format": f"network of ours, {self.container}",
            "parameters": {"float32": count},
            "bytes": 4 * count,
            "file": str(self.path),
            **card_beside(self.path),
        }

    def predict(self, calls: Sequence[Call]) -> Sequence[Table]:
        columns: dict[str, list[Any]] = {}
        for column in self.record["inputs"]:
            name = column["name"]
            columns[name] = [value for call in calls for value in call.request.columns[name]]
        answers = self._answers(self._forward(self._features(columns)))
        results, start = [], 0
        for call in calls:
            stop = start + call.request.rows
            results.append(Table({name: values[start:stop] for name, values in answers.items()}, call.request.rows))
            start = stop
        return results

    def unload(self) -> None:
        self._layers = []

    def _features(self, columns: Mapping[str, Sequence[Any]]) -> np.ndarray:
        import numpy as np

        parts = []
        for column in self.record["inputs"]:
            values = columns[column["name"]]
            if "categories" in column:
                place = {label: number for number, label in enumerate(column["categories"])}
                unknown = next((value for value in values if value not in place), None)
                if unknown is not None:
                    raise InvalidInput(f"{column['name']}: {unknown!r} is no category it was trained with.")
                parts.append(np.eye(len(place))[[place[value] for value in values]])
            else:
                parts.append(((np.array(values) - column["mean"]) / column["std"])[:, None])
        return np.concatenate(parts, axis=1).astype(np.float32)

    def _forward(self, x: np.ndarray) -> np.ndarray:
        import numpy as np

        last = len(self._layers) - 1
        for number, (weight, bias) in enumerate(self._layers):
            x = x @ weight + bias
            if number < last:
                x = np.tanh(x)
        return x

    def _answers(self, out: np.ndarray) -> dict[str, list[Any]]:
        import numpy as np

        target = self.record["target"]
        if target["kind"] == "number":
            return {"result": (out[:, 0].astype(np.float64) * target["std"] + target["mean"]).tolist()}
        if target["kind"] == "binary":
            with np.errstate(over="ignore"):
                probability = 1 / (1 + np.exp(-out[:, 0]))
            return {"result": (out[:, 0] >= 0).astype(int).tolist(), "probability": probability.tolist()}
        shares = np.exp(out - out.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        labels = [target["classes"][place] for place in shares.argmax(axis=1)]
        return {"result": labels, "probability": shares.max(axis=1).tolist()}


def _layers(record: Mapping[str, Any]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights and biases. Raises ValueError if they do not follow from each other, or are not finite."""
    import numpy as np

    width = 0
    for column in record["inputs"]:
        width += len(column["categories"]) if "categories" in column else 1
        if "categories" not in column and not (isfinite(column["mean"]) and isfinite(column["std"]) and column["std"]):
            raise ValueError(f"{column['name']} has no mean and deviation to scale it with")
    layers = []
    for number, layer in enumerate(record["layers"]):
        weight, bias = np.array(layer["weight"], dtype=np.float32).T, np.array(layer["bias"], dtype=np.float32)
        if weight.ndim != 2 or weight.shape[0] != width or bias.shape != weight.shape[1:]:
            raise ValueError(f"layer {number} has weights {weight.T.shape} and biases {bias.shape} for {width} inputs")
        if not np.isfinite(weight).all() or not np.isfinite(bias).all():
            raise ValueError(f"layer {number} holds a number that is not finite")
        layers.append((weight, bias))
        width = len(bias)
    target = record["target"]
    if width != (len(target["classes"]) if target["kind"] == "class" else 1) or not layers:
        raise ValueError(f"the last layer has {width} outputs, which do not fit the target")
    return layers


def _signature(record: Mapping[str, Any]) -> Signature:
    inputs = tuple(
        Field(column["name"], "string", choices=tuple(column["categories"]))
        if "categories" in column
        else Field(column["name"], "float64")
        for column in record["inputs"]
    )
    target = record["target"]
    if target["kind"] == "number":
        return Signature(inputs, (Field("result", "float64", description=target["name"]),))
    text = isinstance(target["classes"][0], str)
    label = Field("result", "string" if text else "int64", choices=tuple(target["classes"]), description=target["name"])
    return Signature(inputs, (label, Field("probability", "float64")))
