"""W4's model: a hundred pieces of text, as fast as they are taken. Three times, once for each place to run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from hansang.core.model import Call, Model
from hansang.tasks.chat import CHAT, ChatDelta

TOKENS = 100


class Inline(Model):
    """On the event loop."""

    task = CHAT
    placement = "inline"
    concurrency = 64

    def stream(self, call: Call) -> Iterator[ChatDelta]:
        for index in range(TOKENS):
            yield ChatDelta(f" token{index}")
        yield ChatDelta(finish_reason="stop")


class Thread(Inline):
    """On threads of its own."""

    placement = "thread"
    concurrency = 16


class Async(Model):
    """As an async generator."""

    task = CHAT
    concurrency = 64

    async def stream(self, call: Call) -> AsyncIterator[ChatDelta]:  # type: ignore[override]
        for index in range(TOKENS):
            yield ChatDelta(f" token{index}")
        yield ChatDelta(finish_reason="stop")
