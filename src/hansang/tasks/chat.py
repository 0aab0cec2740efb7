"""Messages in, an answer out, whole or piece by piece."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hansang.core.model import Task


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of the conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """The conversation so far."""

    messages: Sequence[Message]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens, as the model that answered counts them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(slots=True)
class ChatDelta:
    """A piece of the answer. The last one has a `finish_reason`, and the usage where it is known."""

    content: str = ""
    finish_reason: str | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class ChatResult:
    """The whole answer."""

    content: str
    finish_reason: str = "stop"
    usage: Usage | None = None


def join(deltas: Iterable[ChatDelta]) -> ChatResult:
    """The whole answer of a stream."""
    parts: list[str] = []
    finish_reason, usage = "stop", None
    for delta in deltas:
        parts.append(delta.content)
        finish_reason = delta.finish_reason or finish_reason
        usage = delta.usage or usage
    return ChatResult("".join(parts), finish_reason, usage)


def split(result: ChatResult) -> Iterable[ChatDelta]:
    """A whole answer as a stream of one piece."""
    return (ChatDelta(result.content), ChatDelta(finish_reason=result.finish_reason, usage=result.usage))


CHAT = Task(name="chat", request=ChatRequest, result=ChatResult, delta=ChatDelta, join=join, split=split)
