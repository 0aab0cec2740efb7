"""The rules by which a batch starts, without a clock, a loop or a model."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hansang.scheduling.policy import BatchPolicy

NOW = 100.0
GATHER = 0.005
POLICY = BatchPolicy(max_rows=8, concurrency=2, gather=GATHER)


@pytest.mark.parametrize(
    ("policy", "rows", "running", "last_calls", "starts"),
    [
        # Rule 1: idle and somebody waits.
        (POLICY, 1, 0, 1, NOW),
        (POLICY, 100, 0, 1, NOW),
        (POLICY, 1, 1, 1, NOW),
        (POLICY, 0, 0, 1, None),
        (POLICY, 0, 0, 5, None),
        # Rule 2: busy.
        (POLICY, 1, 2, 1, None),
        (POLICY, 100, 2, 5, None),
        (POLICY, 100, 3, 5, None),
        # Rule 3: callers come in numbers.
        (POLICY, 1, 0, 2, NOW - 0.001 + GATHER),
        (POLICY, 7, 1, 2, NOW - 0.001 + GATHER),
        (POLICY, 8, 0, 2, NOW),
        (POLICY, 9, 0, 2, NOW),
        (BatchPolicy(8, 2, gather=0.0), 1, 0, 2, NOW),
        (BatchPolicy(), 1, 0, 9, NOW),
        (BatchPolicy(), 1, 1, 1, None),
    ],
)
def test_when_a_batch_starts(
    policy: BatchPolicy, rows: int, running: int, last_calls: int, starts: float | None
) -> None:
    start = policy.start_at(now=NOW, rows=rows, running=running, last_calls=last_calls, could_start=NOW - 0.001)
    assert start == (None if starts is None else pytest.approx(starts))


@dataclass
class Simulated:
    """A queue that obeys the policy, in made-up time."""

    policy: BatchPolicy
    waiting: list[float] = field(default_factory=list)
    running: list[float] = field(default_factory=list)
    last_calls: int = 1
    could_start: float | None = None
    begun: list[tuple[float, int, float]] = field(default_factory=list)
    """(when, callers, since when the first of them waited while there was room)."""

    def turn(self, now: float) -> float | None:
        self.running = [end for end in self.running if end > now]
        while self.waiting:
            if self.could_start is None and len(self.running) < self.policy.concurrency:
                self.could_start = now
            start = self.policy.start_at(
                now=now,
                rows=len(self.waiting),
                running=len(self.running),
                last_calls=self.last_calls,
                could_start=now if self.could_start is None else self.could_start,
            )
            if start is None or start > now:
                return start
            batch, self.waiting = self.waiting[: self.policy.max_rows], self.waiting[self.policy.max_rows :]
            self.begun.append((now, len(batch), now if self.could_start is None else self.could_start))
            self.last_calls, self.could_start = len(batch), None
            self.running.append(now + 10)
        return None


@given(
    arrivals=st.lists(st.integers(0, 60), min_size=1, max_size=60),
    max_rows=st.integers(1, 6),
    concurrency=st.integers(1, 3),
    gather=st.integers(0, 4),
)
def test_nobody_is_forgotten_overfed_or_kept_waiting(
    arrivals: list[int], max_rows: int, concurrency: int, gather: int
) -> None:
    queue = Simulated(BatchPolicy(max_rows, concurrency, float(gather)))
    for now in range(1200):
        queue.waiting += [float(now)] * arrivals.count(now)
        queue.turn(float(now))
        assert len(queue.running) <= concurrency
    assert sum(count for _, count, _ in queue.begun) == len(arrivals)
    for when, count, could_start in queue.begun:
        assert count <= max_rows
        assert when - could_start <= gather


@given(
    rows=st.integers(1, 50),
    running=st.integers(0, 5),
    policy=st.builds(BatchPolicy, st.integers(1, 32), st.integers(1, 4), st.floats(0, 1)),
)
def test_a_lone_caller_never_waits_for_company(rows: int, running: int, policy: BatchPolicy) -> None:
    start = policy.start_at(now=NOW, rows=rows, running=running, last_calls=1, could_start=NOW - 5)
    assert start == (NOW if running < policy.concurrency else None)


@given(st.integers(1, 50), st.integers(1, 50), st.floats(0, 1), st.floats(0, 10))
def test_no_batch_waits_longer_than_gather(rows: int, last_calls: int, gather: float, waited: float) -> None:
    policy = BatchPolicy(32, 1, gather)
    start = policy.start_at(now=NOW, rows=rows, running=0, last_calls=last_calls, could_start=NOW - waited)
    assert start is not None
    assert start <= max(NOW, NOW - waited + gather)
