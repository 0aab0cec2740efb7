"""A multilayer perceptron, trained with PyTorch: one hidden layer of tanh, Adam, cross-entropy (or squared error).

It learns what the perceptron cannot (XOR), tables with categories, several classes, and numbers. Stops early once the
loss is as small as it need be. One thread, so that a seed gives the same weights on any machine of a kind.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from hansang.core.errors import BadRequest
from hansang.jobs.jobs import JobContext
from hansang.training.adam import Adam
from hansang.training.data import Dataset
from hansang.training.onnx_graph import save_onnx
from hansang.training.saving import need_torch, save_record
from hansang.training.trainer import Option, Trained

if TYPE_CHECKING:
    import numpy as np

_ENOUGH = 0.02
"""The loss below which a gate is learnt."""
_FEW_WEIGHTS = 64
_MOST_EVENTS = 500
_MOST_MATRIX = 20
_ROW_VISITS = 4_000_000
_MOST_PARAMETERS = 2_000_000
"""As JSON, a record of so many is what the `records` runtime still opens."""


class MLPTrainer:
    """Any table."""

    name = "mlp"
    description = "A network with a hidden layer, trained with PyTorch. Learns XOR, classes and numbers."
    options = (
        Option(
            "epochs",
            None,
            1,
            100_000,
            "rounds over the data, at most; by default 500 for a gate, else as rows allow",
            whole=True,
        ),
        Option("learning_rate", None, 1e-6, 10, "Adam's step; by default 0.05 for a gate, else 0.005"),
        Option("hidden", None, 1, 4096, "units of the hidden layer; by default 8 for a gate, else 32", whole=True),
        Option("batch_size", 256, 1, 65_536, "rows for one step", whole=True),
    )
    formats = MappingProxyType(
        {"safetensors": ".safetensors", "json": ".json", "pickle": ".pkl", "torch": ".pt", "onnx": ".onnx"}
    )

    def train(
        self, data: Dataset, options: Mapping[str, float], seed: int, saved_as: str, folder: Path, job: JobContext
    ) -> Trained:
        """Runs `epochs`, or until a gate's loss is below 0.02."""
        torch = need_torch()
        began = perf_counter()
        with _one_thread(torch):
            run = _Run(torch, data, options, seed)
            losses = run.learn(job)
            record, metrics = run.record(), run.metrics(losses)
        seconds = perf_counter() - began
        file = folder / f"mlp{self.formats[saved_as]}"
        save = save_onnx(record, file) if saved_as == "onnx" else save_record(record, saved_as, file)
        converged = not data.is_gate or metrics["accuracy"] == 1.0
        note = None if converged else "It has not learnt the whole table; give it more epochs, or another seed."
        return Trained(save, seconds, metrics, converged, note)


@contextmanager
def _one_thread(torch: Any) -> Iterator[None]:
    """More threads are slower on small networks, and not reproducible."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Run:
    """One training."""

    def __init__(self, torch: Any, data: Dataset, options: Mapping[str, float], seed: int) -> None:
        self.torch = torch
        self.data = data
        self.random = torch.Generator().manual_seed(seed)
        classes = data.target.classes or ()
        outputs = len(classes) if data.target.kind == "class" else 1
        few = data.is_gate
        hidden = int(options["hidden"] or (8 if few else 32))
        _check_size(data.width, hidden, outputs)
        rows, tested = data.split(seed)
        features = torch.from_numpy(data.features())
        self.target = _target_tensor(torch, data)
        self.train_x, self.train_y = features[rows], self.target[rows]
        self.test_x, self.test_y = features[tested], self.target[tested]
        self.epochs = int(options["epochs"] or (500 if few else max(5, min(200, _ROW_VISITS // max(1, len(rows))))))
        self.batch = int(options["batch_size"])
        self.net = self._network(features.shape[1], hidden, outputs)
        rate = options["learning_rate"] or (0.05 if few else 0.005)
        self.adam = Adam(torch, self.net.parameters(), rate)
        functional = torch.nn.functional
        self.loss = {
            "binary": functional.binary_cross_entropy_with_logits,
            "class": functional.cross_entropy,
            "number": functional.mse_loss,
        }[data.target.kind]

    def _network(self, inputs: int, hidden: int, outputs: int) -> Any:
        nn = self.torch.nn
        net = nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, outputs))
        with self.torch.no_grad():
            for layer in (net[0], net[2]):
                bound = (3 / layer.in_features) ** 0.5
                layer.weight.uniform_(-bound, bound, generator=self.random)
                layer.bias.uniform_(-bound, bound, generator=self.random)
        return net

    def learn(self, job: JobContext) -> list[float]:
        """The mean loss of each epoch."""
        every = max(1, self.epochs // _MOST_EVENTS)
        losses: list[float] = []
        for epoch in range(1, self.epochs + 1):
            losses.append(self._epoch(job))
            if not math.isfinite(losses[-1]):
                raise BadRequest(
                    f"The training diverged: in epoch {epoch} the loss is no finite number.",
                    hint="Try a smaller learning_rate.",
                    param="options.learning_rate",
                    code="diverged",
                )
            enough = self.data.is_gate and losses[-1] < _ENOUGH
            if epoch % every == 0 or enough or epoch == self.epochs:
                job.event("epoch", self._told(epoch, losses[-1]), epoch / self.epochs)
            if enough:
                break
        return losses

    def _epoch(self, job: JobContext) -> float:
        rows = len(self.train_y)
        order = self.torch.randperm(rows, generator=self.random)
        total = self.torch.zeros(())
        for start in range(0, rows, self.batch):
            job.check()
            places = order[start : start + self.batch]
            loss = self.loss(self._out(self.train_x[places]), self.train_y[places])
            self.adam.step(loss)
            total += loss.detach() * len(places)
        return float(total) / rows

    def _out(self, x: Any) -> Any:
        out = self.net(x)
        return out if self.data.target.kind == "class" else out[:, 0]

    def _right(self, x: Any, y: Any) -> float:
        return float((self._said(x) == y).float().mean())

    def _said(self, x: Any) -> Any:
        with self.torch.no_grad():
            out = self._out(x)
        return out.argmax(1) if self.data.target.kind == "class" else (out >= 0).to(self.target.dtype)

    def _told(self, epoch: int, loss: float) -> dict[str, Any]:
        told: dict[str, Any] = {"epoch": epoch, "loss": round(loss, 6)}
        if self.data.target.kind != "number":
            told["accuracy"] = self._right(self.train_x, self.train_y)
            if len(self.test_y):
                told["test_accuracy"] = self._right(self.test_x, self.test_y)
        if sum(parameter.numel() for parameter in self.net.parameters()) <= _FEW_WEIGHTS:
            told["layers"] = self._layers()
        return told

    def _layers(self) -> list[dict[str, Any]]:
        return [
            {"weight": layer.weight.detach().tolist(), "bias": layer.bias.detach().tolist()}
            for layer in (self.net[0], self.net[2])
        ]

    def metrics(self, losses: list[float]) -> dict[str, Any]:
        """The figures of the version: on the rows it learnt from, and on those it never saw."""
        told: dict[str, Any] = {"epochs": len(losses), "loss": round(losses[-1], 6), "rows": len(self.train_y)}
        sets = {"": (self.train_x, self.train_y)}
        if len(self.test_y):
            sets["test_"] = (self.test_x, self.test_y)
            told["test_rows"] = len(self.test_y)
        for prefix, (x, y) in sets.items():
            if self.data.target.kind == "number":
                with self.torch.no_grad():
                    errors = (self._out(x) - y).double() * self.data.target.std
                told[f"{prefix}rmse"] = float((errors**2).mean() ** 0.5)
                spread = float(((y - y.mean()).double() ** 2).sum()) * self.data.target.std**2
                told[f"{prefix}r2"] = 1 - float((errors**2).sum()) / spread if spread else None
            else:
                told[f"{prefix}accuracy"] = self._right(x, y)
        x, y = sets.get("test_", sets[""])
        classes = self.data.target.classes
        if classes is not None and len(classes) <= _MOST_MATRIX:
            told["confusion"] = _confusion(self._said(x).long().numpy(), y.long().numpy(), len(classes))
            told["classes"] = list(classes)
        return told

    def record(self) -> dict[str, Any]:
        """All that is needed to predict, in plain numbers."""
        inputs = [
            {"name": column.name, "mean": column.mean, "std": column.std}
            if column.categories is None
            else {"name": column.name, "categories": list(column.categories)}
            for column in self.data.inputs
        ]
        target = self.data.target
        told = {"name": target.name, "kind": target.kind, "mean": target.mean, "std": target.std}
        if target.classes is not None:
            told["classes"] = list(target.classes)
        return {
            "format": "hansang.mlp",
            "inputs": inputs,
            "target": told,
            "activation": "tanh",
            "layers": self._layers(),
        }


def _check_size(inputs: int, hidden: int, outputs: int) -> None:
    count = (inputs + 1) * hidden + (hidden + 1) * outputs
    if count > _MOST_PARAMETERS:
        raise BadRequest(
            f"{inputs} inputs, {hidden} hidden units and {outputs} outputs are {count} weights, too many.",
            hint=f"At most {_MOST_PARAMETERS}; lower `hidden`, or leave out columns of many different texts.",
            param="options.hidden",
            code="invalid_value",
        )


def _target_tensor(torch: Any, data: Dataset) -> Any:
    if data.target.kind == "class":
        return torch.from_numpy(data.y).long()
    if data.target.kind == "binary":
        return torch.from_numpy(data.y).float()
    return torch.from_numpy((data.y - data.target.mean) / data.target.std).float()


def _confusion(said: np.ndarray, true: np.ndarray, classes: int) -> list[list[int]]:
    """`[true][said]`."""
    import numpy as np

    matrix = np.zeros((classes, classes), dtype=int)
    np.add.at(matrix, (true, said), 1)
    return matrix.tolist()
