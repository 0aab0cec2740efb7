"""A bare batcher: the least that batches well inside one process. Part of the floor, not of hansang.

One worker thread. Idle: run at once. Busy: what queues meanwhile is the next batch, and if callers come in numbers a
batch that is not full waits for more, at most `gather` seconds. No deadlines, no bounds, no cancellation, no metrics.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class Batcher:
    def __init__(self, answer: Callable[[list[Any]], list[Any]], max_batch: int, gather: float) -> None:
        self._answer = answer
        self._max_batch = max_batch
        self._gather = gather
        self._waiting: list[tuple[Any, asyncio.Future[Any]]] = []
        self._running = False
        self._last = 1
        self._timer: asyncio.Handle | None = None
        self._thread = ThreadPoolExecutor(1)

    def submit(self, sample: Any) -> asyncio.Future[Any]:
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((sample, future))
        if not self._running:
            self._plan()
        return future

    def _plan(self) -> None:
        """Start when full; otherwise soon, or after the gathering."""
        if len(self._waiting) >= self._max_batch:
            self._start()
        elif self._waiting and self._timer is None:
            loop = asyncio.get_running_loop()
            crowded = self._last > 1 and self._gather > 0
            self._timer = loop.call_later(self._gather, self._start) if crowded else loop.call_soon(self._start)

    def _start(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch, self._waiting = self._waiting[: self._max_batch], self._waiting[self._max_batch :]
        self._running, self._last = True, len(batch)
        self._thread.submit(self._work, batch, asyncio.get_running_loop())

    def _work(self, batch: list[tuple[Any, asyncio.Future[Any]]], loop: asyncio.AbstractEventLoop) -> None:
        try:
            results: list[Any] | Exception = self._answer([sample for sample, _ in batch])
        except Exception as exc:  # the worker thread must live, and the callers must hear
            results = exc
        loop.call_soon_threadsafe(self._settle, batch, results)

    def _settle(self, batch: list[tuple[Any, asyncio.Future[Any]]], results: list[Any] | Exception) -> None:
        self._running = False
        for index, (_, future) in enumerate(batch):
            if future.done():
                continue
            if isinstance(results, Exception):
                future.set_exception(results)
            else:
                future.set_result(results[index])
        self._plan()
