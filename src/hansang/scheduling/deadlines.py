"""Ends waiting calls whose time is up, with one timer for all of them.

A timer per call would cost more than most calls do. One timer stands at the earliest deadline known when it was set;
calls that finished before it fired are simply no longer there.
"""

from __future__ import annotations

import asyncio
from time import monotonic

from hansang.core.errors import DeadlineExceeded
from hansang.core.model import CallContext

_EARLY = 0.002
"""The loop's clock counts milliseconds: a timer may fire this much before the deadline."""


def deadline_exceeded() -> DeadlineExceeded:
    """What a caller is told when the time is up."""
    return DeadlineExceeded(
        "The model did not answer before the deadline.",
        hint="Ask for less at once, send `x-hansang-timeout: SECONDS` if yours was lower than the server's, "
        "or raise `timeout` in the server's settings.",
    )


class Deadlines:
    """The calls that wait now. Lives on one event loop."""

    def __init__(self) -> None:
        self._open: dict[CallContext, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._fires = float("inf")

    def add(self, context: CallContext) -> None:
        self._open[context] = None
        if context.deadline < self._fires:
            self._arm(context.deadline)

    def discard(self, context: CallContext) -> None:
        self._open.pop(context, None)

    def _arm(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._fires = deadline
        delay = max(0.0, deadline - monotonic())
        self._timer = asyncio.get_running_loop().call_later(delay, self._sweep)

    def _sweep(self) -> None:
        self._timer, self._fires = None, float("inf")
        due = monotonic() + _EARLY
        for context in [context for context in self._open if context.deadline <= due]:
            del self._open[context]
            context.cancel(deadline_exceeded())
        if self._open:
            self._arm(min(context.deadline for context in self._open))
