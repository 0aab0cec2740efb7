"""One model in a process of its own: `python -m hansang.host`, started by `scheduling.process`, talks JSON in frames.

It opens the source it is told with the same runtimes as the server, loads it, and answers until its input ends. What
the model prints goes to the log, not into the answers; what the model reads is empty. It is killed when the server
is gone, whatever the model does then.
"""

from __future__ import annotations

import asyncio
import fcntl
import inspect
import json
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from hansang.core.errors import HansangError, ModelFailed
from hansang.core.model import Call, CallContext, LoadContext, Model
from hansang.core.source import HOSTED, Source
from hansang.scheduling.child import read_frame, write_frame
from hansang.scheduling.process import signature_to

log = logging.getLogger("hansang.host")


def main() -> None:
    """Answer until the parent has gone."""
    _die_with_parent(int(sys.argv[1]))
    logging.basicConfig(format="%(message)s")
    questions, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "rb") as empty:
        os.dup2(empty.fileno(), 0)
    os.dup2(2, 1)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    model: Model | None = None
    while True:
        try:
            question = read_frame(questions)
        except EOFError:
            return
        try:
            if question["op"] == "load":
                model, answer = _load(question)
            elif question["op"] == "convert":
                answer = _convert(question)
            else:
                assert model is not None
                answer = {"results": _predict(model, question["calls"])}
        except (Exception, SystemExit) as exc:
            answer = {"error": _error(exc)}
        try:
            write_frame(answers, {**answer, "number": question["number"]})
        except HansangError as exc:
            write_frame(answers, {"error": _error(exc), "number": question["number"]})


def _die_with_parent(lifeline: int) -> None:
    """The system kills this process's group when the other end of `lifeline` closes, even if Python is stuck."""
    if not hasattr(fcntl, "F_SETSIG"):
        return  # not Linux: it ends when it next reads
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)


def _load(question: Mapping[str, Any]) -> tuple[Model, dict[str, Any]]:
    from hansang.app import open_source

    told = question["source"]
    path = None if told["path"] is None else Path(told["path"])
    if path is not None:
        _go_to(path.parent)
    options = {**told["options"], HOSTED: "yes"}
    source = Source(told["text"], path, told["scheme"], told["rest"], told["attribute"], options)
    model = open_source(source)
    if not isinstance(model, Model):
        raise HansangError(f"{told['text']} is an app, not a model.")
    model.load(LoadContext(**question["context"]))
    facts = {
        "signature": signature_to(model.signature),
        "info": json.loads(json.dumps(dict(model.info), default=str, skipkeys=True)),
        "max_batch_size": model.max_batch_size,
    }
    return model, facts


def _go_to(folder: Path) -> None:
    """Be where the model's file is, so that it finds what lies beside it: its class's module, its data."""
    os.chdir(folder)
    sys.path.insert(0, str(folder))


def _convert(question: Mapping[str, Any]) -> dict[str, Any]:
    from hansang.convert.convert import Wanted, convert

    wanted = Wanted(**{**question["wanted"], "path": Path(question["wanted"]["path"])})
    _go_to(wanted.path.parent)
    return {"told": convert(wanted, Path(question["file"]))}


def _predict(model: Model, calls: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each call's result; the calls are tried one by one if together they fail."""
    from hansang.scheduling.executors import answer, answer_async

    asked = [Call(model.task.request(**call), CallContext("hosted", float("inf"))) for call in calls]
    if any(inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method)
           for method in (model.predict, model.stream)):  # fmt: skip
        results = asyncio.run(answer_async(model, asked))
    else:
        results = answer(model, asked)
    return [_told(result) for result in results]


def _told(result: Any) -> dict[str, Any]:
    if isinstance(result, HansangError):
        return {"error": _error(result)}
    return {field.name: getattr(result, field.name) for field in fields(result)}


def _error(error: BaseException) -> dict[str, Any]:
    if not isinstance(error, HansangError):
        log.error("the model failed", exc_info=error)
        error = ModelFailed(f"{type(error).__name__}: {error}")
    return {"type": type(error).__name__, "message": error.message, "hint": error.hint, "param": error.param}


if __name__ == "__main__":
    main()
