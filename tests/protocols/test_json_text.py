"""JSON in and out."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from hansang.core.errors import InvalidJSON, ModelFailed
from hansang.protocols.json_text import BOM, dumps, loads, may_overflow
from hansang.tasks.tabular import Blob

few = settings(max_examples=60, deadline=None)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def fault(body: bytes) -> InvalidJSON:
    with pytest.raises(InvalidJSON) as caught:
        loads(body)
    assert caught.value.status == 400
    assert caught.value.code == "invalid_json"
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"a": 1,}', "trailing comma is not allowed at character 7"),
        ('["é",,]'.encode(), "at character 5"),
        (b"[1, 2", "at character 5"),
        (b"[1] 2", "at character 4"),
        (b"[01]", "leading zero"),
        (b'["\\ud800"]', "surrogate"),
        (b'["\xff"]', "byte 2 (0xff) is not UTF-8"),
        (b'{"a"\x00: 1}', "at character 4"),
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        ("{}".encode("utf-16"), "UTF-16"),
        ("{}".encode("utf-16-le"), "UTF-16"),
        (gzip.compress(b"{}"), "gzip"),
        (BOM + BOM + b"{}", "BOM"),
        (b"[" * 100_000, "depth"),
        (b"[" * 250 + b"]" * 250, "nested more than 200 deep"),
        (b"1" * 5000, "at character 0"),
    ],
)
def test_what_is_not_json_is_told_with_its_place(body: bytes, told: str) -> None:
    assert told in fault(body).message


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"[NaN]", "NaN"),
        (b"[-Infinity]", "NaN"),
        (b"[True]", "lower case"),
        (b"[None]", "lower case"),
        (b"{'a': 1}", "double quotes"),
        (b"'{a: 1}'", "double quotes"),
    ],
)
def test_a_well_known_mistake_gets_its_own_hint(body: bytes, told: str) -> None:
    assert told in str(fault(body).hint)


@pytest.mark.parametrize("body", [b"[1e999]", b"[-1E+400]", b"[1" + b"0" * 400 + b".5]", b'{"a": [{"b": 2e308}]}'])
def test_a_number_too_large_for_a_float_is_refused_not_made_infinite(body: bytes) -> None:
    assert "too large" in fault(body).message


@pytest.mark.parametrize("text", ["1e999", "2E+308 is large", "0" * 400])
def test_digits_in_text_are_not_taken_for_a_number(text: str) -> None:
    assert may_overflow(json.dumps([text]).encode())
    assert loads(json.dumps([text]).encode()) == [text]


def test_integers_of_any_size_stay_whole() -> None:
    assert loads(b"[123456789012345678901234567890]") == [123456789012345678901234567890]
    assert json.loads(dumps([2**70, {"a": np.int64(1), "b": date(2026, 1, 31)}], "m")) == [
        2**70,
        {"a": 1, "b": "2026-01-31"},
    ]


def test_one_byte_order_mark_does_not_count() -> None:
    assert loads(BOM + b'{"a": 1}') == {"a": 1}


def test_of_a_repeated_key_the_last_one_counts() -> None:
    assert loads(b'{"a": 1, "a": 2}') == {"a": 2}


@few
@given(values)
def test_what_is_written_is_read_again(value: Any) -> None:
    assert loads(json.dumps(value).encode()) == value
    assert loads(dumps(value, "m")) == value


@few
@given(st.binary() | st.text(alphabet='{}[]",:0123456789eE+-.aNnItf \\u').map(str.encode))
@example(b"1e309")
@example(b"-Infinity")
def test_any_bytes_are_finite_json_or_a_told_error(body: bytes) -> None:
    try:
        value = loads(body)
    except InvalidJSON:
        return
    json.dumps(value, allow_nan=False)


@dataclass
class Point:
    x: float
    y: Any = 0


class Pair(NamedTuple):
    left: int
    right: int


class Answer(BaseModel):
    text: str
    score: float = 0.5


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (Point(1.5), {"x": 1.5, "y": 0}),
        (Answer(text="hi"), {"text": "hi", "score": 0.5}),
        (Pair(1, 2), [1, 2]),
        ({1, }, [1]),
        (b"hi", {"b64": "aGk=", "content_type": "application/octet-stream"}),
        (Blob(b"hi", "text/plain"), {"b64": "aGk=", "content_type": "text/plain"}),
        (np.arange(4).reshape(2, 2), [[0, 1], [2, 3]]),
        (np.arange(4).reshape(2, 2).T, [[0, 2], [1, 3]]),
        (np.float32(0.5), 0.5),
        (np.array(7), 7),
        ({1: "a", None: "b"}, {"1": "a", "null": "b"}),
    ],
)  # fmt: skip
def test_what_models_answer_is_written_as_json(value: Any, written: Any) -> None:
    assert json.loads(dumps(value, "m")) == written


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        [1.0, -math.inf],
        {"a": [math.nan]},
        Point(math.inf),
        Point(1.0, {"deep": [math.nan]}),
        Answer(text="", score=math.nan),
        np.array([1.0, np.nan]),
        np.float32("inf"),
        [2**70, math.nan],
    ],
)
def test_nan_and_infinity_are_never_sent(value: Any) -> None:
    with pytest.raises(ModelFailed, match=r"m cannot be sent as JSON"):
        dumps(value, "m")


def circle() -> list[Any]:
    made: list[Any] = []
    made.append(made)
    return made


@pytest.mark.parametrize("make", [object, lambda: 1j, lambda: "\ud800", circle, lambda: [2**70, object()]])
def test_what_json_has_no_form_for_is_the_models_failure(make: Callable[[], Any]) -> None:
    with pytest.raises(ModelFailed) as caught:
        dumps(make(), "m")
    assert caught.value.status == 500
    assert caught.value.hint
