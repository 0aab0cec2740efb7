"""Serving from start to end: listen, load, say where, answer, drain. For `hansang serve` and for `hansang.serve`."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hansang import __version__, logs
from hansang.access.server_key import ENVIRONMENT
from hansang.app import Server
from hansang.cli.listen import addresses, open_listener
from hansang.core.errors import HansangError
from hansang.http.server import uvicorn_server
from hansang.settings import Settings
from hansang.settings import load as load_settings

log = logging.getLogger("hansang.cli")


def serve(*models: Any, **options: Any) -> None:
    """Serve models (sources as on the command line, typed functions, Models) until Ctrl+C or SIGTERM.

    `options` are settings, as flags are on the command line: `hansang.serve(add, port=9000)`.
    """
    if _in_event_loop():
        raise HansangError(
            "hansang.serve() waits for requests, and this program's event loop is running already.",
            hint="In a notebook: save it, and type in a terminal: hansang serve lesson.ipynb:FUNCTION. "
            "In an async program: mount hansang.Server(models=[...]).app.",
        )
    chosen = load_settings(options)
    logs.configure(chosen.log_level, chosen.log_format)
    with listen(chosen, lambda port: f"hansang.serve(..., port={port})") as listener:
        run(lambda settings: Server(with_demo(models, settings), settings), chosen, listener)


def listen(chosen: Settings, command: Callable[[int], str]) -> socket.socket:
    """The socket that the settings ask for."""
    secured = bool(os.environ.get(ENVIRONMENT))
    return open_listener(chosen.host, chosen.port, secured=secured, command=command)


def with_demo(models: Sequence[Any], chosen: Settings) -> list[Any]:
    """The models, and the demo table where it is wanted: by default, where there is nothing else."""
    wanted = chosen.demo if chosen.demo is not None else not models and not chosen.models
    if not wanted:
        return list(models)
    from hansang import demo

    return [*models, *(f"{name}={path}" for name, path in dict(demo.sources()).items())]


def run(make: Callable[[Settings], Server], chosen: Settings, listener: socket.socket) -> None:
    """Serve what `make` makes until SIGINT or SIGTERM. Raises what kept it from starting."""
    local, lan = addresses(chosen.host)
    server = make(chosen.model_copy(update={"allowed_hosts": [*chosen.allowed_hosts, local, *lan]}))
    port = listener.getsockname()[1]
    noise = logging.getLogger("uvicorn.error")

    def ready() -> None:
        # What is loaded now stays: a full collection that walks it would stall every caller for some 40 ms.
        gc.collect()
        gc.freeze()
        noise.disabled = False
        _announce(server, f"http://{local}:{port}", [f"http://{host}:{port}" for host in lan])

    runner = uvicorn_server(
        server.app,
        header_timeout=chosen.header_timeout,
        drain_delay=chosen.drain_delay,
        drain_timeout=chosen.drain_timeout,
        on_ready=ready,
        on_drain=lambda: setattr(server.status, "draining", True),
    )
    with _signals_end_quietly():
        noise.disabled = True  # why a start failed is told once, by whoever called us
        try:
            runner.run(sockets=[listener])
        except SystemExit:
            if server.app.error is not None:
                raise server.app.error from None
            raise
        finally:
            noise.disabled = False


@contextmanager
def _signals_end_quietly() -> Iterator[None]:
    """uvicorn drains at a signal, then raises it again; by then all is done, and the exit status is 0."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.signal(each, lambda *_: None) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _announce(server: Server, url: str, lan: Sequence[str]) -> None:
    models = [entry.name for entry in server.registry]
    mounts = [f"/apps/{name}/" for name in server.registry.mounts]
    if server.settings.log_format == "json":
        log.info(
            "ready",
            extra={"url": url, "lan": list(lan), "models": models, "apps": mounts, "key_required": server.key.required},
        )
        return
    print("\n".join(_banner(url, lan, models, mounts, server.key.required)), flush=True)


def _banner(url: str, lan: Sequence[str], models: Sequence[str], mounts: Sequence[str], secured: bool) -> Iterator[str]:
    yield f"hansang {__version__}"
    yield f"  here      {url}"
    for address in lan:
        yield f"  network   {address}"
    yield f"  try it    {url}/docs"
    yield f"  models    {', '.join(models) or 'none yet: hansang serve MODEL'}"
    if mounts:
        yield f"  apps      {', '.join(mounts)}"
    if secured:
        yield f"  key       required: 'Authorization: Bearer KEY', with the KEY of {ENVIRONMENT}"
    else:
        yield f"  key       not required: only this machine can ask ({ENVIRONMENT} is not set)"
    yield "  stop      Ctrl+C"
    yield f"한상이 차려졌습니다. 브라우저에서 {url}/docs 를 열어 보세요."


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
