"""The conformance kit: does a Model keep the contract of `hansang.core.model`? For plug-in authors and ourselves.

    def test_my_runtime(tmp_path):
        model = MyRuntime().open(parse(str(save_a_model(tmp_path)))[1])
        check_runtime(model, [Table({"x": [1.0, 2.0]}, 2), Table({"x": [3.0]}, 1)], wrong=Table({"x": ["three"]}, 1))

It asks through the engine that a server has, so `def` and `async def`, whole answers and streams are all the same
to it. It knows no protocol, and does not judge whether an answer is right: that is what your other tests are for.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from copy import deepcopy
from dataclasses import fields, is_dataclass
from time import monotonic
from typing import Any

from hansang.core.errors import HansangError, LoadFailed
from hansang.core.model import Call, CallContext, Model
from hansang.core.signature import DTYPES, FLOATS, INTEGERS, Field
from hansang.core.source import Source
from hansang.engine.engine import Engine
from hansang.registry.registry import Entry, ModelSpec, Registry
from hansang.tasks.tabular import TABULAR, Blob, Table
from hansang.usage.metrics import Metrics

_SECONDS = 60.0


def check_runtime(model: Model, requests: Sequence[Any], *, wrong: Any = None, sample: Any = None) -> None:
    """Raise AssertionError, in words, for the first thing that `model` (opened, not loaded) does not keep.

    `requests` are of the model's task, at least two, with different answers (rows of a table count); `wrong` is one
    that the model must refuse or fail on. The model must answer the same request in the same way each time.
    """
    _expect(model.overrides("predict") or model.overrides("stream"), "it has neither predict nor stream")
    asyncio.run(_check(model, deepcopy(list(requests)), wrong, sample))


async def _check(model: Model, requests: list[Any], wrong: Any, sample: Any) -> None:
    async with _loaded(model, sample) as ask:
        alone = await _check_answers(model, ask, requests, wrong)
        if model.task is TABULAR:
            _check_signature(model, requests, alone)
    async with _loaded(model, sample) as ask:
        again = [await ask.predict(request) for request in requests]
        _expect(same(alone, again), f"loaded again, it answers {again}, before {alone}")


class _Ask:
    """Asks one loaded model, as a protocol adapter does."""

    def __init__(self, engine: Engine, entry: Entry) -> None:
        self._engine = engine
        self._entry = entry

    async def predict(self, request: Any) -> Any:
        return await self._engine.predict(self._entry, request, _context())

    def stream(self, request: Any) -> AsyncGenerator[Any]:
        return self._engine.stream(self._entry, request, _context())


@asynccontextmanager
async def _loaded(model: Model, sample: Any) -> AsyncIterator[_Ask]:
    def no_source(source: Source) -> Model:
        raise LoadFailed(f"{source.text} is not looked for here")

    registry = Registry(no_source)
    registry.add(ModelSpec("model", Source("model", scheme="model"), sample=sample), model)
    entry = await registry.load("model")
    try:
        yield _Ask(Engine(registry, Metrics()), entry)
    finally:
        await registry.unload("model")


async def _check_answers(model: Model, ask: _Ask, requests: list[Any], wrong: Any) -> list[Any]:
    untouched = deepcopy(requests)
    alone = [await ask.predict(request) for request in requests]
    kind = model.task.result
    for request, answer in zip(requests, alone, strict=True):
        _expect(isinstance(answer, kind), f"to {request} it answers a {type(answer).__name__}, not a {kind.__name__}")
        if isinstance(answer, Table):
            _check_rows(request, answer)
    _expect(same(untouched, requests), f"it changed a request that it was given: {untouched} became {requests}")
    _expect(_telling(model, requests, alone), "give at least two requests (or rows) whose answers differ")
    await _check_batches(model, requests, alone)
    together = await asyncio.gather(*(ask.predict(request) for request in requests))
    _expect(same(together, alone), f"to callers at the same time it answers {together}, one by one {alone}")
    await _check_cuts(model, ask, requests, alone)
    if model.overrides("stream"):
        await _check_stream(model, ask, requests, alone)
    if wrong is not None:
        answers = await asyncio.gather(*map(ask.predict, [requests[0], wrong, *requests[1:]]), return_exceptions=True)
        failed = answers.pop(1)
        _expect(isinstance(failed, HansangError), f"to the wrong request it answers {failed}, expected an error")
        _expect(same(answers, alone), f"beside a wrong request it answers {answers}, without it {alone}")
    return alone


async def _check_batches(model: Model, requests: Sequence[Any], alone: Sequence[Any]) -> None:
    """`predict` itself: one result for each call, in the calls' order, as one by one."""
    if not model.overrides("predict"):
        return
    for batch in _batches(model, requests):
        for order in (batch, batch[::-1]):
            calls = [Call(requests[index], _context()) for index in order]
            answered = model.predict(calls)
            given = list(await answered if inspect.isawaitable(answered) else answered)
            _expect(len(given) == len(calls), f"predict was given {len(calls)} calls and returned {len(given)} results")
            wanted = [alone[index] for index in order]
            _expect(same(given, wanted), f"in a batch it answers {given}, one by one {wanted}")


def _batches(model: Model, requests: Sequence[Any]) -> list[list[int]]:
    """Which requests may share a batch, by index: as the batcher joins them, by shape, up to the model's rows."""
    groups: dict[Any, list[int]] = {}
    for index, request in enumerate(requests):
        groups.setdefault(model.task.shape(request), []).append(index)
    batches = []
    for group in groups.values():
        batch: list[int] = []
        room = model.max_batch_size
        for index in group:
            rows = model.task.rows(requests[index])
            if batch and rows > room:
                batches.append(batch)
                batch, room = [], model.max_batch_size
            batch.append(index)
            room -= rows
        batches.append(batch)
    return batches


async def _check_cuts(model: Model, ask: _Ask, requests: Sequence[Any], alone: Sequence[Any]) -> None:
    """A request cut in two and its answers merged is the whole answer."""
    cut, merge, rows = model.task.cut, model.task.merge, model.task.rows
    if cut is None or merge is None:
        return
    for request, whole in zip(requests, alone, strict=True):
        count = rows(request)
        for middle in sorted({1, count // 2, count - 1} - {0, count}):
            parts = [cut(request, 0, middle), cut(request, middle, count)]
            merged = merge([await ask.predict(part) for part in parts])
            _expect(same(merged, whole), f"cut at row {middle} it answers {merged}, whole {whole}")


async def _check_stream(model: Model, ask: _Ask, requests: Sequence[Any], alone: Sequence[Any]) -> None:
    """The deltas are the task's, joined they are the whole answer, and a stream that is left takes nobody's place."""
    task = model.task
    assert task.join is not None, f"the task {task.name} has no stream"
    assert task.delta is not None, f"the task {task.name} has no stream"
    for request, whole in zip(requests, alone, strict=True):
        deltas = [delta async for delta in ask.stream(request)]
        for delta in deltas:
            _expect(isinstance(delta, task.delta), f"it streams a {type(delta).__name__}, not {task.delta.__name__}")
        joined = task.join(deltas)
        _expect(same(joined, whole), f"its stream joins to {joined}, its whole answer is {whole}")
    for _ in range(model.concurrency):
        async with aclosing(ask.stream(requests[0])) as left:
            async for _ in left:
                break
    _expect(same(await ask.predict(requests[0]), alone[0]), "after a stream that was left, it answers otherwise")


def _telling(model: Model, requests: Sequence[Any], alone: Sequence[Any]) -> bool:
    """Whether an answer in the wrong place would be seen."""
    if model.task is TABULAR:
        rows = [row for answer in alone for row in zip(*answer.columns.values(), strict=True)]
    else:
        rows = list(alone)
    return len(requests) > 1 and any(not same(rows[0], row) for row in rows[1:])


def _check_rows(request: Table, answer: Table) -> None:
    lengths = {name: len(column) for name, column in answer.columns.items()}
    fits = answer.rows == request.rows and set(lengths.values()) == {request.rows}
    _expect(fits, f"to {request.rows} rows it answers {answer.rows}, with columns of {lengths}")


def _check_signature(model: Model, requests: Sequence[Table], alone: Sequence[Table]) -> None:
    """What comes out is what the signature says."""
    if model.signature is None:
        return
    inputs, outputs = model.signature.inputs, model.signature.outputs
    for one in (*inputs, *outputs):
        _expect(one.dtype in DTYPES, f"its signature has the dtype {one.dtype!r}; expected one of {', '.join(DTYPES)}")
    for request, answer in zip(requests, alone, strict=True):
        known, given = {one.name for one in inputs}, set(request.columns)
        _expect(given <= known, f"the request has {sorted(given - known)}, which its signature does not name")
        said, made = [one.name for one in outputs], list(answer.columns)
        _expect(said == made, f"its signature says that it gives {said}, it gives {made}")
        for one in outputs:
            for value in answer.columns[one.name]:
                fault = _misfit(one, value)
                _expect(fault is None, f"its signature says {one.name}: {one.describe()}, it gives {fault}")


def _misfit(field: Field, value: Any, depth: int = 0) -> str | None:
    """What is wrong with a value of an output, in words. None: it fits."""
    if depth < len(field.shape):
        if not hasattr(value, "__len__") or isinstance(value, str):
            return f"{value!r}, expected a list"
        length = field.shape[depth]
        if length is not None and len(value) != length:
            return f"{len(value)} values, expected {length}"
        return next((fault for item in value if (fault := _misfit(field, item, depth + 1))), None)
    value = value.item() if getattr(value, "shape", None) == () else value
    if field.choices is not None and value not in field.choices:
        return repr(value)
    return None if _is_of(field.dtype, value) else repr(value)


def _is_of(dtype: str, value: Any) -> bool:
    if dtype == "bool":
        return isinstance(value, bool)
    if dtype in INTEGERS:
        bits, signed = int(dtype.lstrip("uint")), not dtype.startswith("u")
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else (0, 2**bits)
        return isinstance(value, int) and not isinstance(value, bool) and low <= value < high
    if dtype in FLOATS:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if dtype == "string":
        return isinstance(value, str)
    if dtype in ("bytes", "image"):
        return isinstance(value, Blob) and (dtype == "bytes" or value.content_type.startswith("image/"))
    return True


def same(one: Any, other: Any) -> bool:
    """Equal; floats nearly so (another batch adds up in another order); an array is as the list of its values."""
    one, other = _plain(one), _plain(other)
    if isinstance(one, float) and isinstance(other, float | int):
        return math.isclose(one, other, rel_tol=1e-5, abs_tol=1e-6) or (math.isnan(one) and math.isnan(other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(other, float):
        return isinstance(one, int) and same(other, one)
    return bool(one == other)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {"": type(value).__name__, **{field.name: getattr(value, field.name) for field in fields(value)}}
    if hasattr(value, "tolist"):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value


def _context() -> CallContext:
    return CallContext("check_runtime", monotonic() + _SECONDS)


def _expect(true: bool, message: str) -> None:
    if not true:
        raise AssertionError(message)
