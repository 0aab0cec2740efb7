"""The data plane: one call in, one answer or one error out, and one record of it, however it ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from time import monotonic
from typing import Any

import pytest

from hansang.core.errors import (
    BadRequest,
    ClientGone,
    DeadlineExceeded,
    HansangError,
    InvalidInput,
    ModelFailed,
    ModelNotFound,
    QueueFull,
    Unavailable,
)
from hansang.core.model import Call, CallContext, Model, Task
from hansang.core.source import Source
from hansang.engine.engine import Engine
from hansang.registry.registry import Entry, ModelSpec, Registry
from hansang.scheduling.batcher import QueueLimits
from hansang.usage.metrics import Metrics
from house import KINDS, LISTS, STREAMS, WAITING, AsyncCounting, Counting, Lists, run, until

every_kind = pytest.mark.parametrize("kind", list(KINDS))
waiting_kinds = pytest.mark.parametrize("kind", WAITING)
every_stream = pytest.mark.parametrize("kind", list(STREAMS))


def context(seconds: float = 60.0) -> CallContext:
    return CallContext("req_test", monotonic() + seconds)


async def first_of(stream: AsyncGenerator[Any]) -> Any:
    async with aclosing(stream):
        return await anext(stream)


class Plane:
    """An engine with one model, `m`."""

    def __init__(self, model: Model, limits: QueueLimits | None = None) -> None:
        self.model = model
        self.metrics = Metrics()
        self.registry = Registry(lambda source: model, limits=limits)
        self.registry.add(ModelSpec("m", Source("m", scheme="test", rest="m")))
        self.engine = Engine(self.registry, self.metrics)

    @property
    def entry(self) -> Entry:
        return self.engine.entry("m", self.model.task)

    @property
    def outcomes(self) -> dict[str, int]:
        return self.metrics.model("m", "1").outcomes

    async def predict(self, *rows: Any, seconds: float = 60.0, size: int = 0) -> Any:
        return await self.engine.predict(self.entry, list(rows), context(seconds), size)

    def stream(self, *rows: Any, asked: CallContext | None = None) -> AsyncGenerator[Any]:
        return self.engine.stream(self.entry, list(rows), asked or context())

    def start(self, *rows: Any, **options: Any) -> asyncio.Task[Any]:
        return asyncio.ensure_future(self.predict(*rows, **options))

    def nothing_left(self) -> bool:
        queue = self.entry.queue
        assert queue is not None
        return (queue.depth, queue._rows, queue._bytes, queue.running, len(self.engine._deadlines._open)) == (0,) * 5


def with_plane(model: Model, main: Callable[[Plane], Awaitable[None]], limits: QueueLimits | None = None) -> Plane:
    """Run `main`, then see that nothing is left: no call, no slot, no deadline."""
    plane = Plane(model, limits)

    async def whole() -> None:
        await plane.registry.load("m")
        await main(plane)
        await until(plane.nothing_left)
        await plane.registry.unload("m")

    run(whole)
    return plane


@every_kind
def test_each_way_a_call_ends_is_recorded_once(kind: str) -> None:
    def work(row: Any) -> Any:
        if row == "bad":
            return InvalidInput("bad")
        return row * 2

    async def main(plane: Plane) -> None:
        assert await plane.predict(1, 2) == [2, 4]
        for rows, error in ((["bad"], InvalidInput), ([None], ModelFailed)):
            with pytest.raises(error):
                await plane.predict(*rows)
        with pytest.raises(DeadlineExceeded):
            await plane.predict(1, seconds=-1)

    plane = with_plane(KINDS[kind](work), main)
    assert plane.outcomes == {"ok": 1, "error": 2, "deadline": 1}
    assert plane.metrics.model("m", "1").rows == 5


@waiting_kinds
def test_a_deadline_while_running_is_told_at_once_and_the_result_is_dropped(kind: str) -> None:
    async def main(plane: Plane) -> None:
        with pytest.raises(DeadlineExceeded, match="before the deadline"):
            await plane.predict(1, seconds=0.02)
        # The model still holds it, and this loop is free.
        assert model.batches == [[[1]]]
        model.gate.set()
        assert await plane.predict(2) == [4]

    model = KINDS[kind](held=True)
    assert with_plane(model, main).outcomes == {"deadline": 1, "ok": 1}


@waiting_kinds
def test_a_deadline_while_queued_means_it_never_starts(kind: str) -> None:
    async def main(plane: Plane) -> None:
        first = plane.start(1)
        await until(lambda: model.batches)
        with pytest.raises(DeadlineExceeded):
            await plane.predict(2, seconds=0.02)
        model.gate.set()
        assert await first == [2]
        assert model.batches == [[[1]]]

    model = KINDS[kind](held=True)
    assert with_plane(model, main).outcomes == {"deadline": 1, "ok": 1}


def test_an_inline_answer_that_comes_too_late_is_an_error_all_the_same() -> None:
    async def main(plane: Plane) -> None:
        with pytest.raises(DeadlineExceeded):
            await plane.predict(1, seconds=0.001)

    def slow(row: Any) -> Any:
        threading.Event().wait(0.01)
        return row

    assert with_plane(KINDS["inline"](slow), main).outcomes == {"deadline": 1}


@waiting_kinds
def test_a_full_queue_is_recorded_as_such(kind: str) -> None:
    async def main(plane: Plane) -> None:
        first = plane.start(1)
        await until(lambda: model.batches)
        second = plane.start(2)
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await plane.predict(3)
        model.gate.set()
        assert await asyncio.gather(first, second) == [[2], [4]]

    model = KINDS[kind](held=True)
    assert with_plane(model, main, QueueLimits(calls=1)).outcomes == {"queue_full": 1, "ok": 2}


@waiting_kinds
@pytest.mark.parametrize("how", ["cancel the task", "cancel the call"])
def test_a_caller_who_leaves_is_recorded_as_cancelled(kind: str, how: str) -> None:
    async def main(plane: Plane) -> None:
        asked = context()
        task = asyncio.ensure_future(plane.engine.predict(plane.entry, [1], asked))
        await until(lambda: model.batches)
        if how == "cancel the task":
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            asked.cancel()
            with pytest.raises(ClientGone):
                await task
        model.gate.set()
        assert await plane.predict(2) == [4]

    model = KINDS[kind](held=True)
    assert with_plane(model, main).outcomes == {"cancelled": 1, "ok": 1}


@waiting_kinds
def test_the_last_error_of_a_model_is_the_model_s(kind: str) -> None:
    """Not that a caller left, nor that too many came."""

    async def main(plane: Plane) -> None:
        first = plane.start(1)
        await until(lambda: model.batches)
        asked = context()
        leaving = asyncio.ensure_future(plane.engine.predict(plane.entry, [2], asked))
        await asyncio.sleep(0)
        with pytest.raises(QueueFull):
            await plane.predict(3)
        asked.cancel()
        with pytest.raises(ClientGone):
            await leaving
        model.gate.set()
        await first
        assert plane.entry.last_error is None
        with pytest.raises(InvalidInput):
            await plane.predict("bad")
        assert plane.entry.last_error == "not that"

    model = KINDS[kind](lambda row: InvalidInput("not that") if row == "bad" else row, held=True)
    with_plane(model, main, QueueLimits(calls=1))


def test_an_async_model_ends_at_its_next_await_when_its_only_caller_leaves() -> None:
    async def main(plane: Plane) -> None:
        asked = context()
        task = asyncio.ensure_future(plane.engine.predict(plane.entry, [1], asked))
        await until(lambda: model.batches)
        asked.cancel()
        with pytest.raises(ClientGone):
            await task
        await until(lambda: model.ended == 1)

    model = KINDS["async"](held=True)
    with_plane(model, main)


def test_a_caller_who_leaves_before_an_async_model_took_its_first_step_frees_the_place() -> None:
    """The task is cancelled before it began: nothing of it ever runs, and still its place must come back."""

    async def main(plane: Plane) -> None:
        asked = context()
        task = asyncio.ensure_future(plane.engine.predict(plane.entry, [1], asked))
        await asyncio.sleep(0)
        assert plane.entry.queue is not None
        assert plane.entry.queue.running == 1
        asked.cancel()
        with pytest.raises(ClientGone):
            await task
        assert await plane.predict(2) == [4]
        assert model.batches == [[[2]]]

    model = KINDS["async"]()
    with_plane(model, main)


# ---- what user code may raise ----


def deeper(row: Any) -> Any:
    return deeper(row)


def raises(error: BaseException) -> Callable[[Any], Any]:
    def work(row: Any) -> Any:
        if row == "fine":
            return row
        raise error

    return work


ANYTHING = [
    ValueError("no"),
    SystemExit(1),
    KeyboardInterrupt(),
    GeneratorExit(),
    StopIteration(3),
    StopAsyncIteration(),
    MemoryError(),
    RecursionError(),
    asyncio.CancelledError(),
    TimeoutError(),
    BaseException("base"),
    BaseExceptionGroup("group", [SystemExit()]),
]
anything = pytest.mark.parametrize("error", ANYTHING, ids=lambda error: type(error).__name__)


@every_kind
@anything
def test_nothing_that_a_model_raises_stops_the_model_or_the_server(kind: str, error: BaseException) -> None:
    async def main(plane: Plane) -> None:
        for _ in range(2):
            with pytest.raises(ModelFailed, match="req_test") as failed:
                await plane.predict("bad")
            assert "no" not in str(failed.value.message).split()
        assert await plane.predict("fine") == ["fine"]

    plane = with_plane(KINDS[kind](raises(error)), main)
    assert plane.outcomes == {"error": 2, "ok": 1}


@every_kind
@anything
def test_nor_when_it_raises_for_a_batch(kind: str, error: BaseException) -> None:
    async def main(plane: Plane) -> None:
        tasks = [plane.start(row) for row in ("fine", "fine", "bad", "fine")]
        await asyncio.sleep(0)
        model.gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results.pop(2), ModelFailed)
        assert results == [["fine"]] * 3

    model = KINDS[kind](raises(error), held=kind != "inline", max_batch_size=4)
    assert with_plane(model, main).outcomes == {"error": 1, "ok": 3}


@every_stream
@pytest.mark.parametrize(
    "error", [error for error in ANYTHING if type(error) is not GeneratorExit], ids=lambda error: type(error).__name__
)
@pytest.mark.parametrize("rows", [["bad"], ["fine", "bad", "fine"]], ids=["at once", "in the middle"])
def test_nor_when_it_raises_in_a_stream(kind: str, error: BaseException, rows: list[str]) -> None:
    async def main(plane: Plane) -> None:
        stream = plane.stream(*rows)
        for row in rows[: rows.index("bad")]:
            assert await anext(stream) == row
        with pytest.raises(ModelFailed):
            await anext(stream)
        assert [delta async for delta in plane.stream("fine")] == ["fine"]

    plane = with_plane(STREAMS[kind](raises(error)), main)
    assert plane.outcomes == {"error": 1, "ok": 1}


def test_endless_recursion_in_user_code_is_that_call_s_failure() -> None:
    async def main(plane: Plane) -> None:
        with pytest.raises(ModelFailed):
            await plane.predict(1)

    for kind in KINDS.values():
        with_plane(kind(deeper), main)


def test_the_traceback_is_in_the_log_under_the_request_id_and_not_in_the_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main(plane: Plane) -> None:
        with pytest.raises(ModelFailed) as failed:
            await plane.predict("bad")
        assert "secret detail" not in f"{failed.value.message} {failed.value.hint}"

    with_plane(Lists(raises(ValueError("secret detail"))), main)
    (record,) = [record for record in caplog.records if record.name == "hansang.model"]
    assert record.request_id == "req_test"  # type: ignore[attr-defined]
    assert "secret detail" in caplog.text


# ---- streams ----


@every_stream
def test_a_joined_stream_equals_the_whole_answer(kind: str) -> None:
    async def main(plane: Plane) -> None:
        whole = await plane.predict(1, 2, 3)
        assert whole == [delta async for delta in plane.stream(1, 2, 3)] == [2, 4, 6]

    assert with_plane(STREAMS[kind](), main).outcomes == {"ok": 2}


@every_kind
def test_a_model_that_only_predicts_streams_too(kind: str) -> None:
    async def main(plane: Plane) -> None:
        assert [delta async for delta in plane.stream(1, 2)] == [2, 4]
        with pytest.raises(ModelFailed):
            assert [delta async for delta in plane.stream(None)] == []

    assert with_plane(KINDS[kind](), main).outcomes == {"ok": 1, "error": 1}


@every_kind
def test_an_error_in_a_result_s_place_ends_a_stream_too(kind: str) -> None:
    async def main(plane: Plane) -> None:
        with pytest.raises(InvalidInput):
            assert [delta async for delta in plane.stream(1)] == []

    with_plane(KINDS[kind](lambda row: InvalidInput("no")), main)


@pytest.mark.parametrize("kind", WAITING)
def test_closing_a_stream_stops_the_model_within_one_step(kind: str) -> None:
    async def main(plane: Plane) -> None:
        stream = plane.stream(*range(1000))
        model.gate.once()
        assert await anext(stream) == 0
        await stream.aclose()
        for _ in range(3):
            model.gate.once()
        await until(model.stopped.is_set)
        assert len(model.steps) <= 2
        model.gate.set()
        assert [delta async for delta in plane.stream(7)] == [14]

    model = STREAMS[kind](held=True)
    assert with_plane(model, main).outcomes == {"cancelled": 1, "ok": 1}


def test_closing_an_inline_stream_stops_it_where_it_is() -> None:
    async def main(plane: Plane) -> None:
        stream = plane.stream(*range(1000))
        assert await anext(stream) == 0
        await stream.aclose()
        assert model.steps == [0]
        assert model.stopped.is_set()

    model = STREAMS["inline"]()
    assert with_plane(model, main).outcomes == {"cancelled": 1}


@every_stream
def test_a_stream_that_is_never_begun_takes_no_place_and_leaves_no_record(kind: str) -> None:
    async def main(plane: Plane) -> None:
        await plane.stream(1).aclose()
        assert [delta async for delta in plane.stream(1)] == [2]

    assert with_plane(STREAMS[kind](), main).outcomes == {"ok": 1}


@pytest.mark.parametrize("kind", WAITING)
@pytest.mark.parametrize("how", ["task", "call", "both"])
def test_a_stream_that_leaves_the_queue_in_any_turn_of_the_loop_keeps_no_place(kind: str, how: str) -> None:
    """One place, ten streams: each leaves some turns of the loop after the place became free, and one stays."""

    async def main(plane: Plane) -> None:
        for turns in range(10):
            model = plane.model
            assert isinstance(model, Counting)
            first = plane.stream(0)
            assert await anext(first) == 0
            asked = context()
            queued = asyncio.ensure_future(first_of(plane.stream(1, asked=asked)))
            await asyncio.sleep(0)
            closing = asyncio.ensure_future(first.aclose())
            for _ in range(turns):
                await asyncio.sleep(0)
            if how != "task":
                asked.cancel()
            if how != "call":
                queued.cancel()
            await asyncio.gather(queued, closing, return_exceptions=True)
            assert [delta async for delta in plane.stream(2)] == [4]

    with_plane(STREAMS[kind](), main)


@pytest.mark.parametrize("kind", WAITING)
def test_a_place_that_frees_in_the_turn_a_queued_stream_s_task_is_cancelled_goes_to_the_next(kind: str) -> None:
    async def main(plane: Plane) -> None:
        queue = plane.entry.queue
        assert queue is not None
        await queue.turn(Call([0], context()))
        cancelled = asyncio.ensure_future(queue.turn(Call([1], context())))
        following = asyncio.ensure_future(queue.turn(Call([2], context())))
        await asyncio.sleep(0)
        cancelled.cancel()
        queue._release()
        await following
        assert queue.running == 1
        queue._release()

    with_plane(STREAMS[kind](), main)


@pytest.mark.parametrize("kind", WAITING)
def test_a_queued_stream_whose_caller_leaves_never_starts(kind: str) -> None:
    async def main(plane: Plane) -> None:
        first = plane.stream(1, 1)
        model.gate.once()
        assert await anext(first) == 2
        asked = context()
        second = asyncio.ensure_future(first_of(plane.stream(2, asked=asked)))
        await asyncio.sleep(0)
        asked.cancel()
        with pytest.raises(ClientGone):
            await second
        await first.aclose()
        model.gate.set()
        assert [delta async for delta in plane.stream(3)] == [6]
        assert 2 not in model.steps

    model = STREAMS[kind](held=True)
    assert with_plane(model, main).outcomes == {"cancelled": 2, "ok": 1}


@every_stream
def test_a_call_that_is_cancelled_ends_its_stream_at_the_next_delta(kind: str) -> None:
    async def main(plane: Plane) -> None:
        asked = context()
        stream = plane.stream(*range(1000), asked=asked)
        await anext(stream)
        asked.cancel(DeadlineExceeded("time"))
        with pytest.raises(DeadlineExceeded):
            await anext(stream)
        await until(model.stopped.is_set)

    model = STREAMS[kind]()
    assert with_plane(model, main).outcomes == {"deadline": 1}


@pytest.mark.parametrize("kind", WAITING)
def test_a_whole_answer_made_of_a_stream_stops_when_its_caller_leaves(kind: str) -> None:
    async def main(plane: Plane) -> None:
        asked = context()
        task = asyncio.ensure_future(plane.engine.predict(plane.entry, list(range(1000)), asked))
        model.gate.once()
        await until(lambda: model.steps)
        asked.cancel()
        with pytest.raises(ClientGone):
            await task
        model.gate.set()
        await until(model.stopped.is_set)
        assert len(model.steps) <= 2

    model = STREAMS[kind](held=True)
    with_plane(model, main)


def test_a_reader_that_does_not_read_stops_the_thread_and_not_the_memory() -> None:
    async def main(plane: Plane) -> None:
        stream = plane.stream(*range(100_000))
        await anext(stream)
        last = -1
        while last != len(model.steps):
            last = len(model.steps)
            await asyncio.sleep(0.05)
        assert last < 1000
        rest = [delta async for delta in stream]
        assert rest == [2 * n for n in range(1, 100_000)]

    model = Counting()
    with_plane(model, main)


def test_a_stream_from_a_thread_that_waits_for_its_reader_stops_when_the_reader_goes() -> None:
    async def main(plane: Plane) -> None:
        stream = plane.stream(*range(100_000))
        await anext(stream)
        await stream.aclose()
        await until(model.stopped.is_set)

    model = Counting()
    assert with_plane(model, main).outcomes == {"cancelled": 1}


def test_streams_and_whole_answers_share_the_places() -> None:
    async def main(plane: Plane) -> None:
        model.gate.once()
        stream = plane.stream(1, 2)
        assert await anext(stream) == 2
        whole = plane.start(5)
        await asyncio.sleep(0.01)
        assert not whole.done()
        model.gate.set()
        assert [delta async for delta in stream] == [4]
        assert await whole == [10]

    model = AsyncCounting(held=True)
    with_plane(model, main)


# ---- def and async def, mixed ----


class DefWholeAsyncPieces(Lists):
    async def stream(self, call: Call) -> Any:
        for row in call.request:
            await asyncio.sleep(0)
            yield self.work(row)


class AsyncWholeDefPieces(Counting):
    async def predict(self, calls: Sequence[Call]) -> Any:
        await asyncio.sleep(0)
        return [[self.work(row) for row in call.request] for call in calls]


@pytest.mark.parametrize("placement", ["inline", "thread"])
@pytest.mark.parametrize("make", [DefWholeAsyncPieces, AsyncWholeDefPieces])
def test_one_method_may_be_def_and_the_other_async_def(make: Callable[..., Model], placement: str) -> None:
    async def main(plane: Plane) -> None:
        assert await plane.predict(1, 2) == [2, 4]
        assert [delta async for delta in plane.stream(1, 2)] == [2, 4]
        stream = plane.stream(1, 2)
        await anext(stream)
        await stream.aclose()
        assert await plane.predict(3) == [6]

    assert with_plane(make(placement=placement), main).outcomes == {"ok": 3, "cancelled": 1}


# ---- finding the model ----


def test_a_model_of_another_task_is_refused_by_name() -> None:
    other = Task("other", request=list, result=list)

    async def main(plane: Plane) -> None:
        with pytest.raises(BadRequest, match="does lists, this route does other") as refused:
            plane.engine.entry("m", other)
        assert refused.value.code == "wrong_task"
        with pytest.raises(ModelNotFound):
            plane.engine.entry("n", LISTS)

    with_plane(Lists(), main)


@every_kind
def test_a_model_unloaded_between_finding_and_asking_is_503_not_500(kind: str) -> None:
    async def main(plane: Plane) -> None:
        entry = plane.entry
        await plane.registry.unload("m")
        with pytest.raises(Unavailable):
            await plane.engine.predict(entry, [1], context())
        with pytest.raises(Unavailable):
            await anext(plane.engine.stream(entry, [1], context()))
        await plane.registry.load("m")

    with_plane(KINDS[kind](), main)


@every_kind
def test_unloading_under_load_gives_everybody_an_answer_or_503(kind: str) -> None:
    async def main(plane: Plane) -> None:
        entry = plane.entry
        tasks = [plane.start(n) for n in range(200)]
        for _ in range(3):
            await asyncio.sleep(0)
        await plane.registry.unload("m")
        tasks += [asyncio.ensure_future(plane.engine.predict(entry, [n], context())) for n in range(5)]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for n, result in enumerate(results):
            assert result == [2 * n] or isinstance(result, Unavailable), (n, result)
        assert any(isinstance(result, Unavailable) for result in results)
        await plane.registry.load("m")
        assert await plane.predict(1) == [2]

    with_plane(KINDS[kind](), main)


@every_stream
def test_unloading_in_the_turn_a_stream_begins_leaves_nobody_waiting(kind: str) -> None:
    async def main(plane: Plane) -> None:
        for turns in range(5):
            stream = asyncio.ensure_future(first_of(plane.stream(1)))
            for _ in range(turns):
                await asyncio.sleep(0)
            await plane.registry.unload("m")
            (result,) = await asyncio.gather(stream, return_exceptions=True)
            assert result == 2 or isinstance(result, HansangError)
            await plane.registry.load("m")

    with_plane(STREAMS[kind](), main)


@waiting_kinds
def test_a_thousand_callers_who_leave_at_odd_times_leave_nothing_behind(kind: str) -> None:
    async def main(plane: Plane) -> None:
        before = len(asyncio.all_tasks())
        for round_ in range(10):
            asked = [context() for _ in range(100)]
            tasks = [asyncio.ensure_future(plane.engine.predict(plane.entry, [n], one)) for n, one in enumerate(asked)]
            for _ in range(round_ + 1):
                await asyncio.sleep(0)
            for n, one in enumerate(asked):
                if n % 3 == 0:
                    tasks[n].cancel()
                else:
                    one.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(
                isinstance(result, ClientGone | asyncio.CancelledError) or result == [2 * n]
                for n, result in enumerate(results)
            )
        await until(plane.nothing_left)
        assert await plane.predict(1) == [2]
        await until(lambda: len(asyncio.all_tasks()) == before)

    plane = with_plane(KINDS[kind](max_batch_size=7, concurrency=2), main)
    assert sum(plane.outcomes.values()) == 1001
