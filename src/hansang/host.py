"""One model in a process of its own: `python -m hansang.host`, started by `scheduling.process`, talks JSON in frames.

It opens the source it is told with the same runtimes as the server, loads it, and answers until its input ends. What
the model prints goes to the log, not into the answers.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hansang.core.errors import HansangError
from hansang.core.model import Call, CallContext, LoadContext, Model
from hansang.core.source import HOSTED, Source
from hansang.scheduling.process import read_frame, signature_to, write_frame

log = logging.getLogger("hansang.host")


def main() -> None:
    """Answer until the parent has gone."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    questions = sys.stdin.buffer
    model: Model | None = None
    while True:
        try:
            question = read_frame(questions)
        except EOFError:
            return
        try:
            if question["op"] == "load":
                model, answer = _load(question)
            else:
                assert model is not None
                answer = {"results": _predict(model, question["calls"])}
        except HansangError as exc:
            answer = {"error": _error(exc)}
        except Exception as exc:
            log.exception("the model failed")
            answer = {"error": {"type": "LoadFailed", "message": f"{type(exc).__name__}: {exc}", "hint": None}}
        write_frame(answers, answer)


def _load(question: Mapping[str, Any]) -> tuple[Model, dict[str, Any]]:
    from hansang.app import open_source

    told = question["source"]
    path = None if told["path"] is None else Path(told["path"])
    if path is not None:
        os.chdir(path.parent)
        sys.path.insert(0, str(path.parent))
    options = {**told["options"], HOSTED: "yes"}
    source = Source(told["text"], path, told["scheme"], told["rest"], told["attribute"], options)
    model = open_source(source)
    if not isinstance(model, Model):
        raise HansangError(f"{told['text']} is an app, not a model.")
    model.load(LoadContext(**question["context"]))
    facts = {
        "signature": signature_to(model.signature),
        "info": _plain(model.info),
        "max_batch_size": model.max_batch_size,
    }
    return model, facts


def _predict(model: Model, calls: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each call's result; the calls are tried one by one if together they fail."""
    from hansang.scheduling.executors import answer

    asked = [Call(model.task.request(**call), CallContext("hosted", float("inf"))) for call in calls]
    results = []
    for result in answer(model, asked):
        if isinstance(result, HansangError):
            results.append({"error": _error(result)})
        else:
            results.append({name: _plain(getattr(result, name)) for name in result.__dataclass_fields__})
    return results


def _error(error: HansangError) -> dict[str, Any]:
    return {"type": type(error).__name__, "message": error.message, "hint": error.hint}


def _plain(value: Any) -> Any:
    """As JSON can say it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


if __name__ == "__main__":
    main()
