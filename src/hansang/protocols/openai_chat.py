"""`POST /v1/chat/completions`: OpenAI's chat, whole or streamed (SSE).

So far: `model`, `messages` with text, `stream`, `stream_options.include_usage`. Any other field is refused by name
(`unsupported_parameter`), never ignored.
Source: OpenAI's API reference, openapi.yaml 2.3.0.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from time import time
from typing import Any, Literal
from uuid import uuid4

import orjson
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from hansang.core.errors import BadRequest, HansangError
from hansang.core.wire import Reply, Request, Route, StreamReply
from hansang.engine.engine import Engine
from hansang.protocols.json_text import loads
from hansang.registry.registry import Entry
from hansang.tasks.chat import CHAT, ChatDelta, ChatRequest, ChatResult, Message, Usage

_PATH = "/v1/chat/completions"
_STRICT = ConfigDict(strict=True, extra="forbid")


class TextPart(BaseModel):
    """A piece of a message's content."""

    model_config = _STRICT
    type: Literal["text"]
    text: str


class MessageBody(BaseModel):
    """One turn."""

    model_config = _STRICT
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]


class StreamOptions(BaseModel):
    """How to stream."""

    model_config = _STRICT
    include_usage: bool | None = None


class ChatBody(BaseModel):
    """The body of the request."""

    model_config = _STRICT
    model: str
    messages: list[MessageBody] = Field(min_length=1)
    stream: bool | None = None
    stream_options: StreamOptions | None = None


_BODY = TypeAdapter(ChatBody)


class OpenAIChat:
    """The adapter."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def routes(self) -> Sequence[Route]:
        return [Route("POST", _PATH, self.create, long=True, task=CHAT)]

    async def create(self, request: Request) -> Reply | StreamReply:
        """Answer whole, or as events."""
        try:
            body = _BODY.validate_json(request.body)
        except ValidationError as exc:
            loads(request.body)
            raise explain(exc) from None
        if body.stream_options is not None and not body.stream:
            raise BadRequest(
                "stream_options is only allowed when stream is true.",
                hint="Send `stream: true`, or leave stream_options out.",
                param="stream_options",
                code="invalid_value",
            )
        entry = self._engine.entry(body.model, CHAT)
        asked = ChatRequest([Message(turn.role, _text(turn.content)) for turn in body.messages])
        if body.stream:
            usage = body.stream_options is not None and bool(body.stream_options.include_usage)
            return StreamReply(self._events(entry, asked, request, with_usage=usage), error_event)
        result: ChatResult = await self._engine.predict(entry, asked, request.context, len(request.body))
        return Reply(_completion(entry.name, result))

    async def _events(
        self, entry: Entry, asked: ChatRequest, request: Request, *, with_usage: bool
    ) -> AsyncIterator[bytes]:
        """SSE `data:` events: the role, each piece, the end, the usage if it was asked for, `[DONE]`."""
        chunk = _chunk_template(entry.name, with_usage=with_usage)
        before, after = chunk.split(b"@")
        head = before + b'{"role":"assistant","content":"","refusal":null}' + after % b"null"
        before, after = before + b'{"content":', b"}" + after % b"null"
        usage: Usage | None = None
        async with aclosing(self._engine.stream(entry, asked, request.context, len(request.body))) as deltas:
            delta: ChatDelta
            async for delta in deltas:
                if delta.content:
                    yield head + before + orjson.dumps(delta.content) + after
                    head = b""
                if delta.finish_reason is not None:
                    usage = delta.usage
                    yield head + chunk.replace(b"@", b"{}") % orjson.dumps(delta.finish_reason)
                    head = b""
        tail = b""
        if with_usage:
            tail = _usage_chunk(chunk, usage or Usage())
        yield tail + b"data: [DONE]\n\n"

    def openapi(self) -> Mapping[str, Any]:
        """One operation for all chat models."""
        names = [entry.name for entry in self._engine.registry if entry.model.task is CHAT and entry.state == "ready"]
        schema = ChatBody.model_json_schema(ref_template="#/components/schemas/Chat.{model}")
        components = {f"Chat.{name}": part for name, part in schema.pop("$defs", {}).items()}
        if names:
            schema["properties"]["model"]["examples"] = names
        example = {"model": names[0] if names else "echo", "messages": [{"role": "user", "content": "안녕?"}]}
        operation = {
            "tags": ["openai"],
            "summary": "Chat",
            "description": "OpenAI's chat completions. With `stream: true` the answer is server-sent events.",
            "operationId": "chat_completions",
            "requestBody": {"required": True, "content": {"application/json": {"schema": schema, "example": example}}},
            "responses": {
                "200": {
                    "description": "The completion, or its chunks.",
                    "content": {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {}},
                },
                "default": {"$ref": "#/components/responses/Error"},
            },
        }
        return {"paths": {_PATH: {"post": operation}}, "components": {"schemas": components}}


def explain(exc: ValidationError) -> BadRequest:
    """The first fault of a body, in OpenAI's codes."""
    fault = exc.errors(include_url=False)[0]
    location = [part for part in fault["loc"] if part not in ("str", "list[TextPart]")]
    param = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    if fault["type"] == "extra_forbidden":
        return BadRequest(
            f"Unsupported parameter: '{param}' is not supported here.",
            hint="Leave it out; no parameter is silently ignored.",
            param=param,
            code="unsupported_parameter",
        )
    if fault["type"] == "missing":
        return BadRequest(
            f"Missing required parameter: '{param}'.",
            hint="GET /docs shows what this route takes.",
            param=param,
            code="missing_required_parameter",
        )
    given = type(fault["input"]).__name__
    code = "invalid_value" if fault["type"] in ("literal_error", "too_short", "too_long") else "invalid_type"
    return BadRequest(
        f"Invalid value for '{param}': {fault['msg'].lower()}, got {given}.",
        hint="GET /docs shows what this route takes.",
        param=param or None,
        code=code,
    )


def error_event(error: HansangError) -> bytes:
    """An error after the stream began; no `[DONE]` follows."""
    body = {"message": error.message, "type": error.type, "param": error.param, "code": error.code, "hint": error.hint}
    return b"data: " + orjson.dumps({"error": body}) + b"\n\n"


def _text(content: str | list[TextPart]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


def _usage(usage: Usage) -> dict[str, int]:
    total = usage.prompt_tokens + usage.completion_tokens
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": total,
    }


def _completion(model: str, result: ChatResult) -> bytes:
    message: dict[str, Any] = {"role": "assistant", "content": result.content, "refusal": None, "annotations": []}
    return orjson.dumps(
        {
            "id": f"chatcmpl-{uuid4().hex}",
            "object": "chat.completion",
            "created": int(time()),
            "model": model,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": result.finish_reason}],
            "usage": _usage(result.usage or Usage()),
        }
    )


def _chunk_template(model: str, *, with_usage: bool) -> bytes:
    """One event, `@` where the delta goes and `%b` for the finish reason. Names hold neither `@` nor `%`."""
    start = orjson.dumps(
        {"id": f"chatcmpl-{uuid4().hex}", "object": "chat.completion.chunk", "created": int(time()), "model": model}
    )
    choices = b',"choices":[{"index":0,"delta":@,"logprobs":null,"finish_reason":%b}]'
    usage = b',"usage":null' if with_usage else b""
    return b"data: " + start[:-1] + choices + usage + b"}\n\n"


def _usage_chunk(chunk: bytes, usage: Usage) -> bytes:
    start = chunk.partition(b',"choices"')[0]
    return start + b',"choices":[],"usage":' + orjson.dumps(_usage(usage)) + b"}\n\n"
