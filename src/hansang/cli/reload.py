"""`hansang serve --reload`: start again when code or model files change.

The parent holds the socket, so callers wait for the new server instead of being refused. A server that cannot start
(a syntax error, say) has printed why; the next change starts another.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from socket import socket

import click

from hansang.cli import child
from hansang.core.source import PYTHON, parse
from hansang.settings import CONFIG_FILE, DOTENV_FILE, Settings

_LOOK = 500
"""Milliseconds between looks at whether the server still runs."""


class Watched:
    """What a change of matters: the files named, and all code in the folders of code."""

    def __init__(self, sources: Sequence[str], config: Path | None) -> None:
        parsed = [parse(text)[1] for text in sources]
        files = [source.path for source in parsed if source.path is not None]
        self.code = [source.path.resolve().parent for source in parsed if source.path is not None and source.is_python]
        settings = [path for path in (config or Path(CONFIG_FILE), Path(DOTENV_FILE)) if path.exists()]
        self.files = {path.resolve() for path in (*files, *settings)}
        self.folders = sorted({path.parent for path in self.files if path.parent.is_dir()})

    def matters(self, changed: str) -> bool:
        path = Path(changed)
        return path in self.files or (path.suffix in PYTHON and any(_is_code(path, folder) for folder in self.code))


def _is_code(path: Path, folder: Path) -> bool:
    """Whether a Python file belongs to a folder, and not to a `.venv` or the like in it."""
    return path.is_relative_to(folder) and not any(part.startswith(".") for part in path.relative_to(folder).parts)


def watch(
    arguments: Sequence[str], listener: socket, sources: Sequence[str], chosen: Settings, config: Path | None
) -> None:
    """Run `hansang ARGUMENTS` (a `serve` with `--reload`) again and again, until SIGINT or SIGTERM."""
    import watchfiles

    configured = [f"{name}={model.source}" for name, model in chosen.models.items()]
    watched = Watched([*sources, *configured], config)
    stopped = threading.Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: stopped.set())
    command = [argument for argument in arguments if argument != "--reload"]
    process = child.start(command, listener)
    told = False
    try:
        for changes in watchfiles.watch(
            *watched.folders,
            watch_filter=lambda _, path: watched.matters(path),
            recursive=bool(watched.code),
            stop_event=stopped,
            rust_timeout=_LOOK,
            yield_on_timeout=True,
        ):
            if not changes:
                if process.poll() is not None and not told:
                    click.echo("It did not start; the next change of a file tries again.", err=True)
                    told = True
                continue
            told = False
            names = sorted({Path(path).name for _, path in changes})
            click.echo(f"changed: {', '.join(names)}; starting again", err=True)
            child.stop(process)
            process = child.start(command, listener)
    finally:
        child.stop(process)
