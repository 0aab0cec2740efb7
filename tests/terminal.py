"""What a person at a terminal does: types a command, reads what it says, presses Ctrl+C.

`typed` runs a command in this process; `started` one that stays, in a process of its own.
"""

from __future__ import annotations

import io
import logging
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import httpx2

from hansang.cli import main

PATIENCE = 30.0
"""Seconds to wait for what must come. Long, because only a failure ever reaches it."""


@dataclass
class Typed:
    status: int
    out: str
    err: str


def typed(*arguments: str) -> Typed:
    """What `hansang ARGUMENTS` answers."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), logging_restored():
        status = main([str(argument) for argument in arguments])
    return Typed(status, out.getvalue(), err.getvalue())


@contextmanager
def logging_restored() -> Iterator[None]:
    """Logging is as it was when the block ends: the tests' own must not change with what one of them configured."""
    loggers = [logging.getLogger(name) for name in (None, "hansang", "uvicorn")]
    root = loggers[0]
    handlers, levels = root.handlers[:], [logger.level for logger in loggers]
    root.handlers = []
    try:
        yield
    finally:
        root.handlers = handlers
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class Started:
    """A running `hansang`. Its lines, of stdout and stderr, in the order they came."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self.url = ""
        self._coming: Queue[str | None] = Queue()
        self._open = 2
        for stream in (process.stdout, process.stderr):
            threading.Thread(target=self._read, args=(stream,), daemon=True).start()

    def _read(self, stream: Any) -> None:
        for line in stream:
            self._coming.put(line.rstrip("\n"))
        self._coming.put(None)

    def until(self, pattern: str) -> str:
        """The next line that matches; all before it are in `lines`."""
        while self._open:
            try:
                line = self._coming.get(timeout=PATIENCE)
            except Empty:
                break
            if line is None:
                self._open -= 1
                continue
            self.lines.append(line)
            if re.search(pattern, line):
                return line
        raise AssertionError(f"no line with {pattern!r}; it said:\n" + "\n".join(self.lines))

    def until_ready(self) -> str:
        """The address it answers at, once it says so."""
        self.url = self.until(r"here +http").split()[1]
        self.until("한상이 차려졌습니다")
        return self.url

    def client(self, **options: Any) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, timeout=PATIENCE, trust_env=False, **options)

    def stop(self, sig: int = signal.SIGTERM) -> int:
        """Its exit status."""
        self.process.send_signal(sig)
        return self.process.wait(PATIENCE)


@contextmanager
def started(*arguments: str, cwd: Path, program: tuple[str, str] = ("-m", "hansang")) -> Iterator[Started]:
    """`python -m hansang ARGUMENTS`, or another program (`-m uvicorn`, `-c CODE`), until the block ends."""
    command = [sys.executable, *program, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd)
    running = Started(process)
    try:
        yield running
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()
