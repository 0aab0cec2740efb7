"""One model's queue: calls wait here for their turn, and leave in batches.

Batches count rows. Where a model takes more than one, callers' rows are joined, and a caller with more rows than fit
is answered in several batches. A model with `max_batch_size` 1 gets each call by itself, whole.

It obeys `policy` (when) and drives an executor (where). Bounded in calls and in bytes. A caller who leaves, or whose
time is up, is answered at once and never harms the batch its rows were to share; work not begun never begins.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Hashable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

from hansang.core.errors import HansangError, QueueFull, Unavailable
from hansang.core.model import Call, Model
from hansang.scheduling.executors import answer, executor_for, failure
from hansang.scheduling.policy import BatchPolicy


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """What may wait for one model: so many calls, of so many bytes together."""

    calls: int = 1024
    size: int = 256 * 2**20


NOT_NOW: Any = object()


class _Waiter:
    """A call in the queue. `parts` are the answers to those of its rows that were handed out apart."""

    __slots__ = ("call", "future", "missing", "next_row", "parts", "rows", "shape", "size", "stream")

    def __init__(self, call: Call, rows: int, size: int, future: asyncio.Future[Any], stream: bool) -> None:
        self.call = call
        self.rows = rows
        self.size = size
        self.future = future
        self.stream = stream
        self.shape: Hashable = None
        self.next_row = 0
        self.parts: list[Any] | None = None
        self.missing = 0


_WHOLE = -1
"""In a batch, the place of a call that is in it with all its rows."""


class Batcher:
    """Lives on one event loop. `last_batch` and `depth` are for metrics and curious people."""

    def __init__(self, model: Model, limits: QueueLimits | None = None) -> None:
        self.model = model
        self.task = model.task
        self.limits = limits or QueueLimits()
        self.policy = BatchPolicy(model.max_batch_size, model.concurrency, model.gather)
        self.executor = executor_for(model)
        self._inline = self.executor.inline
        self._cuts = model.max_batch_size > 1 and model.task.cut is not None
        self._uniform = model.signature is not None and model.signature.uniform
        self._loop = asyncio.get_running_loop()
        self._queue: OrderedDict[_Waiter, None] = OrderedDict()
        self._rows = 0
        self._bytes = 0
        self._running = 0
        self._last_calls = 1
        self._could_start: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._empty: asyncio.Event | None = None

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

    def submit(self, call: Call, rows: int, size: int = 0) -> asyncio.Future[Any]:
        """The coming result of one call. `rows` and `size` (bytes) are what its request has.

        Raises QueueFull at once. The future fails with whatever ends the call: the model's error, its deadline, its
        caller's leaving.
        """
        return self._enqueue(call, (rows or 1) if self._cuts else 1, size, False).future

    async def turn(self, call: Call, size: int = 0) -> None:
        """Wait until one call may be streamed; a stream takes a batch's place. After it, `end_turn`, always."""
        turn = self._enqueue(call, 1, size, True).future
        try:
            await turn
        except BaseException:
            # Cancelled in the very moment its turn came: the place must not be lost.
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._release()
            raise
        if self._closed:
            self._release()
            raise _unloading()
        call.context.started = monotonic()

    def deltas(self, call: Call) -> AsyncGenerator[Any]:
        """The deltas of a call that has its turn."""
        return self.executor.stream(call, self._release)

    def end_turn(self) -> None:
        """The call was streamed, or given up."""
        if not self.executor.outlives:
            self._release()

    async def drained(self, seconds: float) -> bool:
        """Wait until nothing waits and nothing runs, at most so long. New calls are still taken: see that none come."""
        if not self._queue and not self._running:
            return True
        self._empty = asyncio.Event()
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """Fail what waits and take no more; what runs may finish."""
        self._closed = True
        for waiter in list(self._queue):
            self._drop(waiter, _unloading())
        self.executor.close()

    def _enqueue(self, call: Call, rows: int, size: int, stream: bool) -> _Waiter:
        if self._closed:
            raise _unloading()
        if len(self._queue) >= self.limits.calls or (self._queue and self._bytes + size > self.limits.size):
            raise QueueFull(
                f"{len(self._queue)} calls ({self._bytes} bytes) already wait for this model.",
                hint="Ask again after a second, or raise `queue_calls` or `queue_bytes` in the server's settings.",
                headers={"Retry-After": "1"},
            )
        waiter = _Waiter(call, rows, size, self._loop.create_future(), stream)
        self._queue[waiter] = None
        self._rows += rows
        self._bytes += size
        call.context.on_end(lambda error: self._drop(waiter, error))
        gathering = self._timer is not None and self._rows < self.policy.max_rows
        if self._running < self.policy.concurrency and not gathering:
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
        if self._empty is not None and not self._running:
            self._empty.set()

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
            if first.future.done():
                self._running -= 1  # cancelled, and about to say so
            else:
                first.future.set_result(None)
            return
        batch: list[tuple[_Waiter, int]] = []
        calls: list[Call] = []
        self._take(first, batch, calls)
        self._last_calls = len(batch)
        now = monotonic()
        for call in calls:
            call.context.started = call.context.started or now
        self.executor.run(calls, lambda results: self._settle(batch, results))

    def _take(self, first: _Waiter, batch: list[tuple[_Waiter, int]], calls: list[Call]) -> None:
        """The next batch: the first caller's rows, and those of the others that fit and have its shape."""
        room = self.policy.max_rows
        for waiter in list(self._queue):
            if waiter.stream or not (waiter is first or self._uniform or self._shape(waiter) == self._shape(first)):
                continue
            rows = waiter.rows - waiter.next_row
            if rows <= room and waiter.parts is None:
                batch.append((waiter, _WHOLE))
                calls.append(waiter.call)
                self._leave(waiter)
                waiter.next_row = rows
            else:
                rows = self._take_part(waiter, min(rows, room), batch, calls)
            room -= rows
            if room <= 0:
                break

    def _take_part(self, waiter: _Waiter, rows: int, batch: list[tuple[_Waiter, int]], calls: list[Call]) -> int:
        """Some rows of a caller who has more than there is room for. With the last ones it leaves the queue."""
        assert self.task.cut is not None
        start, stop = waiter.next_row, waiter.next_row + rows
        if waiter.parts is None:
            waiter.parts = []
        batch.append((waiter, len(waiter.parts)))
        calls.append(Call(self.task.cut(waiter.call.request, start, stop), waiter.call.context))
        waiter.parts.append(None)
        waiter.missing += 1
        if stop == waiter.rows:
            self._leave(waiter)
        else:
            self._rows -= rows
        waiter.next_row = stop
        return rows

    def _shape(self, waiter: _Waiter) -> Hashable:
        if waiter.shape is None:
            try:
                waiter.shape = self.task.shape(waiter.call.request)
            except Exception:
                waiter.shape = waiter  # nobody else's: a request without rows, or nested too deep
        return waiter.shape

    def _settle(self, batch: Sequence[tuple[_Waiter, int]], results: Sequence[Any]) -> None:
        self._running -= 1
        now = monotonic()
        for (waiter, place), result in zip(batch, results, strict=True):
            if waiter.future.done():
                continue
            if isinstance(result, HansangError):
                self._drop(waiter, result)
                continue
            waiter.call.context.finished = now
            if place == _WHOLE:
                waiter.future.set_result(result)
            else:
                self._settle_part(waiter, place, result)
        if not self._inline or self._empty is not None:
            self._advance()

    def _settle_part(self, waiter: _Waiter, place: int, result: Any) -> None:
        assert waiter.parts is not None
        assert self.task.merge is not None
        waiter.parts[place] = result
        waiter.missing -= 1
        if waiter.missing or waiter.next_row < waiter.rows:
            return
        try:
            waiter.future.set_result(self.task.merge(waiter.parts))
        except Exception as exc:
            waiter.future.set_exception(failure(exc, waiter.call))

    def _release(self) -> None:
        self._running -= 1
        self._advance()


def _unloading() -> Unavailable:
    return Unavailable("The model is being unloaded.", hint="Ask again in a moment.")
