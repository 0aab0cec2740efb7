"""Bodies and forms to tables, against a signature: what is taken, and how the rest is refused."""

from __future__ import annotations

import datetime
import enum
import json
import typing
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, PositiveInt
from typing_extensions import TypedDict

from hansang.core.errors import HansangError, InvalidInput, LoadFailed, ModelFailed
from hansang.core.signature import FLOATS, INTEGERS, Field, Signature
from hansang.protocols.tabular_codec import TabularCodec
from hansang.tasks.tabular import Blob, Table

few = settings(max_examples=60, deadline=None)


def codec(*fields: Field, outputs: tuple[Field, ...] = ()) -> TabularCodec:
    return TabularCodec("m", Signature(fields, outputs))


GATE = codec(Field("left", "float64"), Field("right", "float64"))
VECTOR = codec(Field("x", "float32", (3,)))
UNTYPED = TabularCodec("m", None)


def decoded(taker: TabularCodec, body: Any) -> dict[str, list[Any]]:
    """The columns, as lists."""
    table, _ = taker.decode(body if isinstance(body, bytes) else json.dumps(body).encode())
    return {name: list(column) for name, column in table.columns.items()}


def refusal(taker: TabularCodec, body: Any) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        taker.decode(body if isinstance(body, bytes) else json.dumps(body).encode())
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize(
    "rows",
    [
        {"instances": [[1, 2], [3, 4]]},
        {"instances": [{"left": 1, "right": 2}, {"right": 4, "left": 3}]},
        {"inputs": {"left": [1, 3], "right": [2, 4]}},
        {"inputs": {"right": [2, 4], "left": [1, 3]}},
    ],
)
def test_rows_come_as_lists_by_name_or_as_columns(rows: Any) -> None:
    columns = decoded(GATE, rows)
    assert columns == {"left": [1.0, 3.0], "right": [2.0, 4.0]}
    assert list(columns) == ["left", "right"]


def test_columns_are_answered_with_columns() -> None:
    for body, columnar in ((b'{"instances": [[1, 2]]}', False), (b'{"inputs": {"left": [1], "right": [2]}}', True)):
        assert GATE.decode(body)[1] is columnar


@pytest.mark.parametrize(
    "rows",
    [
        {"instances": [[1, 2, 3]]},
        {"instances": [{"x": [1, 2, 3]}]},
        {"inputs": [[1, 2, 3]]},
        {"inputs": {"x": [[1, 2, 3]]}},
    ],
)
def test_a_single_input_needs_no_name(rows: Any) -> None:
    assert decoded(VECTOR, rows) == {"x": [[1.0, 2.0, 3.0]]}


def test_a_byte_order_mark_does_not_count() -> None:
    assert decoded(GATE, b'\xef\xbb\xbf{"instances": [[1, 2]]}') == {"left": [1.0], "right": [2.0]}


def test_of_a_repeated_key_the_last_one_counts() -> None:
    assert decoded(GATE, b'{"instances": [{"left": 1, "left": 2, "right": 3}]}') == {"left": [2.0], "right": [3.0]}


@pytest.mark.parametrize(
    ("body", "param", "told"),
    [
        ([[1, 2]], "instances", "expected an object, got list of 1"),
        (None, "instances", "expected an object, got null"),
        ({}, "instances", "instances is missing"),
        ({"instances": [[1, 2]], "inputs": {}}, "instances", "not both"),
        ({"instances": [[1, 2]], "signature_name": "x"}, "signature_name", "expected instances, or inputs"),
        ({"instances": 1}, "instances", "expected a list, got int 1"),
        ({"instances": []}, "instances", "instances is empty; expected at least one row"),
        ({"instances": [1]}, "instances[0]", "expected a list, got int 1"),
        ({"instances": [[1]]}, "instances[0].right", "a row given as a list holds every input"),
        ({"instances": [[1, 2, 3]]}, "instances[0]", "expected 2 values (left, right), got list of 3"),
        ({"instances": [[1, 2], [1, "2"]]}, "instances[1].right", "expected float64, got string '2'"),
        ({"instances": [[1, True]]}, "instances[0].right", "expected float64, got boolean True"),
        ({"instances": [[1, None]]}, "instances[0].right", "expected float64, got null"),
        ({"instances": [[1, [2]]]}, "instances[0].right", "expected float64, got list of 1"),
        ({"instances": [{"left": 1}]}, "instances[0].right", "instances[0].right is missing"),
        ({"instances": [{"left": 1, "right": 2, "up": 3}]}, "instances[0].up", "expected left, right"),
        ({"instances": [{"left": 1, "right": 2}, [1, 2]]}, "instances[1]", "expected an object, got list of 2"),
        ({"inputs": {}}, "inputs.left", "inputs.left is missing"),
        ({"inputs": [[1, 2]]}, "inputs", "expected an object, got list of 1"),
        ({"inputs": {"left": [1, 2], "right": [3]}}, "inputs", "differ in length: {'left': 2, 'right': 1}"),
        ({"inputs": {"left": [], "right": []}}, "inputs", "inputs is empty"),
        ({"inputs": {"left": [1], "right": [2], "up": [3]}}, "inputs.up", "expected left, right"),
        (b'{"instances": [[1, 1e999]]}', "instances[0].right", "expected float64, got float inf"),
        (b'{"instances": [[1, %s]]}' % (b"9" * 400), "instances[0].right", "finite"),
    ],
)
def test_a_wrong_body_is_refused_with_place_expected_and_given(body: Any, param: str, told: str) -> None:
    error = refusal(GATE, body)
    assert told in error.message
    assert (error.param, error.status, error.code) == (param, 400, "invalid_input")


def test_the_hint_shows_what_the_model_takes() -> None:
    assert refusal(GATE, {}).hint == (
        'm takes (left: float64, right: float64), for example {"instances":[{"left":1.0,"right":1.0}]}'
    )


def test_names_and_values_in_an_error_are_cut_short() -> None:
    error = refusal(GATE, {"instances": [{"left": "x" * 10_000, "right": 1}]})
    assert len(error.message) < 200
    error = refusal(GATE, {"k" * 10_000: 1})
    assert len(error.message) < 200
    assert len(str(error.param)) < 50


def test_of_many_wrong_rows_only_the_first_is_looked_at() -> None:
    with pytest.raises(Exception, match="1 validation error") as caught:
        GATE.bare.validate_json(json.dumps({"instances": [["a", 1]] * 1000}))
    assert caught.type.__name__ == "ValidationError"


def wide(dtype: str) -> tuple[int, int]:
    bits = int(dtype.lstrip("uint"))
    return (0, 2**bits - 1) if dtype.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_are_whole_and_fit_their_type(dtype: str) -> None:
    taker = codec(Field("n", dtype))
    low, high = wide(dtype)
    assert decoded(taker, {"instances": [low, high]}) == {"n": [low, high]}
    for wrong in (low - 1, high + 1, 1.5, "1", True, None, 10**40):
        assert refusal(taker, {"instances": [wrong]}).param == "instances[0]"


@pytest.mark.parametrize("dtype", FLOATS)
def test_floats_take_any_finite_number(dtype: str) -> None:
    taker = codec(Field("x", dtype))
    assert decoded(taker, {"instances": [1, -0.5, 1e10]}) == {"x": [1.0, -0.5, 1e10]}
    for wrong in ("1", False, None, [1]):
        refusal(taker, {"instances": [wrong]})


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        (Field("x", "bool"), [True, False], [0, 1, "true", None]),
        (Field("x", "string"), ["", "안녕", "NaN"], [1, None, ["a"]]),
        (Field("x", "int64", choices=(0, 1)), [0, 1], [2, True, 1.5, "1"]),
        (Field("x", "float64", choices=(0.5, 1.0)), [0.5, 1], [0.7, True, "0.5"]),
        (Field("x", "string", choices=("a", "b")), ["a"], ["c", 1, None]),
        (Field("x", "bool", choices=(True,)), [True], [False, 1]),
        (Field("x", "json", choices=("a", 1)), ["a", 1], ["b", 2]),
        (Field("x", "int64", (2,)), [[1, 2]], [[1], [1, 2, 3], 1, ["a", "b"], {}]),
        (Field("x", "int64", (None,)), [[], [1], [1, 2]], [1, [[1]], [None]]),
        (Field("x", "float64", (2, None)), [[[1.0], [2.0, 3.0]]], [[[1]], [1, 2]]),
        (Field("x", "json"), [1, "a", None, [1], {"a": 1}, {"x": 1}], []),
        (Field("x", "json", (2,)), [[1, "a"]], [[1]]),
    ],
)
def test_a_value_is_of_its_fields_type(field: Field, good: list[Any], bad: list[Any]) -> None:
    taker = codec(field)
    for value in good:
        assert decoded(taker, {"instances": [value]}) == {"x": [value]}
    for value in bad:
        assert refusal(taker, {"instances": [value]}).param in ("instances[0]", "instances[0][0]", "instances[0][0][0]")


def test_any_json_is_taken_as_it_is_also_where_it_looks_like_a_row() -> None:
    taker = codec(Field("x", "json"))
    assert decoded(taker, {"instances": [{"x": 1}]}) == {"x": [{"x": 1}]}
    assert decoded(taker, b'{"instances": [123456789012345678901]}') == {"x": [123456789012345678901]}
    for body in (b'{"instances": [NaN]}', b'{"instances": [1e999]}', b'{"instances": [[-Infinity]]}'):
        with pytest.raises(HansangError, match="not JSON"):
            taker.decode(body)


def test_what_has_a_default_may_be_left_out_of_an_object_or_the_columns() -> None:
    taker = codec(Field("a", "int64"), Field("b", "int64", default=7))
    assert decoded(taker, {"instances": [{"a": 1}, {"a": 2, "b": 3}]}) == {"a": [1, 2], "b": [7, 3]}
    assert decoded(taker, {"inputs": {"a": [1, 2]}}) == {"a": [1, 2], "b": [7, 7]}
    assert refusal(taker, {"instances": [[1]]}).param == "instances[0].b"
    alone = codec(Field("b", "int64", default=None))
    assert decoded(alone, {"instances": [{}, {"b": 1}]}) == {"b": [None, 1]}


def test_a_model_without_inputs_takes_empty_rows() -> None:
    taker = codec()
    table, _ = taker.decode(b'{"instances": [{}, {}]}')
    assert (dict(table.columns), table.rows) == ({}, 2)
    assert "holds no column" in refusal(taker, {"inputs": {}}).message
    assert taker.decode_form(b"").rows == 1


@dataclass
class Flower:
    petal: float
    name: str = "iris"


class Pair(BaseModel):
    left: PositiveInt
    right: int = 0


class Named(TypedDict):
    a: int


OldNamed = typing.TypedDict("OldNamed", {"a": int, "b": "typing.NotRequired[str]"})  # noqa: UP013


class Colour(enum.Enum):
    RED = "r"
    BLUE = "b"


@pytest.mark.parametrize(
    ("annotation", "given_", "made"),
    [
        (Flower, {"petal": 1.5}, Flower(1.5)),
        (Pair, {"left": 1}, Pair(left=1)),
        (Named, {"a": 1}, {"a": 1}),
        (OldNamed, {"a": 1, "b": "x"}, {"a": 1, "b": "x"}),
        (list[OldNamed], [{"a": 1}], [{"a": 1}]),
        (OldNamed | None, None, None),
        (dict[str, OldNamed], {"k": {"a": 1}}, {"k": {"a": 1}}),
        (Colour, "r", Colour.RED),
        (Literal["x", 1], 1, 1),
        (tuple[int, str], [1, "a"], (1, "a")),
        (int | None, None, None),
        (int | str, "a", "a"),
        (datetime.date, "2026-01-31", datetime.date(2026, 1, 31)),
    ],
)
def test_an_annotation_narrows_json(annotation: Any, given_: Any, made: Any) -> None:
    taker = codec(Field("x", "json", annotation=annotation))
    assert decoded(taker, {"instances": [given_]}) == {"x": [made]}
    assert refusal(taker, {"instances": [{"nothing": ["like", "it"]}]}).param


def test_a_fault_inside_an_annotation_is_told_with_its_place() -> None:
    taker = codec(Field("x", "json", annotation=list[Flower]), Field("n", "int64"))
    error = refusal(taker, {"instances": [[[{"petal": 1}, {"petal": "a"}], 1]]})
    assert error.param == "instances[0].x[1].petal"
    assert "expected a valid number, got string 'a'" in error.message


def test_an_annotation_that_cannot_be_described_is_said_when_the_codec_is_made() -> None:
    @dataclass
    class Holds:
        inner: OldNamed

    with pytest.raises(LoadFailed, match="The inputs of m cannot be described"):
        codec(Field("x", "json", annotation=Holds))


def test_bytes_are_base64_with_a_media_type() -> None:
    taker = codec(Field("picture", "image"), Field("files", "bytes", (None,)))
    row = {"picture": {"b64": "aG k=\n", "content_type": "image/png"}, "files": [{"b64": ""}, {"b64": "aGk="}]}
    assert decoded(taker, {"instances": [row]}) == {
        "picture": [Blob(b"hi", "image/png")],
        "files": [[Blob(b""), Blob(b"hi")]],
    }


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("aGk=", "expected image, got string"),
        ({}, "b64 is missing"),
        ({"b64": "a*=="}, "is not base64"),
        ({"b64": "aGk"}, "is not base64"),
        ({"b64": "안녕"}, "is not base64"),
        ({"b64": 1}, "should be base64 text"),
        ({"b64": "", "content_type": "a\r\nset-cookie: x"}, "should be a media type"),
        ({"b64": "", "content_type": 1}, "should be a media type"),
        ({"b64": "", "url": "http://localhost"}, "not an input"),
    ],
)
def test_what_is_not_base64_is_refused(value: Any, told: str) -> None:
    assert told in refusal(codec(Field("picture", "image")), {"instances": [value]}).message


@pytest.mark.parametrize(
    ("field", "form", "value"),
    [
        (Field("x", "float64"), "x=1.5", 1.5),
        (Field("x", "int8"), "x=-3", -3),
        (Field("x", "bool"), "x=on", True),
        (Field("x", "string"), "x=%EC%95%88+%EB%85%95", "안 녕"),
        (Field("x", "string"), "x=", ""),
        (Field("x", "int64", choices=(0, 1)), "x=1", 1),
        (Field("x", "float64", choices=(0.5, 1.0)), "x=1", 1.0),
        (Field("x", "string", choices=("a", "b")), "x=b", "b"),
        (Field("x", "int64", (2,)), "x=1&x=2", [1, 2]),
        (Field("x", "int64", (None,)), "x=1", [1]),
        (Field("x", "int64", (2, 2)), "x=%5B%5B1,2%5D,%5B3,4%5D%5D", [[1, 2], [3, 4]]),
        (Field("x", "image"), "x=aGk%3D", Blob(b"hi")),
        (Field("x", "json"), "x=%7B%7D", "{}"),
        (Field("x", "json", annotation=Flower), 'x={"petal": 1}', Flower(1.0)),
        (Field("x", "int64", default=5), "", 5),
    ],
)
def test_a_form_is_text_read_as_the_fields_type(field: Field, form: str, value: Any) -> None:
    table = codec(field).decode_form(form.encode())
    assert dict(table.columns) == {"x": [value]}
    assert table.rows == 1


@pytest.mark.parametrize(
    ("form", "param", "told"),
    [
        (b"left=1", "right", "right is missing"),
        (b"left=a&right=1", "left", "expected float64, got string 'a'"),
        (b"left=1&left=2&right=1", "left", "expected float64, got list of 2"),
        (b"left=nan&right=1", "left", "finite"),
        (b"left=1e999&right=1", "left", "finite"),
        (b"left=1&right=1&up=2", "up", "up is not an input of m; expected left, right"),
        (b"left", None, "name=value"),
        (b"left=%FF&right=1", None, "UTF-8"),
        (b"left=\xff&right=1", None, "UTF-8"),
        (b"&".join([b"left=1"] * 1001), None, "at most 1000 values"),
    ],
)
def test_a_wrong_form_is_refused(form: bytes, param: str | None, told: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        GATE.decode_form(form)
    assert told in caught.value.message
    assert caught.value.param == param


def test_an_untyped_model_takes_any_json_and_any_form() -> None:
    assert decoded(UNTYPED, {"instances": [1, {"a": [None]}]}) == {"": [1, {"a": [None]}]}
    assert dict(UNTYPED.decode_form(b"a=1&b=2&b=3").columns) == {"": [{"a": "1", "b": ["2", "3"]}]}
    for body in ([1], {"instances": 1}, {"instances": [1], "more": 2}, {"inputs": [1]}, {"instances": []}):
        assert refusal(UNTYPED, body).param == "instances"


@pytest.mark.parametrize(
    ("columns", "columnar", "answer"),
    [
        ({"result": [1, 0]}, False, {"predictions": [1, 0]}),
        ({"result": [1, 0]}, True, {"outputs": [1, 0]}),
        ({"a": [1, 2], "b": ["x", "y"]}, False, {"predictions": [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]}),
        ({"a": [1, 2], "b": ["x", "y"]}, True, {"outputs": {"a": [1, 2], "b": ["x", "y"]}}),
    ],
)
def test_an_answer_has_a_row_for_each_row(columns: Any, columnar: bool, answer: Any) -> None:
    assert json.loads(GATE.encode(Table(columns, 2), columnar=columnar)) == answer


@pytest.mark.parametrize("columns", [{"result": [1]}, {"result": []}, {"a": [1, 2], "b": [1]}, {"a": [1], "b": [1]}])
def test_an_answer_of_other_length_is_the_models_failure(columns: Any) -> None:
    with pytest.raises(ModelFailed, match="answered 2 rows with columns of other lengths"):
        GATE.encode(Table(columns, 2), columnar=False)


EVERY = codec(
    Field("a", "int8", default=1),
    Field("b", "float32", (2, None)),
    Field("c", "bytes"),
    Field("d", "json"),
    Field("e", "string", choices=("x", "y")),
    Field("f", "json", annotation=Flower),
)
TAKERS = [GATE, VECTOR, UNTYPED, EVERY, codec(), codec(Field("x", "json")), codec(Field("x", "image"))]

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcdefx"), inner, max_size=4),
    max_leaves=10,
)
bodies = st.one_of(
    st.binary(max_size=60),
    plain.map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries({"instances": st.lists(plain, max_size=3)}).map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries({"inputs": plain}).map(lambda value: json.dumps(value).encode()),
)


@few
@given(bodies)
@example(b'{"instances": [[1, 1e999]]}')
@example(b'{"instances": ' + b"[" * 190 + b"]" * 190 + b"}")
def test_any_bytes_are_a_table_or_a_told_refusal(body: bytes) -> None:
    for taker in TAKERS:
        for decode in (lambda taker=taker: taker.decode(body)[0], lambda taker=taker: taker.decode_form(body)):
            try:
                table = decode()
            except HansangError as exc:
                refused = exc
            else:
                assert table.rows > 0
                assert all(len(column) == table.rows for column in table.columns.values())
                continue
            assert 400 <= refused.status < 500
            assert refused.message


rows = st.lists(
    st.tuples(
        st.integers(-128, 127),
        st.tuples(*[st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=3)] * 2).map(list),
        st.text(max_size=5),
        st.sampled_from(["x", "y"]),
    ),
    min_size=1,
    max_size=4,
)


@few
@given(rows)
def test_rows_objects_and_columns_are_the_same_table_and_come_back_the_same(given_: list[tuple[Any, ...]]) -> None:
    fields = [Field("a", "int8"), Field("b", "float64", (2, None)), Field("d", "string")]
    fields.append(Field("e", "string", choices=("x", "y")))
    taker = codec(*fields)
    names = [field.name for field in fields]
    columns = {name: [row[index] for row in given_] for index, name in enumerate(names)}
    objects = [dict(zip(names, row, strict=True)) for row in given_]
    for body in ({"instances": given_}, {"instances": objects}, {"inputs": columns}):
        assert decoded(taker, body) == columns
    table = Table(columns, len(given_))
    assert json.loads(taker.encode(table, columnar=False)) == {"predictions": objects}
    assert json.loads(taker.encode(table, columnar=True)) == {"outputs": columns}


def test_the_example_of_every_field_fits() -> None:
    fields = [Field("x", dtype) for dtype in ("bool", *INTEGERS, *FLOATS, "string", "bytes", "image", "json")]
    fields += [Field("x", dtype, (2, None)) for dtype in ("bool", "int8", "float32", "string", "image")]
    fields += [Field("x", "json", annotation=kind) for kind in (Flower, Pair, Named, OldNamed, Colour)]
    fields += [Field("x", "json", annotation=kind) for kind in (list[Flower], tuple[int, str], dict[str, int])]
    fields += [Field("x", "json", annotation=kind) for kind in (datetime.date, datetime.datetime, int | None)]
    fields += [Field("x", "string", choices=("a",)), Field("x", "int64", default=3), Field("x", "json", default=None)]
    for field in fields:
        for taker in (codec(field), codec(field, Field("y", "int64"))):
            assert decoded(taker, taker.example()), field
    assert decoded(UNTYPED, UNTYPED.example())
