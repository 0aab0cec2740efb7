"""The servers under test: how each is started, and how it wants to be asked.

A server gets PORT (and PORT_2, PORT_3, where it wants more) and BENCH_WORK in its environment, and its own `env` with
`{port}` filled in. Environments of other people's servers lie in bench/venvs; where one is missing, its server is left
out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BENCH = Path(__file__).parent.parent
OUT = BENCH / "out"
KEY = "bench-key-of-no-use-anywhere-else-0123456789"
_BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Api:
    """Where the question goes, in which words, and where the answer lies in the reply."""

    path: str
    body: Callable[[Any], Any]
    result: Callable[[Any], Any] = lambda reply: reply


PLAIN = Api("/predict", lambda sample: {"inputs": sample}, lambda reply: reply["result"])
STREAM = Api("/stream", lambda sample: {})
HEALTH = Api("/healthz", lambda sample: None)


def predict_v1(model: str) -> Api:
    """hansang's `:predict`."""
    return Api(
        f"/v1/models/{model}:predict", lambda sample: {"instances": [sample]}, lambda reply: reply["predictions"][0]
    )


def chat(model: str) -> Api:
    """hansang's streamed chat."""
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": True}
    return Api("/v1/chat/completions", lambda sample: body)


def _tensor(sample: Any) -> dict[str, Any]:
    """The Open Inference Protocol wants the shape, and takes the data flat."""
    import numpy as np

    array = np.asarray(sample, np.float32)
    return {"name": "inputs", "shape": [1, *array.shape], "datatype": "FP32", "data": array.reshape(-1)}


OPEN_INFERENCE = Api(
    "/v2/models/m/infer", lambda sample: {"inputs": [_tensor(sample)]}, lambda reply: reply["outputs"][0]["data"][0]
)
BATCHED_BENTO = Api("/predict", lambda sample: {"inputs": [sample]}, lambda reply: reply[0])


@dataclass(frozen=True)
class Server:
    """One server, ready to be started for one workload."""

    name: str
    title: str
    command: Callable[[int], Sequence[str]]
    api: Api
    env: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    folder: Path = BENCH / "servers"
    needs: Path | None = None
    """What must be there for it to start."""

    @property
    def installed(self) -> bool:
        return self.needs is None or self.needs.exists()


def _uvicorn(app: str) -> Callable[[int], Sequence[str]]:
    options = ("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning")
    return lambda port: (str(_BIN / "python"), "-m", "uvicorn", app, "--port", str(port), *options)


def floor(api: Api = PLAIN) -> Server:
    """One ASGI function."""
    return Server("floor", "raw ASGI (the floor)", _uvicorn("floor:app"), api)


def fastapi(handler: str = "async", api: Api = PLAIN) -> Server:
    """A bare FastAPI app with an `async def` or a `def` handler."""
    word = "async def" if handler == "async" else "def"
    env = {"BENCH_HANDLER": handler}
    return Server(f"fastapi-{handler}", f"FastAPI, `{word}`", _uvicorn("fastapi_app:app"), api, env=env)


def hansang(
    *sources: str,
    api: Api,
    name: str = "hansang",
    title: str = "**hansang**",
    config: str | None = None,
    key: bool = True,
    headers: Mapping[str, str] | None = None,
) -> Server:
    """`hansang serve SOURCE ...`, from the folder bench, with the server's key set and sent."""
    env = {"HANSANG_PORT": "{port}", "HANSANG_DEMO": "false", "HANSANG_THREADS": "1", "HANSANG_HOME": str(OUT / "home")}
    if key:
        env["HANSANG_API_KEY"] = KEY
    if config:
        env["HANSANG_CONFIG"] = f"models/{config}"
    return Server(
        name,
        title,
        lambda port: (str(_BIN / "hansang"), "serve", *sources),
        api,
        env=env,
        headers={**({"Authorization": f"Bearer {KEY}"} if key else {}), **(headers or {})},
        folder=BENCH,
    )


def _venv(name: str) -> Path:
    return BENCH / "venvs" / name / "bin"


def litserve(api: Api = PLAIN) -> Server:
    """One worker."""
    python = _venv("litserve") / "python"
    return Server("litserve", "LitServe", lambda port: (str(python), "litserve_app.py"), api, needs=python)


def bentoml(api: Api = PLAIN) -> Server:
    """One worker."""
    program = _venv("bentoml") / "bentoml"
    return Server(
        "bentoml",
        "BentoML",
        lambda port: (str(program), "serve", "bentoml_app:Bench", "--host", "127.0.0.1", "--port", str(port)),
        api,
        env={"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(OUT / "bentoml")},
        needs=program,
    )


def mlserver() -> Server:
    """In its cheapest form: the model in the server's own process."""
    python = _venv("mlserver") / "python"
    return Server("mlserver", "MLServer", lambda port: (str(python), "mlserver_app.py"), OPEN_INFERENCE, needs=python)
