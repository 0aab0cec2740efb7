"""One model's queue: calls wait here for their turn, and leave in batches.

Batches count rows. Where a model takes more than one, callers' rows are joined, and a caller with more rows than fit
is answered in several batches. A model with `max_batch_size` 1 gets each call by itself, whole.

It obeys `policy` (when) and drives an executor (where). Bounded in calls and in bytes. A caller who leaves, or whose
time is up, is answered at once and never harms the batch its rows were to share; work not begun never begins.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from time import monotonic
from typing import Any

from hansang.core.errors import HansangError, QueueFull, Unavailable
from hansang.core.model import Call, Model
from hansang.scheduling.executors import InlineExecutor, answer, executor_for, failure
from hansang.scheduling.policy import BatchPolicy


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """What may wait for one model: so many calls, of so many bytes together."""

    calls: int = 1024
    size: int = 256 * 2**20


NOT_NOW: Any = object()


class _Waiter:
    """A call in the queue: how many of its rows were handed out, and the answers to those that came back."""

    __slots__ = ("call", "future", "missing", "next_row", "parts", "rows", "shape", "size", "stream")

    def __init__(self, call: Call, rows: int, size: int, future: asyncio.Future[Any], *, stream: bool = False) -> None:
        self.call = call
        self.rows = rows
        self.size = size
        self.future = future
        self.stream = stream
        self.shape: Any = None
        self.next_row = 0
        self.parts: list[Any] = []
        self.missing = 0


class _Piece:
    """Some rows of a waiter, in one batch; `index` is their place among the waiter's parts."""

    __slots__ = ("call", "index", "rows", "waiter")

    def __init__(self, waiter: _Waiter, call: Call, rows: int) -> None:
        self.waiter = waiter
        self.call = call
        self.rows = rows
        self.index = len(waiter.parts)
        waiter.parts.append(None)
        waiter.missing += 1


class Batcher:
    """Lives on one event loop. `last_batch` and `depth` are for metrics and curious people."""

    def __init__(self, model: Model, limits: QueueLimits | None = None) -> None:
        self.model = model
        self.task = model.task
        self.limits = limits or QueueLimits()
        self.policy = BatchPolicy(model.max_batch_size, model.concurrency, model.gather)
        self.executor = executor_for(model)
        self._inline = isinstance(self.executor, InlineExecutor)
        self._cuts = model.max_batch_size > 1 and model.task.cut is not None
        self._loop = asyncio.get_running_loop()
        self._queue: OrderedDict[_Waiter, None] = OrderedDict()
        self._rows = 0
        self._bytes = 0
        self._running = 0
        self._last_calls = 1
        self._could_start: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def depth(self) -> int:
        """How many calls wait."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """How many batches and streams are in flight."""
        return self._running

    def answer_now(self, call: Call, rows: int) -> Any:
        """The result (or HansangError) of one call of `rows`, if the model runs on this very thread and is idle.

        NOT_NOW: use `submit`.
        """
        if not self._inline or self._queue or self._running or (rows > self.policy.max_rows and self._cuts):
            return NOT_NOW
        context = call.context
        context.started = monotonic()
        result = answer(self.model, (call,))[0]
        context.finished = monotonic()
        return result

    async def submit(self, call: Call, size: int = 0) -> Any:
        """The result of one call. `size` is what its request weighs, in bytes.

        Raises QueueFull at once, and whatever ended the call: the model's error, its deadline, its caller's leaving.
        """
        rows = self.task.rows(call.request) if self._cuts else 1
        return await self._enqueue(call, rows, size).future

    async def stream(self, call: Call, size: int = 0) -> AsyncIterator[Any]:
        """The deltas of one call, once it has its turn; a stream takes a batch's place."""
        await self._enqueue(call, 1, size, stream=True).future
        call.context.started = monotonic()
        async with aclosing(self.executor.stream(call, self._release)) as deltas:  # type: ignore[type-var]
            async for delta in deltas:
                yield delta

    def close(self) -> None:
        """Fail what waits and take no more; what runs may finish."""
        self._closed = True
        for waiter in list(self._queue):
            self._drop(waiter, Unavailable("The model is being unloaded.", hint="Ask again in a moment."))
        self.executor.close()

    def _enqueue(self, call: Call, rows: int, size: int, *, stream: bool = False) -> _Waiter:
        if self._closed:
            raise Unavailable("The model is being unloaded.", hint="Ask again in a moment.")
        if len(self._queue) >= self.limits.calls or (self._queue and self._bytes + size > self.limits.size):
            raise QueueFull(
                f"{len(self._queue)} calls ({self._bytes} bytes) already wait for this model.",
                hint="Ask again after a second, or raise `queue_calls` or `queue_bytes` in the server's settings.",
                headers={"Retry-After": "1"},
            )
        waiter = _Waiter(call, rows, size, self._loop.create_future(), stream=stream)
        self._queue[waiter] = None
        self._rows += rows
        self._bytes += size
        call.context.on_end(lambda error: self._drop(waiter, error))
        if self._running < self.policy.concurrency:
            self._advance()
        return waiter

    def _drop(self, waiter: _Waiter, error: HansangError) -> None:
        """Answer a caller with an error and forget what was not begun for it."""
        if waiter in self._queue:
            self._leave(waiter)
        if not waiter.future.done():
            waiter.future.set_exception(error)

    def _leave(self, waiter: _Waiter) -> None:
        del self._queue[waiter]
        self._rows -= waiter.rows - waiter.next_row
        self._bytes -= waiter.size

    def _advance(self) -> None:
        """Start what may start now; set a timer if something may start later."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._queue:
            now = monotonic()
            if self._could_start is None and self._running < self.policy.concurrency:
                self._could_start = now
            start_at = self.policy.start_at(
                now=now,
                rows=self._rows,
                running=self._running,
                last_calls=self._last_calls,
                could_start=self._could_start or now,
            )
            if start_at is None:
                return
            if start_at > now:
                self._timer = self._loop.call_later(start_at - now, self._on_timer)
                return
            self._start()
            if self._inline and self._queue:
                self._timer = self._loop.call_later(0, self._advance)
                return
        self._could_start = None

    def _on_timer(self) -> None:
        """The gathering is over: as if the last batch had held one."""
        self._timer = None
        self._last_calls = 1
        self._advance()

    def _start(self) -> None:
        self._could_start = None
        self._running += 1
        first = next(iter(self._queue))
        if first.stream:
            self._leave(first)
            first.future.set_result(None)
            return
        batch = self._take(first)
        self._last_calls = len(batch)
        now = monotonic()
        for piece in batch:
            piece.call.context.started = piece.call.context.started or now
        self.executor.run([piece.call for piece in batch], lambda results: self._settle(batch, results))

    def _take(self, first: _Waiter) -> list[_Piece]:
        """The next batch: the first caller's rows, and those of the others that fit and have its shape."""
        room = self.policy.max_rows
        batch = [self._piece(first, room)]
        room -= batch[0].rows
        if room <= 0 or not self._queue:
            return batch
        shape = self.task.shape(first.call.request)
        for waiter in list(self._queue):
            if waiter is first or waiter.stream:
                continue
            if waiter.shape is None:
                waiter.shape = self.task.shape(waiter.call.request)
            if waiter.shape == shape:
                batch.append(self._piece(waiter, room))
                room -= batch[-1].rows
                if room <= 0:
                    break
        return batch

    def _piece(self, waiter: _Waiter, room: int) -> _Piece:
        """As many of a caller's rows as there is room for. A caller whose last rows are taken leaves the queue."""
        start, stop = waiter.next_row, min(waiter.next_row + room, waiter.rows)
        call = waiter.call
        if stop - start < waiter.rows:
            assert self.task.cut is not None
            call = Call(self.task.cut(call.request, start, stop), call.context)
        if stop == waiter.rows:
            self._leave(waiter)
        else:
            self._rows -= stop - start
        waiter.next_row = stop
        return _Piece(waiter, call, stop - start)

    def _settle(self, batch: Sequence[_Piece], results: Sequence[Any]) -> None:
        self._running -= 1
        now = monotonic()
        for piece, result in zip(batch, results, strict=True):
            waiter = piece.waiter
            if waiter.future.done():
                continue
            if isinstance(result, HansangError):
                self._drop(waiter, result)
                continue
            waiter.parts[piece.index] = result
            waiter.missing -= 1
            if not waiter.missing and waiter.next_row == waiter.rows:
                waiter.call.context.finished = now
                self._finish(waiter)
        if not self._inline:
            self._advance()

    def _finish(self, waiter: _Waiter) -> None:
        try:
            whole = waiter.parts[0] if len(waiter.parts) == 1 else self.task.merge(waiter.parts)  # type: ignore[misc]
        except Exception as exc:
            waiter.future.set_exception(failure(exc, waiter.call))
        else:
            waiter.future.set_result(whole)

    def _release(self) -> None:
        self._running -= 1
        self._advance()
