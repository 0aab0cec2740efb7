"""What passes between the front door and a protocol adapter: bytes in, bytes out.

The front door speaks HTTP and knows nobody's format; an adapter knows one format and nothing of HTTP servers. A
data-plane route is a template such as `/v1/models/{model}:predict` and an `async` handler `(Request, **params)`.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from hansang.core.errors import HansangError
from hansang.core.model import CallContext, Task

JSON = b"application/json"
CONTEXT = "hansang.context"
"""Where control-plane routes find the CallContext in their scope."""
Header: TypeAlias = tuple[bytes, bytes]


class Request:
    """One HTTP request, its body read. `headers` has lower-case names; of a repeated one, the last."""

    __slots__ = ("body", "context", "headers", "method", "path", "query")

    method: str
    path: str
    query: bytes
    headers: Mapping[bytes, bytes]
    body: bytes
    context: CallContext


class Reply:
    """A whole answer."""

    __slots__ = ("body", "content_type", "headers", "status")

    def __init__(
        self, body: bytes, *, status: int = 200, content_type: bytes = JSON, headers: Sequence[Header] = ()
    ) -> None:
        self.body = body
        self.status = status
        self.content_type = content_type
        self.headers = headers


class StreamReply:
    """An answer in pieces, each sent as it comes. `on_error` writes an error that comes after the first piece."""

    __slots__ = ("chunks", "content_type", "headers", "on_error")

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        on_error: Callable[[HansangError], bytes],
        *,
        content_type: bytes = b"text/event-stream; charset=utf-8",
        headers: Sequence[Header] = ((b"cache-control", b"no-cache"),),
    ) -> None:
        self.chunks = chunks
        self.on_error = on_error
        self.content_type = content_type
        self.headers = headers


Handler: TypeAlias = Callable[..., Awaitable[Reply | StreamReply]]


class Route:
    """A data-plane route: dictionary look-up once a path was seen, a pattern before that."""

    __slots__ = ("handler", "long", "method", "name", "pattern", "task", "template")

    def __init__(
        self, method: str, template: str, handler: Handler, *, long: bool = False, task: Task | None = None
    ) -> None:
        self.method = method
        self.template = template
        self.handler = handler
        self.name = template
        """The route's label in metrics."""
        self.long = long
        """Whether its work may take `long_timeout` instead of `timeout`."""
        self.task = task
        """The kind of models that answer here; None: it is not about one model."""
        self.pattern = template_pattern(template)


def template_pattern(template: str) -> re.Pattern[str]:
    """`/v1/models/{model}` as a pattern with named groups; a parameter holds no slash."""
    literal = re.split(r"\{(\w+)\}", template)
    return re.compile(
        "".join(f"(?P<{part}>[^/]+)" if i % 2 else re.escape(part) for i, part in enumerate(literal)), re.DOTALL
    )


class ProtocolAdapter(Protocol):
    """One wire format. Found through the entry point group `hansang.protocols`, made with the engine.

    `router` (optional) is a FastAPI router for the format's control-plane routes. They find the call's context in
    `request.scope[CONTEXT]`, and all data-plane routes in `request.app.state.routes`.
    """

    def routes(self) -> Iterable[Route]:
        """Its data-plane routes."""
        ...

    def openapi(self) -> Mapping[str, Any]:
        """Its part of the OpenAPI document for the models loaded now: `paths` and `components`."""
        ...
