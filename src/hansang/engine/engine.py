"""The data plane: finds the model, waits for its turn, hands back results or deltas, and leaves one trace in metrics.

It knows no protocol and no framework. However a call ends (answered, failed, cancelled, too late, refused), exactly
one record is made of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from time import monotonic
from typing import Any, TypeAlias

from hansang.core.errors import BadRequest, ClientGone, DeadlineExceeded, HansangError, QueueFull
from hansang.core.model import Call, CallContext, Task
from hansang.jobs.jobs import Job, Jobs
from hansang.registry.catalog import Catalog
from hansang.registry.registry import Entry, Registry
from hansang.scheduling.batcher import NOT_NOW, Batcher
from hansang.scheduling.deadlines import Deadlines, deadline_exceeded
from hansang.scheduling.executors import cancelled_by_us, failure
from hansang.usage.metrics import Metrics, ModelMetrics, Outcome

Train: TypeAlias = Callable[[str, Mapping[str, Any], Path | None], Awaitable[Job]]


async def _no_training(model: str, request: Mapping[str, Any], table: Path | None) -> Job:
    raise BadRequest("This server has no trainers.", hint="Start it with `hansang serve`.")


class Engine:
    """One server's data plane, on one event loop."""

    catalog: Catalog
    jobs: Jobs
    """Set by the composition root, as are `train` and `trainers`, for the control plane's routes."""

    def __init__(self, registry: Registry, metrics: Metrics) -> None:
        self.registry = registry
        self.train: Train = _no_training
        """Starts a training: (model, request, table) -> job."""
        self.trainers: Callable[[], list[dict[str, Any]]] = list
        """Tells what can be trained."""
        self.metrics = metrics
        self._deadlines = Deadlines()
        metrics.queued = self._queued

    def entry(self, name: str, task: Task) -> Entry:
        """The ready model of that name. Raises ModelNotFound, Unavailable, or BadRequest if its task is another."""
        entry = self.registry.ready(name)
        if entry.model.task is not task:
            raise BadRequest(
                f"The model {name!r} does {entry.model.task.name}, this route does {task.name}.",
                hint=f"GET /v1/models lists what is here; GET /v1/models/{name} says which routes it answers.",
                param="model",
                code="wrong_task",
            )
        return entry

    async def predict(self, entry: Entry, request: Any, context: CallContext, size: int = 0) -> Any:
        """The whole answer to one request of `size` bytes."""
        began = entry.last_used = monotonic()
        rows = entry.model.task.rows(request)
        call = Call(request, context)
        outcome: Outcome = "error"
        try:
            queue = entry.queue or await self._woken(entry, context)
            if began >= context.deadline:
                raise deadline_exceeded()
            result = queue.answer_now(call, rows)
            if result is NOT_NOW:
                self._deadlines.add(context)
                result = await queue.submit(call, rows, size)
            elif isinstance(result, HansangError):
                raise result
            if context.finished > context.deadline:
                raise deadline_exceeded()
            outcome = "ok"
            return result
        except HansangError as exc:
            outcome = _outcome(exc)
            if outcome in _OF_THE_MODEL:
                entry.last_error = exc.message
            raise
        except BaseException:
            outcome = "cancelled"
            context.cancel()
            raise
        finally:
            self._deadlines.discard(context)
            context.forget()
            self._record(entry, context, outcome, began, rows)

    async def stream(self, entry: Entry, request: Any, context: CallContext, size: int = 0) -> AsyncGenerator[Any]:
        """The answer to one request, delta by delta. Close the iterator to stop the model.

        The caller of the iterator watches the deadline: a stream is interrupted where it waits.
        """
        began = entry.last_used = monotonic()
        outcome: Outcome = "cancelled"
        call = Call(request, context)
        try:
            queue = entry.queue or await self._woken(entry, context)
            await queue.turn(call, size)
            try:
                async with aclosing(queue.deltas(call)) as deltas:
                    async for delta in deltas:
                        if context.error is not None:
                            raise context.error
                        yield delta
            except BaseException as exc:
                if isinstance(exc, GeneratorExit) or cancelled_by_us(exc):
                    raise
                raise failure(exc, call) from None
            finally:
                queue.end_turn()
            outcome = "ok"
        except HansangError as exc:
            outcome = _outcome(exc)
            if outcome in _OF_THE_MODEL:
                entry.last_error = exc.message
            raise
        finally:
            if outcome == "cancelled":
                context.cancel()
                outcome = _outcome(context.error)
            context.finished = monotonic()
            self._record(entry, context, outcome, began, 1)

    async def _woken(self, entry: Entry, context: CallContext) -> Batcher:
        """The queue of a model that idled. A caller whose time is up leaves; the load goes on for the others."""
        try:
            async with asyncio.timeout(context.deadline - monotonic()):
                return await asyncio.shield(self.registry.wake(entry))
        except TimeoutError:
            raise deadline_exceeded() from None

    def _record(self, entry: Entry, context: CallContext, outcome: Outcome, began: float, rows: int) -> None:
        metrics: ModelMetrics | None = entry.attachments.get(ModelMetrics)
        if metrics is None:
            metrics = entry.attachments[ModelMetrics] = self.metrics.model(entry.name, entry.version)
        started = context.started
        if started:
            metrics.record(outcome, rows, started - began, (context.finished or monotonic()) - started)
        else:
            metrics.record(outcome, rows, monotonic() - began, None)

    def _queued(self) -> list[tuple[str, str, int, int]]:
        return [
            (entry.name, entry.version, entry.queue.depth, entry.queue.running)
            for entry in self.registry
            if entry.queue is not None
        ]


_OF_THE_MODEL: tuple[Outcome, ...] = ("error", "deadline")
"""What tells something of the model, not of its callers."""


def _outcome(error: HansangError | None) -> Outcome:
    match error:
        case DeadlineExceeded():
            return "deadline"
        case ClientGone() | None:
            return "cancelled"
        case QueueFull():
            return "queue_full"
        case _:
            return "error"
