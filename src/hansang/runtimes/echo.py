"""`echo:`, a chat model that says what you said, word by word. For trying a client, a stream or a cancel.

It is no language model and does not pretend to be one: the answer is the last user message.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import MappingProxyType

from hansang.core.model import Call, Model
from hansang.core.source import Source
from hansang.tasks.chat import CHAT, ChatDelta, ChatRequest, Usage

_WORD = re.compile(r"\s*\S+|\s+\Z")


class EchoRuntime:
    """Claims `echo:`."""

    name = "echo"
    sources = "a chat model that repeats you (echo:)"

    def claims(self, source: Source) -> bool:
        return source.scheme == "echo"

    def open(self, source: Source) -> Model:
        return Echo()


class Echo(Model):
    """One delta per word; a token is a word."""

    task = CHAT
    placement = "inline"
    concurrency = 1024
    info = MappingProxyType({"format": "echo", "title": "Echo: repeats what you say"})

    def stream(self, call: Call) -> Iterator[ChatDelta]:
        request: ChatRequest = call.request
        said = next((message.content for message in reversed(request.messages) if message.role == "user"), "")
        words = _WORD.findall(said)
        for word in words:
            yield ChatDelta(word)
        prompt = sum(len(_WORD.findall(message.content)) for message in request.messages)
        yield ChatDelta(finish_reason="stop", usage=Usage(prompt, len(words)))
