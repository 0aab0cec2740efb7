"""One timer ends every call whose time is up, and no other."""

from __future__ import annotations

import asyncio
from time import monotonic

import pytest

from hansang.core.errors import DeadlineExceeded
from hansang.core.model import CallContext
from hansang.scheduling.deadlines import Deadlines
from house import run, until


def context(seconds: float) -> CallContext:
    return CallContext("req_test", monotonic() + seconds)


def test_calls_end_at_their_deadlines_in_whatever_order_they_came() -> None:
    async def main() -> None:
        deadlines, ended = Deadlines(), []
        for seconds in (0.08, 0.02, 60.0, 0.05):
            one = context(seconds)
            one.on_end(lambda error, seconds=seconds: ended.append((seconds, type(error))))  # type: ignore[misc]
            deadlines.add(one)
        await until(lambda: len(ended) == 3)
        assert ended == [(0.02, DeadlineExceeded), (0.05, DeadlineExceeded), (0.08, DeadlineExceeded)]

    run(main)


def test_no_call_ends_before_its_deadline() -> None:
    async def main() -> None:
        deadlines, early = Deadlines(), []
        for milliseconds in range(1, 40):
            one = context(milliseconds / 1000)
            one.on_end(lambda error, one=one: early.append(one.deadline - monotonic()))  # type: ignore[misc]
            deadlines.add(one)
        await until(lambda: len(early) == 39)
        assert max(early) <= 0.0021, "the clock of the loop counts milliseconds; more than that is early"

    run(main)


def test_a_call_that_finished_is_not_ended() -> None:
    async def main() -> None:
        deadlines = Deadlines()
        done, late = context(0.01), context(0.02)
        deadlines.add(done)
        deadlines.add(late)
        deadlines.discard(done)
        deadlines.discard(done)
        await until(lambda: late.error)
        assert done.error is None

    run(main)


def test_a_deadline_that_has_passed_ends_the_call_at_the_next_turn() -> None:
    async def main() -> None:
        deadlines, past = Deadlines(), context(-5)
        deadlines.add(past)
        await until(lambda: past.error)
        with pytest.raises(DeadlineExceeded, match="before the deadline"):
            past.check()

    run(main)


def test_ten_thousand_calls_that_came_and_went_leave_one_timer() -> None:
    async def main() -> None:
        deadlines = Deadlines()
        loop = asyncio.get_running_loop()
        before = len(loop._scheduled)  # type: ignore[attr-defined]
        for _ in range(10_000):
            one = context(60)
            deadlines.add(one)
            deadlines.discard(one)
        assert len(loop._scheduled) <= before + 1  # type: ignore[attr-defined]

    run(main)
