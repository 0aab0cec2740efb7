"""A server in a process of its own, on a socket that we hold: for `serve --reload` and `bench`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from socket import socket
from typing import Any

_PATIENCE = 5.0


def start(arguments: Sequence[str], listener: socket, **options: Any) -> subprocess.Popen[bytes]:
    """`hansang ARGUMENTS` on this socket. It ends when this process does, even if this one is killed."""
    return subprocess.Popen(  # noqa: S603 - our own program and the arguments it was called with
        [sys.executable, "-m", "hansang", *arguments, f"--inherited={listener.fileno()}:{os.getpid()}"],
        pass_fds=[listener.fileno()],
        **options,
    )


def stop(child: subprocess.Popen[bytes]) -> None:
    """Let it drain for a moment, then end it."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def inherit(inherited: str) -> socket:
    """In the child: the socket. From here on we stop when the parent is gone, however it went."""
    number, _, parent = inherited.partition(":")

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
    return socket(fileno=int(number))
