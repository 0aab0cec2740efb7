"""Decides when the next batch of one model starts.

It decides; it does not run. No clock, no event loop, no queue, no model: the caller tells it what is waiting and what
time it is.

Rule 1  Idle and somebody waits: start at once.
Rule 2  Busy: what queues meanwhile is the next batch.
Rule 3  Only while callers come in numbers (the last batch held more than one) may a batch that is not full wait for
        more, at most `gather` seconds after it could have started. A lone caller never waits.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """`max_rows` fit one batch, `concurrency` batches run at a time, `gather` is in seconds."""

    max_rows: int = 1
    concurrency: int = 1
    gather: float = 0.0

    def start_at(self, *, now: float, rows: int, running: int, last_calls: int, could_start: float) -> float | None:
        """The time the next batch starts: `now` or earlier means at once, None means not before another ends.

        `rows` wait, `running` batches run, the last one held `last_calls` callers, and since `could_start` somebody
        has been waiting while there was room to run.
        """
        if rows == 0 or running >= self.concurrency:
            return None
        if rows >= self.max_rows or last_calls <= 1 or self.gather <= 0:
            return now
        return could_start + self.gather
