"""The conformance kit passes models that keep the contract, and fails each that breaks one part of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, ClassVar

import pytest

from hansang.core.errors import InvalidInput
from hansang.core.model import Call, LoadContext, Model
from hansang.core.signature import Field, Signature
from hansang.tasks.chat import CHAT, ChatDelta, ChatRequest, ChatResult, Message
from hansang.tasks.tabular import TABULAR, Table
from hansang.testing import check_runtime, same

REQUESTS = [Table({"x": [1.0, 2.0, 3.0]}, 3), Table({"x": [4.0]}, 1), Table({"x": [5.0, 6.5]}, 2)]
WRONG = Table({"x": ["seven"]}, 1)


class Double(Model):
    """Keeps the contract."""

    task = TABULAR
    max_batch_size = 4
    signature: Signature | None = Signature((Field("x", "float64"),), (Field("y", "float64"),))

    def predict(self, calls: Sequence[Call]) -> Sequence[Any]:
        return [self.answer(call.request) for call in calls]

    def answer(self, table: Table) -> Any:
        return Table({"y": [self.double(x) for x in table.columns["x"]]}, table.rows)

    def double(self, x: Any) -> Any:
        if not isinstance(x, float):
            raise InvalidInput("not a number")
        return 2 * x


class InlineDouble(Double):
    placement = "inline"


class AsyncDouble(Double):
    concurrency = 4

    async def predict(self, calls: Sequence[Call]) -> Sequence[Any]:
        await asyncio.sleep(0)
        return [self.answer(call.request) for call in calls]


class UntypedDouble(Double):
    signature = None


class OneByOneDouble(Double):
    max_batch_size = 1


@pytest.mark.parametrize("model", [Double, InlineDouble, AsyncDouble, UntypedDouble, OneByOneDouble])
def test_a_model_that_keeps_the_contract_passes(model: type[Model]) -> None:
    check_runtime(model(), REQUESTS, wrong=WRONG)


class NoMethods(Model):
    task = TABULAR


class OneResultShort(Double):
    def predict(self, calls: Sequence[Call]) -> Sequence[Any]:
        return super().predict(calls)[: max(1, len(calls) - 1)]


class Reversed(Double):
    def predict(self, calls: Sequence[Call]) -> Sequence[Any]:
        return super().predict(calls)[::-1]


class LastForAll(Double):
    """Answers all calls of a batch as if they were the last."""

    def predict(self, calls: Sequence[Call]) -> Sequence[Any]:
        return [super().predict([calls[-1]])[0]] * len(calls)


class FromTheBatchsMean(Double):
    """Its answer to a row depends on the other rows."""

    def answer(self, table: Table) -> Table:
        column = table.columns["x"]
        mean = sum(column) / len(column)
        return Table({"y": [x - mean for x in column]}, table.rows)


class RowsReversed(Double):
    def answer(self, table: Table) -> Table:
        return Table({"y": [self.double(x) for x in table.columns["x"]][::-1]}, table.rows)


class RowMissing(Double):
    def answer(self, table: Table) -> Table:
        return Table({"y": [2 * x for x in table.columns["x"]][:1]}, 1)


class NotATable(Double):
    def answer(self, table: Table) -> Any:
        return [2 * x for x in table.columns["x"]]


class OtherColumn(Double):
    def answer(self, table: Table) -> Table:
        return Table({"z": super().answer(table).columns["y"]}, table.rows)


class TextForNumbers(Double):
    def double(self, x: Any) -> str:
        return str(super().double(x))


class ListForNumbers(Double):
    def double(self, x: Any) -> list[float]:
        return [super().double(x)]


class UnknownType(Double):
    signature = Signature((Field("x", "double"),), (Field("y", "float64"),))


class TakesAnything(Double):
    def double(self, x: Any) -> float:
        return 2.0 * len(x) if isinstance(x, str) else super().double(x)


class BrokenByAWrongRequest(Double):
    """After one bad request it refuses all."""

    broken = False

    def double(self, x: Any) -> Any:
        self.broken = self.broken or isinstance(x, str)
        return super().double("broken" if self.broken else x)


class ChangesItsRequest(Double):
    def answer(self, table: Table) -> Table:
        answer = super().answer(table)
        table.columns["x"].append(0.0)  # type: ignore[attr-defined]
        return answer


class LoadsOnce(Double):
    loads = 0

    def load(self, context: LoadContext) -> None:
        self.loads += 1
        if self.loads > 1:
            raise RuntimeError("already loaded")


class ForgetsAtUnload(Double):
    factor = 1.0

    def double(self, x: Any) -> Any:
        return self.factor * super().double(x)

    def unload(self) -> None:
        self.factor = 3.0


class AlwaysTheSame(Double):
    def double(self, x: Any) -> Any:
        return 0 * super().double(x)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (NoMethods, "neither predict nor stream"),
        (OneResultShort, "was given 2 calls and returned 1 results"),
        (Reversed, "in a batch it answers"),
        (LastForAll, "in a batch it answers"),
        (FromTheBatchsMean, "cut at row 1"),
        (RowsReversed, "cut at row 1"),
        (RowMissing, "to 3 rows it answers 1"),
        (NotATable, "answers a list, not a Table"),
        (OtherColumn, r"says that it gives \['y'\], it gives \['z'\]"),
        (TextForNumbers, "says y: float64, it gives '2.0'"),
        (ListForNumbers, r"says y: float64, it gives \[2.0\]"),
        (UnknownType, "dtype 'double'"),
        (TakesAnything, "to the wrong request it answers"),
        (BrokenByAWrongRequest, "beside a wrong request"),
        (ChangesItsRequest, "it changed a request"),
        (LoadsOnce, "already loaded"),
        (ForgetsAtUnload, "loaded again, it answers"),
        (AlwaysTheSame, "at least two requests"),
    ],
)
def test_a_model_that_breaks_it_is_found(broken: type[Model], said: str) -> None:
    with pytest.raises(Exception, match=said):
        check_runtime(broken(), REQUESTS, wrong=WRONG)


def chat(text: str) -> ChatRequest:
    return ChatRequest([Message("user", text)])


class Shout(Model):
    """Streams, and answers whole."""

    task = CHAT
    concurrency = 2

    def predict(self, calls: Sequence[Call]) -> Sequence[Any]:
        return [ChatResult(call.request.messages[-1].content.upper()) for call in calls]

    def stream(self, call: Call) -> Iterator[Any]:
        for letter in self.predict([call])[0].content:
            yield ChatDelta(letter)
        yield ChatDelta(finish_reason="stop")


class OnlyStreams(Shout):
    predict = Model.predict  # type: ignore[assignment]

    def stream(self, call: Call) -> Iterator[Any]:
        yield from (ChatDelta(letter.upper()) for letter in call.request.messages[-1].content)


class StreamsAsync(Shout):
    async def predict(self, calls: Sequence[Call]) -> Sequence[Any]:  # type: ignore[override]
        return super().predict(calls)

    async def stream(self, call: Call) -> AsyncIterator[Any]:  # type: ignore[override]
        for letter in call.request.messages[-1].content:
            yield ChatDelta(letter.upper())


@pytest.mark.parametrize("model", [Shout, OnlyStreams, StreamsAsync])
def test_a_model_that_streams_passes(model: type[Model]) -> None:
    check_runtime(model(), [chat("hello"), chat("world")])


class StreamsOtherwise(Shout):
    def stream(self, call: Call) -> Iterator[Any]:
        yield ChatDelta("other")


class StreamsText(Shout):
    def stream(self, call: Call) -> Iterator[Any]:
        yield from self.predict([call])[0].content


class BreaksWhenLeft(Shout):
    """A caller who leaves a stream leaves it in disorder."""

    answers: ClassVar[list[str]] = []

    def predict(self, calls: Sequence[Call]) -> Sequence[Any]:
        return [ChatResult("broken")] if "left" in self.answers else super().predict(calls)

    def stream(self, call: Call) -> Iterator[Any]:
        try:
            yield from super().stream(call)
        except GeneratorExit:
            self.answers.append("left")
            raise


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (StreamsOtherwise, "its stream joins to"),
        (StreamsText, "it streams a str, not ChatDelta"),
        (BreaksWhenLeft, "after a stream that was left"),
    ],
)
def test_a_broken_stream_is_found(broken: type[Model], said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        check_runtime(broken(), [chat("hello" * 1000), chat("world")])


@pytest.mark.parametrize(
    ("field", "fits", "not_"),
    [
        (Field("y", "uint8"), 255, 256),
        (Field("y", "int8"), -128, 128),
        (Field("y", "int64"), 3, 3.5),
        (Field("y", "int64"), 3, True),
        (Field("y", "bool"), True, 1),
        (Field("y", "float32"), 3, float("nan")),
        (Field("y", "string"), "a", 1),
        (Field("y", "string", choices=("a", "b")), "a", "c"),
        (Field("y", "bytes"), None, b"raw"),
        (Field("y", "float64", (2,)), [1.0, 2.0], [1.0]),
        (Field("y", "float64", (None, 1)), [[1.0], [2.0]], [[1.0], [2.0, 3.0]]),
        (Field("y", "json"), {"any": ["thing"]}, None),
    ],
)
def test_outputs_are_held_against_the_signature(field: Field, fits: Any, not_: Any) -> None:
    class Says(Double):
        signature = Signature((Field("x", "float64"),), (field, Field("z", "float64")))
        value: Any = fits

        def answer(self, table: Table) -> Table:
            return Table({"y": [self.value] * table.rows, "z": super().answer(table).columns["y"]}, table.rows)

    if fits is not None:
        check_runtime(Says(), REQUESTS)
    if not_ is not None:
        Says.value = not_
        with pytest.raises(AssertionError, match="its signature says y"):
            check_runtime(Says(), REQUESTS)


def test_what_is_the_same() -> None:
    import numpy as np

    assert same(Table({"y": np.array([1.0, 2.0])}, 2), Table({"y": [1, 2.0000001]}, 2))
    assert same(float("nan"), float("nan"))
    assert not same(Table({"y": [1.0]}, 1), Table({"y": [1.1]}, 1))
    assert not same([1, 2], [1])
    assert not same({"a": 1}, {"b": 1})
    assert not same("1", 1)
    assert not same(ChatResult("a"), ChatDelta("a"))
