"""Where a model's code runs: on the event loop, on threads of its own, or as tasks of the loop.

Here, and only here, `def` and `async def`, whole answers and streams are made alike. An executor runs what it is
given at once; queues and batches are the batcher's business.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from contextlib import aclosing
from queue import SimpleQueue
from typing import Any, Protocol, TypeAlias, cast

from hansang.core.errors import HansangError, ModelFailed, Unavailable
from hansang.core.model import Call, Model

log = logging.getLogger("hansang.model")

Done: TypeAlias = Callable[[Sequence[Any]], None]
_UNREAD = 256
"""How many deltas a thread may be ahead of its reader."""


class Executor(Protocol):
    """Runs one model's code."""

    inline: bool
    """Whether `run` answers before it returns."""
    outlives: bool
    """Whether the model's code may still run after its stream was closed."""

    def run(self, calls: Sequence[Call], done: Done) -> None:
        """Answer the calls and hand `done` one result or HansangError for each, on the event loop's thread."""
        ...

    def stream(self, call: Call, stopped: Callable[[], None]) -> AsyncGenerator[Any]:
        """Answer one call in deltas. Closing the generator stops the model within one step.

        Where the model may go on after that (`outlives`), `stopped` is called once it has stopped, on the event
        loop's thread.
        """
        ...

    def close(self) -> None:
        """Take no more work; what runs may finish."""
        ...


def executor_for(model: Model) -> Executor:
    """The executor that fits a model's methods and its placement."""
    predict, stream = _fitting(model, model.predict), _fitting(model, model.stream)
    if predict is stream or not model.overrides("stream"):
        return predict(model)
    return _Mixed(predict(model), stream(model)) if model.overrides("predict") else stream(model)


def _fitting(model: Model, method: Any) -> Callable[[Model], Executor]:
    if inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method):
        return AsyncExecutor
    return InlineExecutor if model.placement == "inline" else ThreadExecutor


def cancelled_by_us(exc: BaseException) -> bool:
    """Whether an exception is the house ending the task it was raised in, not the model failing."""
    task = asyncio.current_task() if isinstance(exc, asyncio.CancelledError) else None
    return task is not None and task.cancelling() > 0


def failure(exc: BaseException, call: Call) -> HansangError:
    """What a caller is told of an exception in a model. The traceback goes to the log, under the request id."""
    if isinstance(exc, HansangError):
        return exc
    request_id = call.context.request_id
    log.error("the model raised %s", type(exc).__name__, exc_info=exc, extra={"request_id": request_id})
    return ModelFailed(
        f"The model failed on this request ({request_id}).",
        hint=f"The traceback is in the server's log, under request id {request_id}.",
    )


def answer(model: Model, calls: Sequence[Call]) -> Sequence[Any]:
    """Answer the calls with a `def` model. If it raises for several, each is tried once by itself.

    Whatever it raises, `exit()` included: a model does not end the server.
    """
    try:
        if type(model).predict is not Model.predict:
            return _one_each(model.predict(calls), calls)
        return [_joined(model, call) for call in calls]
    except BaseException as exc:
        if len(calls) == 1:
            return [failure(exc, calls[0])]
    return [call.context.error or answer(model, [call])[0] for call in calls]


async def answer_async(model: Model, calls: Sequence[Call]) -> Sequence[Any]:
    """`answer` for an `async def` model."""
    try:
        if model.overrides("predict"):
            return _one_each(await model.predict(calls), calls)  # type: ignore[misc]
        return [await _joined_async(model, call) for call in calls]
    except BaseException as exc:
        if cancelled_by_us(exc):
            raise
        if len(calls) == 1:
            return [failure(exc, calls[0])]
    return [call.context.error or (await answer_async(model, [call]))[0] for call in calls]


def _one_each(results: Any, calls: Sequence[Call]) -> Sequence[Any]:
    if type(results) is not list:
        results = list(results)
    if len(results) != len(calls):
        raise RuntimeError(f"predict was given {len(calls)} calls and returned {len(results)} results")
    return results  # type: ignore[no-any-return]


def _joined(model: Model, call: Call) -> Any:
    assert model.task.join is not None, f"the task {model.task.name} has no stream"
    return model.task.join(_while_wanted(model.stream(call), call))  # type: ignore[arg-type]


def _while_wanted(deltas: Iterator[Any], call: Call) -> Iterator[Any]:
    try:
        for delta in deltas:
            call.context.check()
            yield delta
    finally:
        if isinstance(deltas, Generator):
            deltas.close()


async def _joined_async(model: Model, call: Call) -> Any:
    assert model.task.join is not None, f"the task {model.task.name} has no stream"
    parts = []
    async with aclosing(cast("AsyncGenerator[Any]", model.stream(call))) as deltas:
        async for delta in deltas:
            call.context.check()
            parts.append(delta)
    return model.task.join(parts)


def _deltas(model: Model, call: Call) -> Iterator[Any]:
    """The stream of a `def` model, made from its whole answer where it has no stream of its own."""
    if model.overrides("stream"):
        return model.stream(call)  # type: ignore[return-value]
    assert model.task.split is not None, f"the task {model.task.name} has no stream"
    (result,) = model.predict([call])  # type: ignore[misc]
    if isinstance(result, HansangError):
        raise result
    return iter(model.task.split(result))


class InlineExecutor:
    """On the event loop itself: for work of microseconds."""

    inline, outlives = True, False

    def __init__(self, model: Model) -> None:
        self.model = model

    def run(self, calls: Sequence[Call], done: Done) -> None:
        done(answer(self.model, calls))

    async def stream(self, call: Call, stopped: Callable[[], None]) -> AsyncGenerator[Any]:
        for delta in _deltas(self.model, call):
            yield delta

    def close(self) -> None:
        pass


class AsyncExecutor:
    """As tasks of the event loop, for `async def` models."""

    inline = outlives = False

    def __init__(self, model: Model) -> None:
        self.model = model
        self._tasks: set[asyncio.Task[None]] = set()

    def run(self, calls: Sequence[Call], done: Done) -> None:
        task = asyncio.get_running_loop().create_task(self._run(calls, done))
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._ended(task, calls, done))
        if len(calls) == 1:
            # Nobody else's work is in this task: when its caller leaves, it ends at its next await.
            calls[0].context.on_end(lambda error: _cancel(task))

    async def _run(self, calls: Sequence[Call], done: Done) -> None:
        try:
            results = await answer_async(self.model, calls)
        except asyncio.CancelledError:
            results = _given_up(calls)
        done(results)

    def _ended(self, task: asyncio.Task[None], calls: Sequence[Call], done: Done) -> None:
        self._tasks.discard(task)
        if task.cancelled():  # before it began
            done(_given_up(calls))

    def stream(self, call: Call, stopped: Callable[[], None]) -> AsyncGenerator[Any]:
        if self.model.overrides("stream"):
            return cast("AsyncGenerator[Any]", self.model.stream(call))
        return self._whole(call)

    async def _whole(self, call: Call) -> AsyncGenerator[Any]:
        assert self.model.task.split is not None, f"the task {self.model.task.name} has no stream"
        (result,) = await self.model.predict([call])  # type: ignore[misc]
        if isinstance(result, HansangError):
            raise result
        for delta in self.model.task.split(result):
            yield delta

    def close(self) -> None:
        pass


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()


def _given_up(calls: Sequence[Call]) -> Sequence[HansangError]:
    return [call.context.error or Unavailable("The server is stopping.", hint="Ask again later.") for call in calls]


class ThreadExecutor:
    """On daemon threads of the model's own, `concurrency` of them: for libraries that release the GIL.

    A running thread cannot be killed: past its deadline the caller is answered, and the thread works on.
    """

    inline, outlives = False, True

    def __init__(self, model: Model) -> None:
        self.model = model
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._threads = [
            threading.Thread(target=self._work, name=f"model-{id(model):x}-{n}", daemon=True)
            for n in range(model.concurrency)
        ]
        for thread in self._threads:
            thread.start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            del job  # it holds the last request

    def run(self, calls: Sequence[Call], done: Done) -> None:
        self._jobs.put(lambda: self._tell(done, answer(self.model, calls)))

    def _tell(self, callback: Callable[..., None], *args: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            log.debug("the event loop has closed; an answer nobody waits for is dropped")

    async def stream(self, call: Call, stopped: Callable[[], None]) -> AsyncGenerator[Any]:
        channel = _Channel(self._tell)
        self._jobs.put(lambda: self._pump(call, channel, stopped))
        try:
            while True:
                for delta in await channel.take():
                    if delta is _END:
                        return
                    if isinstance(delta, HansangError):
                        raise delta
                    yield delta
        finally:
            channel.closed.set()

    def _pump(self, call: Call, channel: _Channel, stopped: Callable[[], None]) -> None:
        try:
            for delta in _deltas(self.model, call):
                if not channel.put(delta):
                    return
            channel.put(_END)
        except BaseException as exc:
            channel.put(failure(exc, call))
        finally:
            self._tell(stopped)

    def close(self) -> None:
        for _ in self._threads:
            self._jobs.put(None)


class _Mixed:
    """One method is `def`, the other `async def`: whole answers go one way, streams the other."""

    def __init__(self, whole: Executor, pieces: Executor) -> None:
        self.inline, self.outlives = whole.inline, pieces.outlives
        self.run, self.stream = whole.run, pieces.stream
        self._both = whole, pieces

    def close(self) -> None:
        for executor in self._both:
            executor.close()


_END = object()


class _Channel:
    """Deltas on their way from a model's thread to the event loop, woken once for all that lie there."""

    def __init__(self, tell: Callable[..., None]) -> None:
        self._tell = tell
        self._items: list[Any] = []
        self._lock = threading.Lock()
        self._room = threading.Event()
        self._ready = asyncio.Event()
        self.closed = threading.Event()

    def put(self, delta: Any) -> bool:
        """From the thread. False once the reader has gone."""
        with self._lock:
            self._items.append(delta)
            count = len(self._items)
        if count == 1:
            self._tell(self._ready.set)
        while count >= _UNREAD and not self.closed.is_set():
            self._room.clear()
            with self._lock:
                count = len(self._items)
            if count >= _UNREAD:
                self._room.wait(0.05)
        return not self.closed.is_set()

    async def take(self) -> list[Any]:
        """From the event loop: all that lies there, at least one."""
        await self._ready.wait()
        self._ready.clear()
        with self._lock:
            items, self._items = self._items, []
        self._room.set()
        return items
