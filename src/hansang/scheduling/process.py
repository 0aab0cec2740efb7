"""A model in a process of its own, which it shares with nobody: for what is heavy, crash-prone or not trusted.

To the house it is a Model whose calls block, on its thread, until the process has answered. What passes between the
two is JSON in frames: nothing that comes from the process is ever unpickled here. The process gets no secrets: its
environment holds what a program needs to run, nothing else. When it dies its calls are 503, and the next one starts
it anew; when nobody waits for it any more, it is killed. Its memory returns when it ends.
"""

from __future__ import annotations

import json
import os
import select
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import IO, Any

from hansang.core.errors import HansangError, LoadFailed, ModelFailed, Unavailable
from hansang.core.model import Call, LoadContext, Model, Task
from hansang.core.signature import REQUIRED, Field, Signature
from hansang.core.source import Source

_FRAME = struct.Struct(">I")
_LARGEST = 2**30
_LOOK = 0.1
"""Seconds between two looks at whether anybody still waits."""
_PASSED_ON = (
    "PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "SYSTEMROOT", "LD_LIBRARY_PATH", "VIRTUAL_ENV",
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS",
)  # fmt: skip


class Hosted(Model):
    """`source` opened by the same runtimes, in another process (`python -m hansang.host`)."""

    placement = "process"

    def __init__(self, source: Source, task: Task) -> None:
        self.source = source
        self.task = task
        self._context = LoadContext()
        self._process: subprocess.Popen[bytes] | None = None

    def load(self, context: LoadContext) -> None:
        """Start the process and have it load. Raises what it raised."""
        self._context = context
        self._start()

    def predict(self, calls: Sequence[Call]) -> Sequence[Any]:
        try:
            process = self._process or self._start()
            answer = self._ask(process, {"op": "predict", "calls": [asdict(call.request) for call in calls]}, calls)
        except (OSError, EOFError) as exc:
            self._end()
            raise Unavailable(
                f"The model's process ended while it worked on this ({exc or 'killed'}).",
                hint="Ask again: it is started anew. Its own words are in the server's log.",
                code="process_ended",
            ) from None
        return [self._result(part) for part in answer["results"]]

    def unload(self) -> None:
        self._end()

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        self._process = process = subprocess.Popen(
            [sys.executable, "-m", "hansang.host"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        try:
            answer = self._ask(
                process, {"op": "load", "source": _source(self.source), "context": asdict(self._context)}
            )
        except (OSError, EOFError):
            self._end()
            raise LoadFailed(
                f"The process for {self.source.text} ended while it loaded.", hint="Its own words are in the log."
            ) from None
        if "error" in answer:
            self._end()
            raise LoadFailed(answer["error"]["message"], hint=answer["error"]["hint"])
        self.signature = signature_from(answer["signature"])
        self.info = {**answer["info"], "process": process.pid}
        self.max_batch_size = answer["max_batch_size"]
        return process

    def _ask(self, process: subprocess.Popen[bytes], question: Any, calls: Sequence[Call] = ()) -> Any:
        """One frame there, one back. Kills the process when every caller has gone."""
        assert process.stdin is not None
        assert process.stdout is not None
        write_frame(process.stdin, question)
        while not select.select([process.stdout], [], [], _LOOK)[0]:
            if calls and all(call.context.error is not None for call in calls):
                self._end()
                raise calls[0].context.error or EOFError
        return read_frame(process.stdout)

    def _result(self, part: Mapping[str, Any]) -> Any:
        if "error" in part:
            error = part["error"]
            known: dict[str, type[HansangError]] = {cls.__name__: cls for cls in _subclasses(HansangError)}
            return known.get(error["type"], ModelFailed)(error["message"], hint=error["hint"])
        return self.task.result(**part)

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    continue
        process.wait()


def write_frame(pipe: IO[bytes], message: Any) -> None:
    """A length, then JSON."""
    try:
        body = json.dumps(message).encode("utf-8", "surrogatepass")
    except (TypeError, ValueError) as exc:
        raise ModelFailed(
            f"What passes to and from a model in its own process must be JSON: {exc}.",
            hint='Serve a model that takes or gives bytes on a thread: placement = "thread".',
        ) from None
    if len(body) > _LARGEST:
        raise ModelFailed("The data is too large for the model's process.", hint="Send less at once.")
    pipe.write(_FRAME.pack(len(body)) + body)
    pipe.flush()


def read_frame(pipe: IO[bytes]) -> Any:
    """The next message. Raises EOFError at the end."""
    head = pipe.read(_FRAME.size)
    if len(head) < _FRAME.size:
        raise EOFError
    (length,) = _FRAME.unpack(head)
    if length > _LARGEST:
        raise EOFError("it sent a frame beyond all bounds")
    body = pipe.read(length)
    if len(body) < length:
        raise EOFError
    return json.loads(body)


def _source(source: Source) -> dict[str, Any]:
    return {
        "text": source.text,
        "path": None if source.path is None else str(source.path.resolve()),
        "scheme": source.scheme,
        "rest": source.rest,
        "attribute": source.attribute,
        "options": dict(source.options),
    }


def signature_to(signature: Signature | None) -> Any:
    """A signature as JSON. Python types stay behind: such a field takes any JSON, and the model checks it."""
    if signature is None:
        return None
    return {
        side: [
            {
                "name": field.name,
                "dtype": field.dtype,
                "shape": list(field.shape),
                "choices": None if field.choices is None else list(field.choices),
                "required": field.required,
                "default": None if field.required else field.default,
                "description": field.description,
            }
            for field in getattr(signature, side)
        ]
        for side in ("inputs", "outputs")
    }


def signature_from(told: Any) -> Signature | None:
    """The other way."""
    if told is None:
        return None
    sides = {
        side: tuple(
            Field(
                name=field["name"],
                dtype=field["dtype"],
                shape=tuple(field["shape"]),
                choices=None if field["choices"] is None else tuple(field["choices"]),
                default=REQUIRED if field["required"] else field["default"],
                description=field["description"],
            )
            for field in told[side]
        )
        for side in ("inputs", "outputs")
    }
    return Signature(**sides)


def _subclasses(cls: type[HansangError]) -> list[type[HansangError]]:
    return [cls, *(below for direct in cls.__subclasses__() for below in _subclasses(direct))]
