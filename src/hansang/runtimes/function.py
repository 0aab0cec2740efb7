"""A Python function, or an object with `predict` or `__call__`, as a model: `gates.py:and_gate`.

The types come from the hints, else from a sample; without either the model is untyped. The function is called once
for each row, as in the user's own program: nothing is batched. What it raises is the server's fault (500), but a
HansangError, such as InvalidInput, is told to the caller. A `hansang.Model` is used as it is.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from hansang.core.errors import HansangError, LoadFailed
from hansang.core.model import Call, LoadContext, Model
from hansang.core.signature import Field, Signature
from hansang.core.source import Source
from hansang.runtimes.parameters import Arguments, Parameters, parameters_of
from hansang.runtimes.python_files import load_object
from hansang.runtimes.results import outgoing
from hansang.runtimes.type_hints import kind_of_value
from hansang.tasks.tabular import TABULAR, Table

_ASYNC_CONCURRENCY = 64


class FunctionRuntime:
    """Claims what is named in a Python file or notebook."""

    name = "function"
    sources = (
        "a function, class or hansang.Model in a Python file or notebook (gates.py:and_gate, lesson.ipynb:predict)"
    )

    def claims(self, source: Source) -> bool:
        return source.is_python

    def open(self, source: Source) -> Model:
        info = {"file": str(source.path)}
        return as_model(load_object(source), source.text, info)

    def wrap(self, obj: Any) -> Model | None:
        """A function, class or instance that is there already, as a model. None: it is nothing of the kind."""
        return as_model(obj, _named(obj)) if callable(obj) or hasattr(obj, "predict") else None


def as_model(obj: Any, name: str, info: Mapping[str, Any] | None = None) -> Model:
    """A model that calls `obj`. `name` is what errors call it. Raises LoadFailed if it cannot be called."""
    if isinstance(obj, Model):
        return _whole(obj, name)
    if isinstance(obj, type) and issubclass(obj, Model):
        return _whole(_instance(obj, name), name)
    kind = "class" if isinstance(obj, type) else "function" if _is_function(obj) else "object"
    answers = obj if kind == "function" else _method(obj, name)
    _refuse(obj, answers, name)
    model = _AsyncFunction if inspect.iscoroutinefunction(inspect.unwrap(answers)) else _Function
    return model(obj, name, {"format": f"Python {kind}", **(info or {})})


class _Callable(Model):
    """What both kinds share; `target` is a function, an instance, or a class that `load` makes an instance of."""

    task = TABULAR

    def __init__(self, target: Any, name: str, info: Mapping[str, Any]) -> None:
        self.target = target
        self.name = name
        self._opened = dict(info)
        self.function: Callable[..., Any] = _not_loaded
        self.parameters: Parameters

    def load(self, context: LoadContext) -> None:
        obj = _instance(self.target, self.name) if isinstance(self.target, type) else self.target
        self.function = obj if _is_function(obj) else _method(obj, self.name)
        self.parameters, returns = parameters_of(self.function, self.name)
        sampled = context.sample is not None
        if sampled:
            returns = self._learn(context.sample, returns)
        if self.parameters.typed or (sampled and not self.parameters.variadic):
            self.signature = Signature(self.parameters.fields, (returns,))
        self.info = {**self._opened, **_about(obj, self.function)}

    def _learn(self, sample: Any, returns: Field) -> Field:
        """Call the function once with the sample: the types of what is not hinted. The output, from the result."""
        try:
            arguments = self.parameters.learn(sample)
            result = self.function(*arguments.args, **arguments.kwargs)
            result = outgoing(asyncio.run(_awaited(result)) if inspect.isawaitable(result) else result)
        except HansangError as exc:
            raise LoadFailed(f"{self.name} does not take the sample: {exc.message}", hint=exc.hint) from None
        except Exception as exc:
            raise LoadFailed(
                f"{self.name} failed on the sample: {type(exc).__name__}: {exc}",
                hint="Give a sample that it answers, in JSON: --sample '[5.1, 3.5, 1.4, 0.2]'",
            ) from exc
        return returns if returns.annotation is not None or returns.dtype != "json" else _result(result)

    def unload(self) -> None:
        self.function = _not_loaded

    def _calls(self, call: Call) -> Iterator[Arguments]:
        """The arguments for each row. Stops where nobody waits for the answer any more."""
        rows = self.parameters.untyped_rows if self.signature is None else self.parameters.rows
        for arguments in rows(call.request):
            call.context.check()
            yield arguments


class _Function(_Callable):
    """A `def`: it runs on a thread."""

    def predict(self, calls: Sequence[Call]) -> Sequence[Table | HansangError]:
        return [self._answer(call) for call in calls]

    def _answer(self, call: Call) -> Table | HansangError:
        function = self.function
        try:
            results = [outgoing(function(*args, **kwargs)) for args, kwargs in self._calls(call)]
        except HansangError as exc:
            return exc
        return Table({"result": results}, call.request.rows)


class _AsyncFunction(_Callable):
    """An `async def`: it runs on the event loop, many calls at a time."""

    concurrency = _ASYNC_CONCURRENCY

    async def predict(self, calls: Sequence[Call]) -> Sequence[Table | HansangError]:
        return [await self._answer(call) for call in calls]

    async def _answer(self, call: Call) -> Table | HansangError:
        function = self.function
        results = []
        try:
            for args, kwargs in self._calls(call):
                result = function(*args, **kwargs)
                results.append(outgoing(await result if inspect.isawaitable(result) else result))
        except HansangError as exc:
            return exc
        return Table({"result": results}, call.request.rows)


async def _awaited(result: Awaitable[Any]) -> Any:
    return await result


def _not_loaded(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("the model is not loaded")


def _result(value: Any) -> Field:
    return kind_of_value(value, fixed=False).field("result")


def _whole(model: Model, name: str) -> Model:
    if not hasattr(model, "task"):
        raise LoadFailed(
            f"{name} is a hansang.Model without a task.",
            hint="Say what it does: `task = TABULAR`, from hansang.tasks.tabular.",
        )
    return model


def _instance(cls: type, name: str) -> Any:
    try:
        needed = [
            parameter.name
            for parameter in inspect.signature(cls).parameters.values()
            if parameter.default is parameter.empty
            and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        ]
    except ValueError:  # a class written in C
        needed = []
    if needed:
        variable = cls.__name__.lower()
        raise LoadFailed(
            f"{name} is a class that needs arguments: {', '.join(needed)}.",
            hint=f"Make an instance in the file, `{variable} = {cls.__name__}(...)`, and serve that: ...:{variable}",
        )
    try:
        return cls()
    except HansangError:
        raise
    except Exception as exc:
        raise LoadFailed(
            f"{cls.__name__}() failed: {type(exc).__name__}: {exc}",
            hint="Make an instance by itself in Python to see the whole error.",
        ) from exc


def _method(obj: Any, name: str) -> Any:
    """`predict`, or else `__call__`: bound, if `obj` is an instance."""
    predict = getattr(obj, "predict", None)
    if callable(predict):
        return predict
    if "__call__" in {attribute for cls in _classes(obj) for attribute in vars(cls)}:
        return obj.__call__
    what = f"a class with neither predict nor __call__: {obj.__name__}" if isinstance(obj, type) else repr(type(obj))
    raise LoadFailed(
        f"{name} cannot be called: it is {what}.",
        hint="Name a function, a class with a method predict or __call__, an instance of one, or an ASGI app.",
    )


def _is_function(obj: Any) -> bool:
    return inspect.isroutine(obj) or isinstance(obj, partial)


def _classes(obj: Any) -> Sequence[type]:
    return (obj if isinstance(obj, type) else type(obj)).__mro__


def _refuse(obj: Any, answers: Any, name: str) -> None:
    """Say no to what looks like a function and is none."""
    if inspect.isgeneratorfunction(answers) or inspect.isasyncgenfunction(answers):
        raise LoadFailed(
            f"{name} yields; a prediction is one value.",
            hint="Return a list, or write a hansang.Model with a method stream.",
        )
    if isinstance(obj, type):
        return
    try:
        names = list(inspect.signature(answers).parameters)
    except (ValueError, TypeError):
        return
    if names == ["environ", "start_response"] or hasattr(obj, "wsgi_app"):
        raise LoadFailed(
            f"{name} is a WSGI app (Flask and Django make such); only ASGI apps can be mounted.",
            hint="Wrap it: pip install a2wsgi, then asgi = a2wsgi.WSGIMiddleware(app), and serve that.",
        )


def _about(obj: Any, function: Callable[..., Any]) -> dict[str, str]:
    """The docstring: its first line, and the rest."""
    while isinstance(function, partial):
        obj = function = function.func
    doc = inspect.getdoc(function) or ""
    if not _is_function(obj) and (not doc or getattr(function, "__name__", "") == "__call__"):
        doc = vars(type(obj)).get("__doc__") or doc
    title, _, rest = inspect.cleandoc(doc).partition("\n")
    about = {"title": title.strip().rstrip("."), "description": rest.strip()}
    return {key: value for key, value in about.items() if value}


def _named(obj: Any) -> str:
    return str(getattr(obj, "__name__", None) or type(obj).__name__)
