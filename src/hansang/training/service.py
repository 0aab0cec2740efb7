"""Training as a job: what was asked is checked, trained, saved, published as the model's next version.

The request is a mapping, from whatever asks (HTTP, command line): `trainer`, `data`, `options`, `seed`, `format`.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hansang.core.errors import BadRequest
from hansang.jobs.jobs import Job, JobContext, Jobs
from hansang.registry.catalog import Catalog
from hansang.registry.repository import Incoming, Manifest, check_name
from hansang.training.data import Dataset, read_dataset
from hansang.training.trainer import Trainer

_KEYS = ("trainer", "data", "target", "options", "seed", "format")
_SEEDS = 2**32


@dataclass(frozen=True, slots=True)
class Plan:
    """A checked request."""

    trainer: Trainer
    data: Dataset
    options: Mapping[str, float]
    seed: int
    format: str


class Training:
    """Starts trainings on one server."""

    def __init__(self, trainers: Callable[[], Mapping[str, Trainer]], jobs: Jobs, catalog: Catalog) -> None:
        self._trainers = trainers
        self._jobs = jobs
        self._catalog = catalog

    async def start(self, model: str, request: Mapping[str, Any], table: Path | None = None) -> Job:
        """Queue a training of `model`. `table` is a CSV file, removed when the job has read it. Raises BadRequest."""
        check_name(model)
        self._catalog.refuse_foreign(model)
        plan = await asyncio.to_thread(make_plan, self._trainers(), request, model, table)
        loop = asyncio.get_running_loop()
        params = {"trainer": plan.trainer.name, "options": dict(plan.options), "seed": plan.seed, "format": plan.format,
                  "data": plan.data.describe()}  # fmt: skip
        return self._jobs.submit("train", model, params, lambda job: self._run(job, plan, model, loop))

    def _run(self, job: JobContext, plan: Plan, model: str, loop: asyncio.AbstractEventLoop) -> Mapping[str, Any]:
        """On the jobs' thread."""
        with self._catalog.repository.workshop() as folder:
            trained = plan.trainer.train(plan.data, plan.options, plan.seed, plan.format, folder, job)
            job.check()
            facts = {
                "metrics": dict(trained.metrics),
                "provenance": {
                    "source": "training",
                    "job": job.job.id,
                    "seconds": round(trained.seconds, 4),
                    **job.job.params,
                },
            }
            publishing = asyncio.run_coroutine_threadsafe(self._publish(trained.file, model, facts), loop)
            manifest = publishing.result()
        return {
            "model": model,
            "version": manifest.version,
            "converged": trained.converged,
            "note": trained.note,
            "metrics": manifest.metrics,
            "seconds": round(trained.seconds, 4),
            "file": manifest.file,
            "sha256": manifest.sha256,
        }

    async def _publish(self, file: Path, model: str, facts: Mapping[str, Any]) -> Manifest:
        opened = self._catalog.repository.incoming(file.name)
        incoming = await asyncio.to_thread(opened.__enter__)
        try:
            await asyncio.to_thread(_copy, file, incoming)
            return await self._catalog.publish(incoming, model, **facts)
        finally:
            await asyncio.to_thread(opened.__exit__, None, None, None)


def make_plan(trainers: Mapping[str, Trainer], request: Mapping[str, Any], model: str, table: Path | None) -> Plan:
    """Check a request. Raises BadRequest naming what is wrong, what was expected, and the nearest right word."""
    if unknown := [key for key in request if key not in _KEYS]:
        raise _wrong(unknown[0], f"{unknown[0][:60]!r} is not known here", _near(unknown[0], _KEYS))
    data = read_dataset(request.get("data"), model, table, request.get("target"))
    name = request.get("trainer") or ("perceptron" if data.is_gate and model.lower() not in ("xor", "xnor") else "mlp")
    trainer = trainers.get(str(name))
    if trainer is None:
        raise _wrong("trainer", f"There is no trainer {str(name)[:60]!r}", _near(str(name), trainers))
    seed = request.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < _SEEDS:
        raise _wrong("seed", f"seed is {_short(seed)}", f"A whole number from 0 to {_SEEDS - 1}.")
    wanted = request.get("format") or next(iter(trainer.formats))
    if not isinstance(wanted, str) or wanted not in trainer.formats:
        raise _wrong("format", f"{trainer.name} cannot save as {_short(wanted)}", _near(str(wanted), trainer.formats))
    return Plan(trainer, data, _options(trainer, request.get("options") or {}), seed, wanted)


def _options(trainer: Trainer, given: Any) -> dict[str, float]:
    if not isinstance(given, Mapping):
        raise _wrong("options", f"options is {_short(given)}", 'An object such as {"epochs": 100}.')
    known = {option.name: option for option in trainer.options}
    for name, value in given.items():
        where = f"options.{name}"
        if name not in known:
            raise _wrong(where, f"{trainer.name} has no option {name[:60]!r}", _near(name, known))
        option = known[name]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        limits = (
            f"{option.description[0].upper()}{option.description[1:]}: {_shown(option.low)} to {_shown(option.high)}."
        )
        if not number or not option.low <= value <= option.high or (option.whole and value != int(value)):
            raise _wrong(where, f"{where} is {_short(value)}", limits)
    return {option.name: given.get(option.name, option.default) for option in trainer.options}


def describe_trainers(trainers: Mapping[str, Trainer]) -> list[dict[str, Any]]:
    """What can be trained, and what may be chosen."""
    return [
        {
            "name": trainer.name,
            "description": trainer.description,
            "formats": list(trainer.formats),
            "options": [asdict(option) for option in trainer.options],
        }
        for trainer in trainers.values()
    ]


def _shown(number: float) -> str:
    return str(int(number)) if number == int(number) else str(number)


def _short(value: Any) -> str:
    return repr(value)[:60]


def _near(word: str, known: Any) -> str:
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    there = ", ".join(known)
    return f"Did you mean {near[0]}? There are: {there}." if near else f"There are: {there}."


def _wrong(param: str, message: str, hint: str) -> BadRequest:
    return BadRequest(f"{message}.", hint=hint, param=param, code="invalid_value")


def _copy(file: Path, incoming: Incoming) -> None:
    with file.open("rb") as opened:
        while piece := opened.read(2**20):
            incoming.write(piece)
    incoming.finish()
