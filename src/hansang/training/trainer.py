"""What a trainer is: data in, an artifact and its figures out, telling each epoch.

A trainer knows no HTTP, no repository and no job queue. It is found through the entry point group
`hansang.trainers`; its name is what stands in `"trainer": "mlp"`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from hansang.jobs.jobs import JobContext

if TYPE_CHECKING:
    from hansang.training.data import Dataset


@dataclass(frozen=True, slots=True)
class Option:
    """One number a trainer lets its caller choose, with its limits (both included).

    No default: it depends on the data.
    """

    name: str
    default: float | None
    low: float
    high: float
    description: str
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Trained:
    """What came out. `note` says in words what the figures do not (why it did not converge, what to use instead)."""

    file: Path
    seconds: float
    """How long the training itself took, without loading libraries."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    converged: bool = True
    note: str | None = None


class Trainer(Protocol):
    """Trains one kind of model."""

    name: ClassVar[str]
    description: ClassVar[str]
    options: ClassVar[tuple[Option, ...]]
    formats: ClassVar[Mapping[str, str]]
    """The formats it saves in, by name, with their file endings. The first is the default."""

    def train(
        self, data: Dataset, options: Mapping[str, float], seed: int, saved_as: str, folder: Path, job: JobContext
    ) -> Trained:
        """Train on `data` and save into `folder`. Calls `job.check()` every few steps and `job.event("epoch", ...)`.

        The same data, options and seed give the same weights.
        """
        ...
