"""Runs what a page shows: every ```console block is typed into a shell, and what it prints is compared.

    $ hansang serve gates.py:and_gate      a server stays up until the page ends, or shows the next one
    $ curl -s localhost:8000/healthz       anything else runs to its end
    {"status":"ok"}

`...` in the output stands for anything; on a line of its own, for any lines. A block of code whose first line is
`# NAME.EXT` is written to that file. A block after `<!-- not run: REASON -->` is left alone. Port 8000 is a free one.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

_BLOCK = re.compile(r"(<!-- not run: .+? -->\n)?^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"# ([\w./-]+\.\w+)\n")
_SERVER = re.compile(r"(?:\w+=\S+ )*(?:hansang serve|uvicorn)\b")
PATIENCE = 60.0


@dataclass
class Walkthrough:
    """One page, walked through in `folder`."""

    folder: Path
    here: Path = field(init=False)
    server: subprocess.Popen[str] | None = None
    log: Path = field(init=False)
    port: int = 0

    def __post_init__(self) -> None:
        self.here = self.folder
        self.log = self.folder.parent / "server.log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    def walk(self, page: str) -> int:
        """Run every block. Returns how many commands were run; raises AssertionError where the page is wrong."""
        count = 0
        try:
            for left_alone, language, text in _BLOCK.findall(page):
                if left_alone:
                    continue
                if (named := _FILE.match(text)) is not None:
                    (self.here / named[1]).write_text(self.ported(text), encoding="utf-8")
                elif language == "console":
                    for command, expected in commands(text):
                        self.run(command, expected)
                        count += 1
        finally:
            self.stop()
        return count

    def run(self, command: str, expected: str) -> None:
        """Run one command, and compare."""
        if command.startswith("cd "):
            self.here = (self.here / command.removeprefix("cd ")).resolve(strict=True)
            return
        command = self.ported(command)
        printed = self.serve(command) if _SERVER.match(command) else self.finish(command)
        printed = re.sub(rf"\b{self.port}\b", "8000", printed)
        assert fits(expected, printed), f"$ {command}\nprinted:\n{printed}\nthe page says:\n{expected}"

    def ported(self, text: str) -> str:
        """With the port that this page has, in place of 8000."""
        return re.sub(r"\b8000\b", str(self.port), text)

    def finish(self, command: str) -> str:
        """What a command prints, on both streams."""
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.here,
            env=self.environment(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE,
            check=False,
        )
        return done.stdout

    def serve(self, command: str) -> str:
        """Start a server in place of the one that runs; what it printed until it was ready."""
        self.stop()
        with self.log.open("w", encoding="utf-8") as log:
            self.server = subprocess.Popen(
                ["bash", "-c", f"exec env {command}"],
                cwd=self.here,
                env=self.environment(),
                text=True,
                stdout=log,
                stderr=log,
            )
        give_up = time.monotonic() + PATIENCE
        while not self.ready():
            assert self.server.poll() is None, f"$ {command}\nended:\n{self.log.read_text(encoding='utf-8')}"
            assert time.monotonic() < give_up, f"$ {command}\nis not ready:\n{self.log.read_text(encoding='utf-8')}"
            time.sleep(0.05)
        return self.log.read_text(encoding="utf-8")

    def ready(self) -> bool:
        """Whether the server answers."""
        try:
            return httpx2.get(f"http://127.0.0.1:{self.port}/readyz", trust_env=False).status_code in (200, 401, 404)
        except httpx2.TransportError:
            return False

    def stop(self) -> None:
        """Stop the server, as Ctrl-C does, and see that it goes."""
        if self.server is not None and self.server.poll() is None:
            self.server.send_signal(signal.SIGINT)
            self.server.wait(PATIENCE)
        self.server = None

    def environment(self) -> dict[str, str]:
        """Ours, with the commands of this Python first."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {
            **os.environ,
            "PATH": path,
            "HANSANG_PORT": str(self.port),
            "PYTHONDONTWRITEBYTECODE": "1",
            "NO_PROXY": "localhost,127.0.0.1",
        }


def consoles(page: str) -> list[str]:
    """The console blocks of a page: what is typed and what is printed."""
    return [text for _, language, text in _BLOCK.findall(page) if language == "console"]


def commands(block: str) -> Iterator[tuple[str, str]]:
    """(command, expected output) of a console block. A command goes on after a backslash, or inside quotes."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        lines = part.splitlines()
        command = lines.pop(0)
        while command.endswith("\\") or command.count("'") % 2:
            command += "\n" + lines.pop(0)
        yield command, "\n".join(lines)


def fits(expected: str, printed: str) -> bool:
    """Whether `printed` is what the page says. A page that shows nothing says nothing."""
    if not expected.strip():
        return True
    lines = [re.escape(line.rstrip()).replace(r"\.\.\.", ".*") for line in expected.strip().splitlines()]
    pattern = "\n".join(lines).replace("\n.*\n", "\n(?:.*\n)*")
    wanted = re.compile(pattern.removesuffix("\n.*") + (r"(?:\n.*)*" if pattern.endswith("\n.*") else ""))
    return wanted.fullmatch("\n".join(line.rstrip() for line in printed.strip().splitlines())) is not None


def copied(source: Path, target: Path) -> Path:
    """A copy of an example's folder to work in, without what is made anew."""
    return Path(shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.skops")))
