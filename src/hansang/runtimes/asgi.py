"""An existing ASGI app (FastAPI, Starlette, any other), served as it is under `/apps/<name>/`: `5_1.py:app`.

It is not a model: it answers HTTP and WebSockets itself, behind our front door.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from hansang.core.errors import LoadFailed
from hansang.core.model import Mount
from hansang.core.source import Source
from hansang.runtimes.python_files import load_object

_ASGI = ["scope", "receive", "send"]


class AsgiRuntime:
    """Claims what is an ASGI app in a Python file or notebook; to know that, it runs the file."""

    name = "asgi"
    sources = "an ASGI app in a Python file (main.py:app)"

    def claims(self, source: Source) -> bool:
        return source.is_python and is_asgi(load_object(source))

    def open(self, source: Source) -> Mount:
        mount = self.wrap(load_object(source))
        if mount is None:
            raise LoadFailed(f"{source.text} is not an ASGI app.", hint="Name a FastAPI or Starlette instance.")
        return mount

    def wrap(self, obj: Any) -> Mount | None:
        """An app that is there already, as a mount. None: it is no ASGI app."""
        if not is_asgi(obj):
            return None
        paths = [getattr(route, "path", "") for route in getattr(obj, "routes", ())]
        return Mount(_WithState(obj), str(getattr(obj, "title", "")), tuple(path for path in paths if path))


def is_asgi(obj: Any) -> bool:
    """Whether it takes the three that ASGI 3 passes, by their names. A class is no app; its instance may be."""
    if isinstance(obj, type) or not callable(obj):
        return False
    try:
        return list(inspect.signature(obj).parameters) == _ASGI
    except (ValueError, TypeError):
        return False


class _WithState:
    """The app, whose requests see what its lifespan left in `state`."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app
        self._state: MutableMapping[str, Any] = {}

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            self._state = scope.setdefault("state", {})
        else:
            scope = {**scope, "state": dict(self._state)}
        await self.app(scope, receive, send)
