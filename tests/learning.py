"""A trainer's surroundings for tests: a job that keeps what it is told, files of trained models, and their answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hansang.core.model import Call, CallContext, LoadContext, Model
from hansang.core.source import parse
from hansang.jobs.jobs import Event, Job, JobContext, State
from hansang.runtimes.onnx import OnnxRuntime
from hansang.runtimes.records import RecordRuntime
from hansang.runtimes.torch import TorchRuntime
from hansang.tasks.tabular import Table
from hansang.training.data import Dataset
from hansang.training.trainer import Trained, Trainer


class Listening(JobContext):
    """A job of which every event is kept in `heard`; `cancel_at` cancels it at that event."""

    def __init__(self, cancel_at: int | None = None) -> None:
        self.heard: list[Mapping[str, Any]] = []
        self._cancel_at = cancel_at
        super().__init__(Job("job_test", "train", "model", {}), self._nothing)

    def _nothing(self, job: Job, events: list[Event], state: State) -> None:
        """No database listens."""

    def event(self, kind: str, data: Mapping[str, Any], progress: float | None = None) -> None:
        super().event(kind, data, progress)
        self.heard.append(data)
        if len(self.heard) == self._cancel_at:
            self.cancel()


def train(
    trainer: Trainer,
    data: Dataset,
    folder: Path,
    *,
    seed: int = 0,
    saved_as: str = "json",
    job: JobContext | None = None,
    **options: float,
) -> Trained:
    chosen = {option.name: options.get(option.name, option.default) for option in trainer.options}
    folder.mkdir(exist_ok=True)
    return trainer.train(data, chosen, seed, saved_as, folder, job or Listening())  # type: ignore[arg-type]


def opened(path: Path, *, sample: Any = None, **options: str) -> Model:
    """The model of a file, loaded by the runtime that claims it."""
    source = parse(str(path))[1]
    source = type(source)(source.text, path=source.path, options=options)
    runtimes: Sequence[Any] = (OnnxRuntime(), RecordRuntime(), TorchRuntime())
    model = next(runtime for runtime in runtimes if runtime.claims(source)).open(source)
    assert isinstance(model, Model)
    model.load(LoadContext(sample=sample))
    return model


def ask(model: Model, **columns: list[Any]) -> dict[str, Any]:
    """What a model answers to a table, as lists."""
    table = Table(columns, len(next(iter(columns.values()))))
    (answer,) = model.predict([Call(table, CallContext("req_test", 0.0))])  # type: ignore[misc]
    if isinstance(answer, Exception):
        raise answer
    return {
        name: getattr(column, "tolist", lambda column=column: list(column))() for name, column in answer.columns.items()
    }
