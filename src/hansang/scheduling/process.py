"""A model in a process of its own, which it shares with nobody: for what is heavy, crash-prone or not trusted.

To the house it is a Model whose calls block, on its thread, until the process has answered. What passes between the
two is JSON in frames, bounded, and waited for no longer than somebody waits for the answer: nothing that comes from
the process is ever unpickled here. The process gets no secrets: its environment holds what a program needs to run,
nothing else. When it dies its calls are 503, and the next one starts it anew; when nobody waits for it any more, it
is killed, with every process that it started in its group. Its memory returns when it ends.

It is no sandbox: the process is the same user's, who may read that user's files and talk to the network.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from hansang.core.errors import HansangError, LoadFailed, ModelFailed, Unavailable
from hansang.core.model import Call, LoadContext, Model, Task
from hansang.core.signature import REQUIRED, Field, Signature
from hansang.core.source import CLASS, Source
from hansang.scheduling.child import Child, patient

log = logging.getLogger("hansang.model")


class Hosted(Model):
    """`source` opened by the same runtimes, in another process (`python -m hansang.host`)."""

    placement = "process"

    def __init__(self, source: Source, task: Task) -> None:
        self.source = source
        self.task = task
        self._context = LoadContext()
        self._child: Child | None = None
        self._asking = threading.Lock()
        """One question at a time, however many threads ask."""
        self._stopped = False

    def load(self, context: LoadContext) -> None:
        """Start the process and have it load. Raises what it raised."""
        self._context, self._stopped = context, False
        facts = self._start(patient())
        try:
            self.signature = signature_from(facts["signature"])
            self.info = {**facts["info"], "process": self._child.pid if self._child else None}
            if "max_batch_size" not in vars(self):
                self.max_batch_size = int(facts["max_batch_size"])
        except BaseException:
            self._end()
            raise

    def predict(self, calls: Sequence[Call]) -> Sequence[Any]:
        def look() -> None:
            if all(call.context.error is not None for call in calls):
                raise calls[0].context.error or EOFError

        question = {"op": "predict", "calls": [_shallow(call.request) for call in calls]}
        with self._asking:
            look()
            try:
                if self._child is None:
                    self._start_again(look)
                assert self._child is not None
                answer = self._child.ask(question, look)
            except EOFError as exc:
                raise Unavailable(
                    f"The model's process ended while it worked on this ({self._end(exc)}).",
                    hint="Ask again: it is started anew. Its own words are in the server's log.",
                    code="process_ended",
                ) from None
            except ModelFailed:
                raise  # the question could not be put; the process did not hear of it
            except BaseException:
                self._end()  # nobody waits any more
                raise
        return self._results(answer, calls)

    def unload(self) -> None:
        """End the process, whatever it is at; who waits for it is told."""
        self._stopped = True
        if (child := self._child) is not None:
            child.kill()
        with self._asking:
            self._end()

    def _start_again(self, look: Callable[[], None]) -> None:
        if self._stopped:
            raise Unavailable("The model is unloaded.", hint="Load it again, or ask another.")
        try:
            self._start(look)
        except LoadFailed as exc:
            raise Unavailable(
                f"The model's process had ended, and could not be started again: {exc.message}",
                hint=exc.hint,
                code="process_ended",
            ) from None

    def _start(self, look: Callable[[], None]) -> Any:
        """A new process that has loaded the model: what it says of it."""
        self._child = child = Child(self.source.text)
        try:
            answer = child.ask({"op": "load", "source": _source(self.source), "context": asdict(self._context)}, look)
            if "error" in answer:
                raise LoadFailed(str(answer["error"]["message"]), hint=_text(answer["error"].get("hint")))
            return answer
        except BaseException as exc:
            why = self._end(exc)
            if isinstance(exc, EOFError):
                raise LoadFailed(
                    f"The process for {self.source.text} ended while it loaded ({why}).",
                    hint="Its own words are in the server's log.",
                ) from None
            raise

    def _results(self, answer: Mapping[str, Any], calls: Sequence[Call]) -> Sequence[Any]:
        """As the task's results. A wrong answer is the model's failure."""
        try:
            if "error" in answer:
                return [_error(answer["error"])] * len(calls)
            return [
                _error(part["error"]) if "error" in part else self._checked(self.task.result(**part), call)
                for part, call in zip(answer["results"], calls, strict=True)
            ]
        except (TypeError, ValueError, KeyError, AttributeError) as exc:
            log.error("the process for %s gave what is no answer (%s)", self.source.text, exc)
            raise ModelFailed(
                "The model's process gave what is no answer.", hint="The server's log says more."
            ) from None

    def _checked(self, result: Any, call: Call) -> Any:
        """Rows and columns are what every protocol counts on; a process may say anything."""
        columns = getattr(result, "columns", None)
        if columns is not None:
            rows = call.request.rows
            if result.rows != rows or not columns or any(len(column) != rows for column in columns.values()):
                raise ValueError(f"{rows} rows were asked for")
        return result

    def _end(self, cause: BaseException | None = None) -> str:
        """End the process, and say why it ended: the `cause`, or else what its end tells."""
        child, self._child = self._child, None
        status = child.close() if child is not None else "killed"
        return str(cause or "") or status


def _shallow(request: Any) -> dict[str, Any]:
    """`dataclasses.asdict` would copy every number."""
    return {field.name: getattr(request, field.name) for field in fields(request)}


def _source(source: Source) -> dict[str, Any]:
    return {
        "text": source.text,
        "path": None if source.path is None else str(source.path.resolve()),
        "scheme": source.scheme,
        "rest": source.rest,
        "attribute": source.attribute,
        "options": {name: os.path.abspath(value) if name == CLASS else value for name, value in source.options.items()},
    }


def _error(told: Mapping[str, Any]) -> HansangError:
    """As the process says; of a kind that is unknown here, the model's failure."""
    known = {cls.__name__: cls for cls in _subclasses(HansangError)}
    kind = known.get(str(told["type"]), ModelFailed)
    return kind(str(told["message"]), hint=_text(told.get("hint")), param=_text(told.get("param")))


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


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
