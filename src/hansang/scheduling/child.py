"""A process that answers questions, and JSON in frames: what passes between it and the server.

Its answers are bounded, and waited for no longer than somebody wants them; nothing that comes from it is unpickled.
Its environment holds what a program needs to run, nothing else. What models are, `process` knows.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from itertools import count
from time import monotonic
from typing import IO, Any

from hansang.core.errors import LoadFailed, ModelFailed

log = logging.getLogger("hansang.model")

_FRAME = struct.Struct(">I")
_LARGEST = 2**30
LARGEST_ANSWER = 2**26
"""Bytes that the server takes from a process at once; as JSON they become several times as many in memory."""
_LOOK = 100
"""Milliseconds between two looks at whether anybody still waits."""
_LONGEST = 600.0
"""Seconds that a process may take to load a model."""
_PIECE = 2**20
_LINE = 4096
_PASSED_ON = (
    "PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "SYSTEMROOT", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "PYTHONPATH",
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS",
)  # fmt: skip


class Child:
    """A process that answers questions. What it prints goes to the log, under `name`."""

    def __init__(self, name: str) -> None:
        environment = {key: os.environ[key] for key in _PASSED_ON if key in os.environ}
        theirs, self._lifeline = os.pipe()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - Python, and nothing of a caller's
                [sys.executable, "-P", "-m", "hansang.host", str(theirs)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                env=environment,
                pass_fds=(theirs,),
                start_new_session=True,
            )
        except BaseException:
            os.close(self._lifeline)
            raise
        finally:
            os.close(theirs)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        os.set_blocking(self._in.fileno(), False)
        os.set_blocking(self._out.fileno(), False)
        self._numbers = count()
        threading.Thread(target=_log_lines, args=(self._process.stderr, name), name="model-log", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, question: Mapping[str, Any], look: Callable[[], None]) -> Mapping[str, Any]:
        """One frame there, one back; `look` is called while it waits, and may raise. EOFError: it is of no use."""
        number = next(self._numbers)
        frame = memoryview(_frame({**question, "number": number}))
        try:
            while frame:
                self._wait(self._in, select.POLLOUT, look)
                frame = frame[os.write(self._in.fileno(), frame[:_PIECE]) :]
            (length,) = _FRAME.unpack(self._read(_FRAME.size, look))
            if length > LARGEST_ANSWER:
                raise EOFError(f"it sent more than {LARGEST_ANSWER:,} bytes at once")
            answer = json.loads(self._read(length, look))
        except (OSError, ValueError, RecursionError, MemoryError) as exc:
            raise EOFError("" if isinstance(exc, OSError) else "it sent what is no frame of JSON") from None
        if not isinstance(answer, dict) or answer.get("number") != number:
            raise EOFError("it sent what nobody asked for")
        return answer

    def _read(self, length: int, look: Callable[[], None]) -> bytes:
        data = bytearray()
        while len(data) < length:
            self._wait(self._out, select.POLLIN, look)
            piece = os.read(self._out.fileno(), min(_PIECE, length - len(data)))
            if not piece:
                raise EOFError
            data += piece
        return bytes(data)

    def _wait(self, pipe: IO[bytes], event: int, look: Callable[[], None]) -> None:
        ready = select.poll()
        ready.register(pipe.fileno(), event)
        while not ready.poll(_LOOK):
            look()

    def kill(self) -> None:
        """End it and its group. A thread that asks it meanwhile gets EOFError."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            log.debug("process %d had ended", self._process.pid)

    def close(self) -> str:
        """Kill it, wait for its end and give back what it took. Only once nobody asks it any more.

        How it ended, in words: it may have done so by itself.
        """
        self.kill()
        status = self._process.wait()
        for pipe in (self._in, self._out):
            pipe.close()
        os.close(self._lifeline)
        return f"it exited with {status}" if status >= 0 else f"by {signal.Signals(-status).name}"


def ask_once(question: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Put one question to a process that is there for it alone. Raises LoadFailed if it ends without an answer."""
    child = Child(name)
    try:
        return child.ask(question, patient())
    except EOFError as exc:
        raise LoadFailed(f"The process for {name} ended at its work. {exc}".rstrip()) from None
    finally:
        child.close()


def patient() -> Callable[[], None]:
    """Who waits for as long as loading a model may take."""
    deadline = monotonic() + _LONGEST

    def look() -> None:
        if monotonic() > deadline:
            raise EOFError(f"it was not ready after {_LONGEST:g} s")

    return look


def _log_lines(pipe: IO[bytes], name: str) -> None:
    """What a process prints, as lines of the log that cannot pass for others."""
    with pipe:
        while line := pipe.readline(_LINE):
            text = line.decode("utf-8", "backslashreplace").rstrip()
            log.info("%s: %s", name, "".join(c if c.isprintable() else repr(c)[1:-1] for c in text))


def _listed(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is none")


def _frame(message: Any) -> bytes:
    """A length, then JSON."""
    try:
        body = json.dumps(message, default=_listed).encode()
    except (TypeError, ValueError, RecursionError) as exc:
        raise ModelFailed(
            f"What passes to and from a model in its own process must be JSON: {exc}.",
            hint='Serve a model that takes or gives bytes on a thread: placement = "thread".',
        ) from None
    if len(body) > _LARGEST:
        raise ModelFailed("The data is too large for the model's process.", hint="Send less at once.")
    return _FRAME.pack(len(body)) + body


def write_frame(pipe: IO[bytes], message: Any) -> None:
    """The process's side: raises ModelFailed if the message is no JSON, before anything is written."""
    pipe.write(_frame(message))
    pipe.flush()


def read_frame(pipe: IO[bytes]) -> Any:
    """The process's side: the next question. Raises EOFError at the end."""
    head = pipe.read(_FRAME.size)
    if len(head) < _FRAME.size:
        raise EOFError
    (length,) = _FRAME.unpack(head)
    body = pipe.read(length)
    if len(body) < length:
        raise EOFError
    return json.loads(body)
