"""hansang: a model server. From a saved model to a production REST API in one command.

    import hansang

    hansang.load("xor.onnx").predict([[0, 1], [1, 1]])      # here, without a server
    hansang.serve("xor.onnx")                               # what `hansang serve xor.onnx` does
    app = hansang.Server(models=["xor.onnx"]).app           # for any ASGI server, or to mount in another app
    hansang.Client().predict("xor", [[0, 1], [1, 1]])       # asks a server

Importing it costs nothing: each name is fetched when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hansang.app import Server
    from hansang.cli.run import serve
    from hansang.client import Client
    from hansang.core.errors import HansangError
    from hansang.core.model import Model
    from hansang.local import load

__version__ = "0.1.0"
__all__ = ["Client", "HansangError", "Model", "Server", "__version__", "load", "serve"]

_HOMES = {
    "Client": "hansang.client",
    "HansangError": "hansang.core.errors",
    "Model": "hansang.core.model",
    "Server": "hansang.app",
    "load": "hansang.local",
    "serve": "hansang.cli.run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hansang' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
