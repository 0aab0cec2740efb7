"""Calls wait, leave in batches, and never harm each other, whichever way the model runs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansang.core.errors import ClientGone, InvalidInput, ModelFailed, QueueFull, Unavailable
from hansang.core.model import Call
from hansang.scheduling.batcher import NOT_NOW, Batcher, QueueLimits
from house import KINDS, LISTS, WAITING, AsyncLists, Lists, call, run, until

every_kind = pytest.mark.parametrize("kind", list(KINDS))
waiting_kinds = pytest.mark.parametrize("kind", WAITING)


def submit(batcher: Batcher, asked: Call, size: int = 0) -> asyncio.Future[Any]:
    return batcher.submit(asked, len(asked.request), size)


async def ask(batcher: Batcher, *rows: Any) -> Any:
    return await submit(batcher, call(*rows))


async def settled(*futures: asyncio.Future[Any]) -> list[Any]:
    return await asyncio.gather(*futures, return_exceptions=True)


async def busy(batcher: Batcher, model: Lists) -> asyncio.Future[Any]:
    """Keep the model at work on one call, so that others queue; opening the gate ends it."""
    first = submit(batcher, call(0))
    await until(lambda: model.batches)
    return first


@every_kind
def test_a_lone_call_is_answered(kind: str) -> None:
    async def main() -> None:
        batcher = Batcher(KINDS[kind]())
        assert await ask(batcher, 1, 2, 3) == [2, 4, 6]
        assert (batcher.depth, batcher.running) == (0, 0)
        batcher.close()

    run(main)


@waiting_kinds
def test_what_queues_while_the_model_is_busy_is_the_next_batch(kind: str) -> None:
    async def main() -> None:
        model = KINDS[kind](held=True, max_batch_size=8)
        batcher = Batcher(model)
        first = await busy(batcher, model)
        others = [submit(batcher, call(n)) for n in range(1, 6)]
        assert batcher.depth == 5
        model.gate.set()
        assert await asyncio.gather(first, *others) == [[0], [2], [4], [6], [8], [10]]
        assert model.batches == [[[0]], [[1], [2], [3], [4], [5]]]
        batcher.close()

    run(main)


@waiting_kinds
def test_a_model_that_takes_one_call_gets_each_by_itself_whole(kind: str) -> None:
    async def main() -> None:
        model = KINDS[kind](held=True)
        batcher = Batcher(model)
        futures = [submit(batcher, call(*range(n))) for n in (3, 1, 5)]
        model.gate.set()
        await asyncio.gather(*futures)
        assert model.batches == [[[0, 1, 2]], [[0]], [[0, 1, 2, 3, 4]]]
        batcher.close()

    run(main)


@waiting_kinds
@pytest.mark.parametrize("leaves", [0, 1, 2, 3])
def test_a_cancelled_caller_does_not_harm_its_batch(kind: str, leaves: int) -> None:
    async def main() -> None:
        model = KINDS[kind](held=True, max_batch_size=4)
        batcher = Batcher(model)
        busy_with = await busy(batcher, model)
        calls = [call(n) for n in range(1, 5)]
        futures = [submit(batcher, one) for one in calls]
        model.gate.once()
        await busy_with
        await until(lambda: len(model.batches) == 2)
        calls[leaves].context.cancel()
        model.gate.set()
        results = await settled(*futures)
        assert isinstance(results.pop(leaves), ClientGone)
        assert results == [[2 * n] for n in range(1, 5) if n != leaves + 1]
        assert await ask(batcher, 9) == [18]
        batcher.close()

    run(main)


@waiting_kinds
def test_a_caller_whose_task_is_cancelled_does_not_harm_its_batch_either(kind: str) -> None:
    async def main() -> None:
        model = KINDS[kind](held=True, max_batch_size=4)
        batcher = Batcher(model)
        futures = [submit(batcher, call(n)) for n in range(4)]
        await until(lambda: model.batches)
        futures[0].cancel()
        futures[2].cancel()
        model.gate.set()
        results = await settled(*futures)
        assert results[1::2] == [[2], [6]]
        assert all(isinstance(result, asyncio.CancelledError) for result in results[::2])
        assert await ask(batcher, 9) == [18]
        assert batcher.running == 0
        batcher.close()

    run(main)


@waiting_kinds
def test_work_that_is_queued_for_a_caller_who_leaves_never_starts(kind: str) -> None:
    async def main() -> None:
        model = KINDS[kind](held=True, max_batch_size=2)
        batcher = Batcher(model)
        first = await busy(batcher, model)
        calls = [call("a", "b"), call("c"), call("d", "e", "f")]
        futures = [submit(batcher, one, 10) for one in calls]
        calls[0].context.cancel()
        calls[2].context.cancel()
        assert (batcher.depth, batcher._rows, batcher._bytes) == (1, 1, 10)
        model.gate.set()
        results = await settled(first, *futures)
        assert results[0] == [0]
        assert results[2] == ["cc"]
        assert isinstance(results[1], ClientGone)
        assert isinstance(results[3], ClientGone)
        assert model.batches == [[[0]], [["c"]]]
        assert (batcher.depth, batcher._rows, batcher._bytes) == (0, 0, 0)
        batcher.close()

    run(main)


def test_a_call_that_is_cancelled_before_it_is_queued_never_starts() -> None:
    async def main() -> None:
        model = Lists()
        batcher = Batcher(model)
        gone = call(1)
        gone.context.cancel()
        with pytest.raises(ClientGone):
            await submit(batcher, gone)
        assert await ask(batcher, 2) == [4]
        assert model.batches == [[[2]]]
        batcher.close()

    run(main)


@every_kind
def test_a_bad_item_fails_alone(kind: str) -> None:
    def work(row: Any) -> Any:
        return InvalidInput("not 3") if row == 3 else row

    async def main() -> None:
        model = KINDS[kind](work, held=kind != "inline", max_batch_size=8)
        batcher = Batcher(model)
        futures = [submit(batcher, call(n)) for n in range(1, 6)]
        model.gate.set()
        results = await settled(*futures)
        assert isinstance(results.pop(2), InvalidInput)
        assert results == [[1], [2], [4], [5]]
        batcher.close()

    run(main)


@waiting_kinds
def test_when_predict_raises_for_several_each_is_run_once_by_itself(kind: str) -> None:
    def work(row: Any) -> Any:
        return 1 // row

    async def main() -> None:
        model = KINDS[kind](work, held=True, max_batch_size=8)
        batcher = Batcher(model)
        first = await submitted_while_busy(batcher, model, 1)
        futures = [submit(batcher, call(row)) for row in (1, 0, 1)]
        model.gate.set()
        results = await settled(first, *futures)
        assert isinstance(results.pop(2), ModelFailed)
        assert results == [[1], [1], [1]]
        assert model.batches == [[[1]], [[1], [0], [1]], [[1]], [[0]], [[1]]]
        batcher.close()

    async def submitted_while_busy(batcher: Batcher, model: Lists, row: int) -> asyncio.Future[Any]:
        future = submit(batcher, call(row))
        await until(lambda: model.batches)
        return future

    run(main)


@waiting_kinds
def test_a_caller_who_left_is_not_run_again_when_the_batch_failed(kind: str) -> None:
    async def main() -> None:
        model = KINDS[kind](lambda row: 1 // row, held=True, max_batch_size=8)
        batcher = Batcher(model)
        calls = [call(0), call(1), call(2)]
        keeper = submit(batcher, call(1))
        await until(lambda: model.batches)
        futures = [submit(batcher, one) for one in calls]
        model.gate.once()
        await keeper
        await until(lambda: len(model.batches) == 2)
        calls[1].context.cancel()
        model.gate.set()
        results = await settled(*futures)
        assert [type(result).__name__ for result in results] == ["ModelFailed", "ClientGone", "list"]
        assert [[1]] not in model.batches[2:]
        batcher.close()

    run(main)


class Wrong(Lists):
    """Answers whatever it was told to."""

    def __init__(self, results: Any, **options: Any) -> None:
        super().__init__(**options)
        self.results = results

    def predict(self, calls: Sequence[Call]) -> Any:
        return self.results(calls)


class LazyFailure(Sequence[Any]):
    """As long as it should be, but reading it fails, as lazy datasets do."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: Any) -> Any:
        raise OSError("the disk is gone")


@pytest.mark.parametrize("placement", ["inline", "thread"])
@pytest.mark.parametrize(
    "results",
    [
        lambda calls: [],
        lambda calls: [1, 2],
        lambda calls: None,
        lambda calls: 7,
        lambda calls: LazyFailure(),
    ],
    ids=["none", "too many", "None", "a number", "lazy failure"],
)
def test_a_model_that_answers_nonsense_fails_that_call_and_goes_on(placement: Any, results: Any) -> None:
    async def main() -> None:
        model = Wrong(results, placement=placement)
        batcher = Batcher(model)
        for _ in range(2):
            with pytest.raises(ModelFailed):
                await ask(batcher, 1)
        model.results = lambda calls: [["fine"]]
        assert await ask(batcher, 1) == ["fine"]
        assert batcher.running == 0
        batcher.close()

    run(main)


def test_results_may_be_any_iterable() -> None:
    async def main() -> None:
        for results in (lambda calls: (["t"],), lambda calls: (list(one.request) for one in calls)):
            batcher = Batcher(Wrong(results))
            assert await ask(batcher, "t") == ["t"]
            batcher.close()

    run(main)


@every_kind
@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_large_request_is_answered_in_chunks_put_together_in_order(kind: str, concurrency: int) -> None:
    async def main() -> None:
        model = KINDS[kind](max_batch_size=4, concurrency=concurrency)
        batcher = Batcher(model)
        rows = list(range(101))
        assert await ask(batcher, *rows) == [2 * n for n in rows]
        assert max(len(one) for batch in model.batches for one in batch) == 4
        batcher.close()

    run(main)


def test_chunks_that_end_in_another_order_are_put_together_in_the_right_one() -> None:
    last_first = threading.Event()

    def work(row: Any) -> Any:
        if row == 0:
            assert last_first.wait(10)
        if row == 5:
            last_first.set()
        return row

    async def main() -> None:
        batcher = Batcher(Lists(work, max_batch_size=2, concurrency=3))
        assert await ask(batcher, 0, 1, 2, 3, 4, 5) == [0, 1, 2, 3, 4, 5]
        batcher.close()

    run(main)


@every_kind
def test_one_failing_chunk_fails_its_caller_and_the_rest_of_it_never_starts(kind: str) -> None:
    async def main() -> None:
        model = KINDS[kind](lambda row: 1 // row, max_batch_size=2)
        batcher = Batcher(model)
        big, small = submit(batcher, call(1, 0, 1, 1, 1, 1)), submit(batcher, call(1))
        results = await settled(big, small)
        assert isinstance(results[0], ModelFailed)
        assert results[1] == [1]
        assert [1, 1] not in [one for batch in model.batches for one in batch]
        assert (batcher.depth, batcher._rows, batcher._bytes, batcher.running) == (0, 0, 0, 0)
        batcher.close()

    run(main)


@waiting_kinds
def test_different_shapes_never_share_a_batch(kind: str) -> None:
    async def main() -> None:
        model = KINDS[kind](held=True, max_batch_size=8)
        batcher = Batcher(model)
        first = await busy(batcher, model)
        futures = [submit(batcher, call(row)) for row in (1, "a", 2.5, 2, "b", 3)]
        model.gate.set()
        await asyncio.gather(first, *futures)
        assert model.batches == [[[0]], [[1], [2], [3]], [["a"], ["b"]], [[2.5]]]
        batcher.close()

    run(main)


@waiting_kinds
def test_a_request_without_a_shape_is_run_by_itself_and_harms_nobody(kind: str) -> None:
    """A task's `shape` may fail on what a caller sends: an empty request, or one nested too deep."""

    async def main() -> None:
        model = KINDS[kind](held=True, max_batch_size=8)
        batcher = Batcher(model)
        first = await busy(batcher, model)
        futures = [submit(batcher, one) for one in (call(1), call(), call(2), call())]
        model.gate.set()
        assert await asyncio.gather(first, *futures) == [[0], [2], [], [4], []]
        assert await ask(batcher, 5) == [10]
        assert batcher.running == 0
        batcher.close()

    run(main)


@waiting_kinds
def test_a_full_queue_refuses_by_calls(kind: str) -> None:
    async def main() -> None:
        model = KINDS[kind](held=True)
        batcher = Batcher(model, QueueLimits(calls=3))
        first = await busy(batcher, model)
        futures = [submit(batcher, call(n)) for n in range(3)]
        with pytest.raises(QueueFull) as full:
            submit(batcher, call(9))
        assert full.value.status == 503
        assert full.value.headers == {"Retry-After": "1"}
        model.gate.set()
        await asyncio.gather(first, *futures)
        assert await ask(batcher, 9) == [18]
        batcher.close()

    run(main)


@waiting_kinds
def test_a_full_queue_refuses_by_bytes_but_never_what_comes_first(kind: str) -> None:
    async def main() -> None:
        model = KINDS[kind](held=True)
        batcher = Batcher(model, QueueLimits(size=100))
        first = submit(batcher, call(0), 5000)
        await until(lambda: model.batches)
        alone = submit(batcher, call(1), 101)
        with pytest.raises(QueueFull):
            submit(batcher, call(2), 1)
        model.gate.set()
        await asyncio.gather(first, alone)
        assert batcher._bytes == 0
        batcher.close()

    run(main)


@waiting_kinds
def test_closing_answers_those_who_wait_and_lets_what_runs_finish(kind: str) -> None:
    async def main() -> None:
        model = KINDS[kind](held=True)
        batcher = Batcher(model)
        first = await busy(batcher, model)
        waiting = submit(batcher, call(1))
        batcher.close()
        with pytest.raises(Unavailable):
            await waiting
        with pytest.raises(Unavailable):
            submit(batcher, call(2))
        model.gate.set()
        assert await first == [0]
        assert model.batches == [[[0]]]

    run(main)


def test_callers_who_come_in_numbers_are_gathered() -> None:
    async def main() -> None:
        model = AsyncLists(held=True, max_batch_size=3, gather=5.0)
        batcher = Batcher(model)
        first = await busy(batcher, model)
        futures = [submit(batcher, call(n)) for n in (1, 2)]
        model.gate.set()
        await asyncio.gather(first, *futures)
        assert model.batches[1:] == [[[1], [2]]]
        # The last batch held two: now a batch waits, until it is full.
        futures = [submit(batcher, call(n)) for n in (3, 4)]
        await asyncio.sleep(0.01)
        assert len(model.batches) == 2
        futures.append(submit(batcher, call(5)))
        await asyncio.gather(*futures)
        assert model.batches[2] == [[3], [4], [5]]
        batcher.close()

    run(main)


def test_a_gathering_that_nobody_joins_ends() -> None:
    async def main() -> None:
        model = AsyncLists(held=True, max_batch_size=8, gather=0.02)
        batcher = Batcher(model)
        first = await busy(batcher, model)
        futures = [submit(batcher, call(n)) for n in (1, 2)]
        model.gate.set()
        await asyncio.gather(first, *futures)
        assert await ask(batcher, 3) == [6]
        assert model.batches[2] == [[3]]
        batcher.close()

    run(main)


def test_when_all_who_were_gathered_leave_the_next_caller_is_served() -> None:
    async def main() -> None:
        model = AsyncLists(held=True, max_batch_size=8, gather=0.02)
        batcher = Batcher(model)
        first = await busy(batcher, model)
        futures = [submit(batcher, call(n)) for n in (1, 2)]
        model.gate.set()
        await asyncio.gather(first, *futures)
        gone = call(3)
        left = submit(batcher, gone)
        gone.context.cancel()
        with pytest.raises(ClientGone):
            await left
        assert await ask(batcher, 4) == [8]
        assert [[3]] not in model.batches
        batcher.close()

    run(main)


def test_an_idle_inline_model_answers_at_once_and_a_busy_one_never() -> None:
    async def main() -> None:
        batcher = Batcher(KINDS["inline"](max_batch_size=2))
        assert batcher.answer_now(call(1, 2), 2) == [2, 4]
        assert batcher.answer_now(call(1, 2, 3), 3) is NOT_NOW
        big = submit(batcher, call(1, 2, 3))
        assert batcher.answer_now(call(1), 1) is NOT_NOW
        assert await big == [2, 4, 6]
        threaded = Batcher(Lists())
        assert threaded.answer_now(call(1), 1) is NOT_NOW
        threaded.close()

    run(main)


def test_chunks_of_an_inline_model_leave_turns_to_others() -> None:
    async def main() -> None:
        model = KINDS["inline"](max_batch_size=1)
        model.max_batch_size = 2
        batcher = Batcher(model)
        big = submit(batcher, call(*range(100)))
        await asyncio.sleep(0)
        seen = len(model.batches)
        assert seen < 50, "the whole request ran in one turn of the event loop"
        await big
        batcher.close()

    run(main)


def test_a_result_that_cannot_be_put_together_fails_its_caller_alone() -> None:
    async def main() -> None:
        model = Wrong(lambda calls: [None for _ in calls], max_batch_size=2)
        batcher = Batcher(model)
        with pytest.raises(ModelFailed):
            await ask(batcher, 1, 2, 3)
        assert await ask(batcher, 1) is None
        batcher.close()

    run(main)


def test_a_model_keeps_nothing_of_the_last_request() -> None:
    import gc
    import weakref

    class Big(list[Any]):
        pass

    async def main() -> None:
        batcher = Batcher(Lists(lambda row: None))
        request = Big([1])
        seen = weakref.ref(request)
        asked = call()
        asked.request = request
        await batcher.submit(asked, 1)
        del request, asked
        await until(lambda: gc.collect() >= 0 and seen() is None)
        batcher.close()

    run(main)


@settings(deadline=None, max_examples=60)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("ask"), st.lists(st.sampled_from([1, 2, 0, "a", "bb"]), min_size=1, max_size=7)),
            st.tuples(st.just("leave"), st.integers(0, 30)),
            st.tuples(st.just("drop"), st.integers(0, 30)),
            st.tuples(st.just("wait"), st.integers(0, 2)),
        ),
        max_size=40,
    ),
    max_batch_size=st.integers(1, 5),
    concurrency=st.integers(1, 3),
    gather=st.sampled_from([0.0, 0.0005]),
    kind=st.sampled_from(["inline", "async"]),
)
def test_whatever_callers_do_everybody_is_answered_rightly_and_nothing_is_left(
    steps: list[tuple[str, Any]], max_batch_size: int, concurrency: int, gather: float, kind: str
) -> None:
    """Callers ask, leave, are cancelled; one value is refused by the model, another makes it raise."""

    def work(row: Any) -> Any:
        if row == 0:
            return InvalidInput("zero")
        if row == "bb":
            raise ValueError("bb")
        return row * 2

    async def main() -> None:
        model = KINDS[kind](work, max_batch_size=max_batch_size, concurrency=concurrency, gather=gather)
        batcher = Batcher(model, QueueLimits(calls=12))
        asked: list[tuple[Call, asyncio.Future[Any]]] = []
        for action, value in steps:
            if action == "ask":
                one = call(*value)
                try:
                    asked.append((one, submit(batcher, one, 1)))
                except QueueFull:
                    assert batcher.depth == 12
            elif action == "wait":
                for _ in range(value):
                    await asyncio.sleep(0)
            elif asked and action == "leave":
                asked[value % len(asked)][0].context.cancel()
            elif asked:
                asked[value % len(asked)][1].cancel()
        for one, future in asked:
            (result,) = await settled(future)
            assert fits(one, result), (one.request, result)
        for _ in range(50):
            await asyncio.sleep(0)
        assert (batcher.depth, batcher._rows, batcher._bytes, batcher.running) == (0, 0, 0, 0)
        assert await ask(batcher, 5) == [10]
        batcher.close()

    def fits(one: Call, result: Any) -> bool:
        if isinstance(result, list):
            return result == [row * 2 for row in one.request] and not {0, "bb"} & set(one.request)
        if isinstance(result, ClientGone):
            return one.context.error is result
        if isinstance(result, InvalidInput):
            return 0 in one.request
        if isinstance(result, ModelFailed):
            return "bb" in one.request
        return isinstance(result, asyncio.CancelledError)

    run(main)


def test_lists_are_a_task_like_any_other() -> None:
    assert LISTS.merge is not None
    assert LISTS.cut is not None
    assert LISTS.merge([LISTS.cut([1, 2, 3], 0, 2), LISTS.cut([1, 2, 3], 2, 3)]) == [1, 2, 3]
