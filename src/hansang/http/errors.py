"""Writes an error in the words of the protocol that was spoken. The only place that does.

Everything answers OpenAI's shape plus `hint`, but the classic routes, which answer `{"error": "text"}`.
"""

from __future__ import annotations

import difflib
import json
import logging
import re
import shlex
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote

import orjson

from hansang.core.errors import HansangError, MethodNotAllowed, NotFound
from hansang.core.wire import Header, Reply

log = logging.getLogger("hansang.http")

_CLASSIC = ("/predict/", "/items/", "/train/")
_PARAMETER = re.compile(r"\{\w+\}")
_ALIKE = 0.7
_SHOWN = 200
"""Characters of a caller's path that an error repeats."""


def is_classic(path: str) -> bool:
    """Whether `path` (without the root path) is one of the classic routes."""
    return path.startswith(_CLASSIC)


def error_object(error: HansangError) -> dict[str, Any]:
    """`{"message", "type", "param", "code", "hint"}`."""
    return {
        "message": error.message,
        "type": error.type,
        "param": error.param,
        "code": error.code,
        "hint": error.hint,
    }


def render(error: HansangError, path: str) -> Reply:
    """The reply that tells `error` to whoever asked for `path`."""
    told: Any = error_object(error)
    if is_classic(path):
        told = f"{error.message} {error.hint}" if error.hint else error.message
    try:
        body = orjson.dumps({"error": told})
    except TypeError:  # a lone surrogate, from a file's name or a model's words
        body = json.dumps({"error": told}).encode()
    headers: list[Header] = [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    return Reply(body, status=error.status, headers=headers)


def unexpected(exc: Exception, request_id: str) -> HansangError:
    """What a caller is told of an exception of ours. The traceback goes to the log."""
    log.error("unexpected %s", type(exc).__name__, exc_info=exc, extra={"request_id": request_id})
    return internal(request_id)


def internal(request_id: str) -> HansangError:
    """500: a fault of ours, not of the request."""
    return HansangError(
        f"The server failed on this request ({request_id}).",
        hint=f"This is a fault of the server: its log has the traceback, under request id {request_id}.",
        code="internal_error",
    )


def unknown_path(method: str, path: str, known: Iterable[str]) -> NotFound:
    """404 with the routes that look alike."""
    shown = path if len(path) <= _SHOWN else path[:_SHOWN] + "..."
    alike = sorted(((_likeness(template, shown), template) for template in set(known)), reverse=True)
    near = [template for likeness, template in alike[:3] if likeness >= _ALIKE]
    hint = f"Did you mean {' or '.join(near)}?" if near else "GET /docs shows every route."
    return NotFound(f"Invalid URL ({method} {shown})", hint=hint, code="unknown_url")


def _likeness(template: str, path: str) -> float:
    """From 0 to 1. What stands in a parameter's place does not count: `/items/{item_id}` is `/items/7`."""
    parts = path.split("/")
    for index, piece in enumerate(template.split("/")[: len(parts)]):
        if "{" in piece:
            parts[index] = "*" + "".join(parts[index].partition(":")[1:])
    return difflib.SequenceMatcher(None, _PARAMETER.sub("*", template), "/".join(parts)).ratio()


def wrong_method(method: str, path: str, allowed: Sequence[str], base_url: str) -> MethodNotAllowed:
    """405 with the command that sends the right request."""
    verb = allowed[0]
    command = f"curl -X {verb} {shlex.quote(base_url + quote(path, safe='/:@,~'))}"
    if verb in ("POST", "PUT"):
        command += " -H 'Content-Type: application/json' -d '{...}'"
    hint = f"A browser's address bar sends GET. Send it so: {command}" if method == "GET" else f"Send it so: {command}"
    return MethodNotAllowed(
        f"{path} answers {', '.join(allowed)}, not {method}.", hint=hint, headers={"Allow": ", ".join(allowed)}
    )
