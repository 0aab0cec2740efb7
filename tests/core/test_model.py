"""A call's context, and what a model says of itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hansang.core.errors import ClientGone, DeadlineExceeded, HansangError
from hansang.core.model import Call, CallContext, Model, Mount, Task
from hansang.core.signature import Field, Signature


def context() -> CallContext:
    return CallContext("req_1", 10.0)


def test_a_call_ends_once_and_everybody_is_told_once() -> None:
    told: list[HansangError] = []
    call = context()
    call.on_end(told.append)
    call.on_end(told.append)
    call.check()
    call.cancel(DeadlineExceeded("time"))
    call.cancel()
    assert [type(error) for error in told] == [DeadlineExceeded] * 2
    with pytest.raises(DeadlineExceeded):
        call.check()


def test_by_default_a_call_ends_because_nobody_waits() -> None:
    call = context()
    call.cancel()
    assert isinstance(call.error, ClientGone)


def test_who_asks_too_late_is_told_at_once() -> None:
    told: list[HansangError] = []
    call = context()
    call.cancel()
    call.on_end(told.append)
    assert len(told) == 1


def test_whoever_is_told_may_ask_to_be_told_again() -> None:
    told: list[str] = []
    call = context()
    call.on_end(lambda error: call.on_end(lambda error: told.append("second")))
    call.cancel()
    assert told == ["second"]


def test_a_call_that_is_over_tells_nobody_and_keeps_nobody() -> None:
    told: list[HansangError] = []
    call = context()
    call.on_end(told.append)
    call.forget()
    call.cancel()
    assert told == []
    assert call.error is not None


def test_a_model_brings_predict_or_stream_or_both() -> None:
    class Streams(Model):
        task = Task("t", request=list, result=list)

        def stream(self, call: Call) -> Iterator[int]:
            yield 1

    assert Streams.overrides("stream")
    assert not Streams.overrides("predict")
    with pytest.raises(NotImplementedError, match="Streams has no predict"):
        Streams().predict([])
    with pytest.raises(NotImplementedError, match="Model has no stream"):
        Model().stream(Call(None, context()))


def test_a_task_without_rows_counts_one_of_no_shape() -> None:
    task = Task("t", request=str, result=str)
    assert task.rows("abc") == 1
    assert task.shape("abc") is None


def test_mounts_keep_their_states_apart() -> None:
    one, other = Mount(app=print), Mount(app=print)
    one.state["x"] = 1
    assert other.state == {}
    assert one == other


@pytest.mark.parametrize(
    ("field", "said"),
    [
        (Field("x", "float32", (64,)), "float32[64]"),
        (Field("x", "float32", (None, 3)), "float32[any, 3]"),
        (Field("x", "int64"), "int64"),
        (Field("x", "string", choices=("a", "b")), "string: 'a' or 'b'"),
    ],
)
def test_a_field_describes_itself(field: Field, said: str) -> None:
    assert field.describe() == said


def test_a_signature_describes_itself_and_knows_if_all_rows_are_alike() -> None:
    fixed, varying = Field("x", "float32", (4,)), Field("y", "float32", (None,))
    assert Signature((fixed,), (varying,)).describe() == "(x: float32[4]) -> (y: float32[any])"
    assert Signature((fixed,)).uniform
    assert not Signature((fixed, varying)).uniform
    assert not Signature((Field("z"),)).uniform
    assert Field("z").required
    assert not Field("z", default=None).required
