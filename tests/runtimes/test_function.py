"""Functions, classes and objects as models: what they take, what they give, and what happens when they fail."""

from __future__ import annotations

import asyncio
import logging
from base64 import b64decode, b64encode
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from PIL import Image

import hansang
from conftest import Running
from hansang.app import Server, open_object, open_source
from hansang.core.errors import ClientGone, HansangError, InvalidInput, LoadFailed
from hansang.core.model import Call, CallContext, LoadContext, Model
from hansang.core.source import parse
from hansang.registry.registry import ModelSpec
from hansang.tasks.tabular import TABULAR, Table
from hansang.testing import check_runtime

HEADER = """
from __future__ import annotations
import enum, functools, io, math, typing
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, NewType, Optional, TypedDict
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, Field
from typing_extensions import TypeAliasType
import hansang
from hansang.tasks.tabular import TABULAR, Table

class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"

@dataclass
class Point:
    x: float
    y: float = 0.0

@dataclass
class Labelled:
    label: str
    picture: Any

class User(BaseModel):
    name: str
    age: int

class Row(TypedDict):
    a: int

class Pair(NamedTuple):
    a: int
    b: int

Id = NewType("Id", int)
Numbers = TypeAliasType("Numbers", list[float])
"""


def code(folder: Path, text: str) -> str:
    path = folder / "code.py"
    path.write_text(HEADER + text, encoding="utf-8")
    return str(path)


def loaded(folder: Path, text: str, name: str = "f", sample: Any = None) -> Model:
    model = open_source(parse(f"{code(folder, text)}:{name}")[1])
    assert isinstance(model, Model)
    model.load(LoadContext(sample=sample))
    return model


def failing(folder: Path, text: str, name: str = "f", sample: Any = None) -> LoadFailed:
    with pytest.raises(LoadFailed) as caught:
        loaded(folder, text, name, sample)
    return caught.value


def context() -> CallContext:
    return CallContext("test", monotonic() + 30)


def table(**columns: Any) -> Table:
    return Table(columns, len(next(iter(columns.values()))))


def untyped(*rows: Any) -> Table:
    return Table({"": list(rows)}, len(rows))


def ask(model: Model, request: Table) -> Any:
    """The `result` column."""
    answer: Any = model.predict([Call(request, context())])
    (result,) = asyncio.run(answer) if asyncio.iscoroutine(answer) else answer
    if isinstance(result, HansangError):
        raise result
    return result.columns["result"]


def png(color: str = "red") -> bytes:
    written = BytesIO()
    Image.new("RGB", (2, 1), color).save(written, "PNG")
    return written.getvalue()


def encoded(data: bytes, content_type: str) -> dict[str, str]:
    return {"b64": b64encode(data).decode(), "content_type": content_type}


# What it takes. Each: a hint, how the signature describes it, a JSON value, the repr of what arrives.
TAKES = [
    ("int", "int64", 2, "2"),
    ("float", "float64", 2, "2.0"),
    ("bool", "bool", True, "True"),
    ("str", "string", "a", "'a'"),
    ("Id", "int64", 2, "2"),
    ("Numbers", "float64[any]", [1, 2], "[1.0, 2.0]"),
    ("dict[str, Numbers]", "json", {"a": [1]}, "{'a': [1.0]}"),
    ("np.float32", "float32", 2, "np.float32(2.0)"),
    ("np.int8", "int8", 2, "np.int8(2)"),
    ("Any", "json", {"a": [1]}, "{'a': [1]}"),
    ("list[int]", "int64[any]", [1, 2], "[1, 2]"),
    ("list[list[float]]", "float64[any, any]", [[1], [2]], "[[1.0], [2.0]]"),
    ("typing.Sequence[str]", "string[any]", ["a"], "['a']"),
    ("list", "json", [1, "a"], "[1, 'a']"),
    ("list[Any]", "json", [1, "a"], "[1, 'a']"),
    ("tuple[float, float]", "float64[2]", [1, 2], "(1.0, 2.0)"),
    ("tuple[int, ...]", "int64[any]", [1, 2, 3], "(1, 2, 3)"),
    ("tuple[int, str]", "json", [1, "a"], "(1, 'a')"),
    ("tuple[list[Color], int]", "json", [["red"], 1], "([<Color.RED: 'red'>], 1)"),
    ("dict[str, int]", "json", {"a": 1}, "{'a': 1}"),
    ("set[int]", "json", [1, 1], "{1}"),
    ("Literal['a', 'b']", "string: 'a' or 'b'", "b", "'b'"),
    ("Literal[1, 2]", "int64: 1 or 2", 2, "2"),
    ("Literal[1, 'a']", "json: 1 or 'a'", "a", "'a'"),
    ("Color", "string: 'red' or 'blue'", "blue", "<Color.BLUE: 'blue'>"),
    ("list[Color]", "string[any]: 'red' or 'blue'", ["blue"], "[<Color.BLUE: 'blue'>]"),
    ("Optional[Color]", "json", "red", "<Color.RED: 'red'>"),
    ("Optional[Color]", "json", None, "None"),
    ("Optional[float]", "json", None, "None"),
    ("int | str", "json", "a", "'a'"),
    ("Point", "json", {"x": 1}, "Point(x=1.0, y=0.0)"),
    ("list[Point]", "json", [{"x": 1, "y": 2}], "[Point(x=1.0, y=2.0)]"),
    ("User", "json", {"name": "a", "age": 3}, "User(name='a', age=3)"),
    ("Row", "json", {"a": 1}, "{'a': 1}"),
    ("Annotated[int, Field(ge=1)]", "json", 1, "1"),
    ("Annotated[int, 'how many']", "int64", 1, "1"),
    ("np.ndarray", "json", [[1, 2], [3, 4]], "array([[1, 2],\n       [3, 4]])"),
    ("NDArray[np.float32]", "json", [1, 2], "array([1., 2.], dtype=float32)"),
    ("NDArray[Any]", "json", [1, 2], "array([1, 2])"),
    ("np.ndarray | None", "json", None, "None"),
    ("np.ndarray | list[float]", "json", [1.5], "array([1.5])"),
    ("tuple[np.ndarray, int]", "json", [[1], 2], "(array([1]), 2)"),
    ("list[np.ndarray]", "json", [[1], [2.5]], "[array([1]), array([2.5])]"),
    ("bytes", "bytes", {"b64": "YWI="}, "b'ab'"),
    ("list[bytes]", "bytes[any]", [{"b64": "YWI="}], "[b'ab']"),
]
ODD_VALUES = [
    ("Color", "green"),
    ("Color", 1),
    ("Annotated[int, Field(ge=1)]", 0),
    ("Point", {"x": "one"}),
    ("Point", {"x": 1, "z": 2}),
    ("tuple[float, float]", [1, 2, 3]),
    ("np.ndarray", [[1, 2], [3]]),
    ("np.ndarray", ["a"]),
    ("np.ndarray", "a"),
    ("NDArray[np.float32]", [{}]),
    ("NDArray[np.int8]", [1000]),
    ("tuple[np.ndarray, int]", [["a"], 2]),
    ("Image.Image", {"b64": "YWI="}),
    ("bytes", {"b64": "not base64!"}),
    ("Optional[int]", "1"),
]


def functions_for(hints: list[str]) -> str:
    return "\n".join(f"def f{n}(x: {hint}, y: int = 0): return repr(x)" for n, hint in enumerate(hints))


def test_hints_say_what_is_taken_and_what_arrives(tmp_path: Path, serve: Callable[..., Running]) -> None:
    path = code(tmp_path, functions_for([hint for hint, *_ in TAKES]))
    server = serve(*(f"{path}:f{n}" for n in range(len(TAKES))))
    for n, (hint, described, given, seen) in enumerate(TAKES):
        signature = server.server.registry.find(f"f{n}").model.signature
        assert signature is not None
        assert (hint, signature.inputs[0].describe()) == (hint, described)
        assert (hint, server.predict(f"f{n}", {"x": given})) == (hint, {"predictions": [seen]})
    assert server.client.get("/openapi.json").status_code == 200


def test_a_value_that_does_not_fit_is_the_callers_fault(tmp_path: Path, serve: Callable[..., Running]) -> None:
    path = code(tmp_path, functions_for([hint for hint, _ in ODD_VALUES]))
    server = serve(*(f"{path}:f{n}" for n in range(len(ODD_VALUES))))
    for n, (hint, given) in enumerate(ODD_VALUES):
        reply = server.client.post(f"/v1/models/f{n}:predict", json={"instances": [{"x": given}]})
        assert (hint, given, reply.status_code) == (hint, given, 400)
        assert "instances[0].x" in reply.json()["error"]["message"]


def test_images_arrive_as_images(tmp_path: Path, serve: Callable[..., Running]) -> None:
    """Also where the hint names the module, as beginners write it; and an optional one may be left out."""
    text = """
def a(picture: Image.Image): return [picture.size, picture.getpixel((0, 0))]
def b(picture: Image): return picture.format
def c(pictures: list[Image.Image]): return [p.size for p in pictures]
def d(n: int, picture: Image.Image = None): return [n, picture and picture.size]
def e(n: int, picture: Optional[Image.Image]): return [n, picture and picture.size]
"""
    path = code(tmp_path, text)
    server = serve(*(f"{path}:{name}" for name in "abcde"))
    picture = encoded(png(), "image/png")
    assert server.predict("a", picture) == {"predictions": [[[2, 1], [255, 0, 0]]]}
    assert server.predict("b", picture) == {"predictions": ["PNG"]}
    assert server.predict("c", [picture, picture]) == {"predictions": [[[2, 1], [2, 1]]]}
    for name in "de":
        rows = {"n": 1}, {"n": 2, "picture": picture}
        assert server.predict(name, *rows) == {"predictions": [[1, None], [2, [2, 1]]]}


def test_defaults_make_inputs_optional_and_keyword_only_ones_work(tmp_path: Path) -> None:
    model = loaded(tmp_path, "def f(a: int, /, b: Color = Color.RED, *, c: int = 3, d: int): return [a, b.name, c, d]")
    assert model.signature is not None
    assert [field.required for field in model.signature.inputs] == [True, False, False, True]
    assert model.signature.inputs[1].default == "red"
    assert ask(model, table(a=[1], b=["blue"], c=[4], d=[5])) == [[1, "BLUE", 4, 5]]


def test_a_parameter_without_hint_takes_any_json_where_others_have_one(tmp_path: Path) -> None:
    model = loaded(tmp_path, "def f(a: int, b): return [a, b]")
    assert model.signature is not None
    assert model.signature.describe() == "(a: int64, b: json) -> (result: json)"


def test_a_function_without_parameters(tmp_path: Path, serve: Callable[..., Running]) -> None:
    path = code(tmp_path, "def f() -> str: return 'now'")
    server = serve(f"{path}:f")
    assert server.predict("f", {}, {}) == {"predictions": ["now", "now"]}
    assert "error" in server.predict("f", {"a": 1})


def test_an_unreadable_hint_is_told_at_loading(tmp_path: Path) -> None:
    error = failing(tmp_path, "class Thing: ...\ndef f(thing: Thing): ...")
    assert "The parameter thing of" in error.message
    assert "is hinted as Thing, which has no form in JSON" in error.message
    assert "numpy.ndarray" in (error.hint or "")
    for hint in ("dict[str, np.ndarray]", "typing.Callable[[int], int]", "tuple[bytes, int]", "type"):
        assert "has no form in JSON" in failing(tmp_path, f"def f(x: {hint}): ...").message
    dataclass = "@dataclass\nclass D:\n    x: np.ndarray\ndef f(d: D): ..."
    assert "has no form in JSON" in failing(tmp_path, dataclass).message
    assert "name 'Nowhere' is not defined" in failing(tmp_path, "def f(x: Nowhere): ...").message


# What it gives


RED = encoded(png(), "image/png")
GIVES = [
    ("int", "1", 1, "int64"),
    ("float", "0.5", 0.5, "float64"),
    ("str", "'a'", "a", "string"),
    ("bool", "True", True, "bool"),
    ("None", "None", None, "json"),
    ("list[int]", "[1, 2]", [1, 2], "int64[any]"),
    ("dict[str, float]", "{'a': 0.5}", {"a": 0.5}, "json"),
    ("tuple[int, int]", "(1, 2)", [1, 2], "int64[2]"),
    ("np.ndarray", "np.array([[1.5, 2], [3, 4]])", [[1.5, 2], [3, 4]], "json"),
    ("np.ndarray", "np.arange(6).reshape(2, 3).T", [[0, 3], [1, 4], [2, 5]], "json"),
    ("np.ndarray", "np.array(3)", 3, "json"),
    ("np.float32", "np.float32(0.5)", 0.5, "float32"),
    ("np.int64", "np.int64(5)", 5, "int64"),
    ("list", "[np.bool_(True), np.float64(0.5)]", [True, 0.5], "json"),
    ("Point", "Point(1, 2)", {"x": 1, "y": 2}, "json"),
    ("list[Point]", "[Point(1, 2)]", [{"x": 1, "y": 2}], "json"),
    ("User", "User(name='a', age=3)", {"name": "a", "age": 3}, "json"),
    ("Pair", "Pair(1, 2)", {"a": 1, "b": 2}, "json"),
    ("Color", "Color.RED", "red", "string: 'red' or 'blue'"),
    ("set[int]", "{1}", [1], "json"),
    ("bytes", "b'ab'", encoded(b"ab", "application/octet-stream"), "bytes"),
    ("bytes", "bytearray(b'GIF89a')", encoded(b"GIF89a", "image/gif"), "bytes"),
    ("dict", "{'a': b'ab'}", {"a": encoded(b"ab", "application/octet-stream")}, "json"),
    ("Image.Image", "Image.new('RGB', (2, 1), 'red')", RED, "image"),
    ("list", "[Image.new('RGB', (2, 1), 'red')]", [RED], "json"),
    ("Labelled", "Labelled('a', Image.new('RGB', (2, 1), 'red'))", {"label": "a", "picture": RED}, "json"),
    ("typing.Callable", "'described as far as it goes'", "described as far as it goes", "json"),
    ("Any", "1", 1, "json"),
]  # fmt: skip


def test_every_kind_of_result_travels(tmp_path: Path, serve: Callable[..., Running]) -> None:
    functions = [f"def f{n}(x: int) -> {hint}: return {value}" for n, (hint, value, *_) in enumerate(GIVES)]
    path = code(tmp_path, "\n".join(functions))
    server = serve(*(f"{path}:f{n}" for n in range(len(GIVES))))
    for n, (hint, value, seen, described) in enumerate(GIVES):
        signature = server.server.registry.find(f"f{n}").model.signature
        assert signature is not None
        assert (hint, signature.outputs[0].describe()) == (hint, described)
        assert (value, server.predict(f"f{n}", 0, 0)) == (value, {"predictions": [seen, seen]})
    assert server.client.get("/openapi.json").status_code == 200


@pytest.mark.parametrize("value", ["float('nan')", "[math.inf]", "np.array([np.nan])", "object()", "1j", "{'a': open}"])
def test_what_json_cannot_say_is_a_fault_of_the_model(
    tmp_path: Path, serve: Callable[..., Running], value: str
) -> None:
    server = serve(f"{code(tmp_path, f'def f(x: int): return {value}')}:f")
    reply = server.client.post("/v1/models/f:predict", json={"instances": [1]})
    assert reply.status_code == 500
    assert "cannot be sent as JSON" in reply.json()["error"]["message"]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "I", "F", "CMYK", "LAB", "HSV", "LA", "YCbCr"])
def test_images_of_every_mode_are_given_as_png(tmp_path: Path, mode: str) -> None:
    model = loaded(tmp_path, f"def f(n: int) -> Image.Image: return Image.new({mode!r}, (n, 1))")
    (blob,) = ask(model, table(n=[3]))
    assert blob.content_type == "image/png"
    assert Image.open(BytesIO(blob.data)).size == (3, 1)


def test_one_image_may_be_asked_for_as_bytes(tmp_path: Path, serve: Callable[..., Running]) -> None:
    text = """
def draw(color: str) -> Image.Image: return Image.new("RGB", (2, 1), color)
def saved(color: str) -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (2, 1), color).save(written, "JPEG")
    return written.getvalue()
"""
    path = code(tmp_path, text)
    server = serve(f"{path}:draw", f"{path}:saved")
    for name, content_type in (("draw", "image/png"), ("saved", "image/jpeg")):
        url, body = f"/v1/models/{name}:predict", {"instances": ["blue"]}
        reply = server.client.post(url, json=body, headers={"accept": content_type})
        assert reply.headers["content-type"] == content_type
        assert Image.open(BytesIO(reply.content)).getpixel((1, 0))[2] > 200
        whole = server.client.post(url, json=body).json()["predictions"][0]
        assert b64decode(whole["b64"]) == reply.content


# Untyped, and with a sample


UNTYPED = [
    ("def f(x): return x", 5, 5),
    ("def f(x): return x", [1, 2], [1, 2]),
    ("def f(x): return x", {"x": 1}, 1),
    ("def f(x): return x", {"y": 1}, {"y": 1}),
    ("def f(a, b): return [a, b]", [1, 2], [1, 2]),
    ("def f(a, b): return [a, b]", {"b": 2, "a": 1}, [1, 2]),
    ("def f(a, b=2): return [a, b]", 1, [1, 2]),
    ("def f(a, b=2): return [a, b]", [1, 3], [1, 3]),
    ("def f(a, b=2): return [a, b]", [1, 2, 3], [[1, 2, 3], 2]),
    ("def f(a, b=2): return [a, b]", {"a": 1}, [1, 2]),
    ("def f(a, b=2): return [a, b]", {"c": 1}, [{"c": 1}, 2]),
    ("def f(*a): return list(a)", [1, 2], [1, 2]),
    ("def f(*a: int): return list(a)", 1, [1]),
    ("def f(**k): return k", {"any": 1}, {"any": 1}),
    ("def f(a: int, **k): return [a, k]", {"a": 1, "b": 2}, [1, {"b": 2}]),
    ("def f(*, a): return a", {"a": 1}, 1),
    ("def f(a, /): return a", {"a": 1}, {"a": 1}),
    ("f = lambda x: x * 2", 4, 8),
    ("f = math.sqrt", 4, 2),
    ("f = functools.partial(pow, 2)", 3, 8),
    ("f = functools.lru_cache(lambda x: x)", 3, 3),
]


@pytest.mark.parametrize(("text", "row", "seen"), UNTYPED)
def test_without_hints_any_json_becomes_arguments(tmp_path: Path, text: str, row: Any, seen: Any) -> None:
    model = loaded(tmp_path, text)
    assert model.signature is None
    assert ask(model, untyped(row, row)) == [seen, seen]


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("def f(a, b): ...", 1),
        ("def f(a, b): ...", [1]),
        ("def f(a, b): ...", [1, 2, 3]),
        ("def f(a, b): ...", {"a": 1}),
        ("def f(a, b=2): ...", {"b": 1}),
        ("def f(a, b=2): ...", {"a": 1, "c": 1}),
        ("def f(*, a): ...", 1),
        ("def f(**k): ...", [1]),
    ],
)
def test_a_row_that_fits_no_call_is_the_callers_fault(tmp_path: Path, text: str, row: Any) -> None:
    model = loaded(tmp_path, text)
    with pytest.raises(InvalidInput) as caught:
        ask(model, untyped(row))
    assert caught.value.message.startswith("instances[0]: f takes (")


def test_a_type_error_inside_the_function_is_not_the_callers_fault(
    tmp_path: Path, serve: Callable[..., Running]
) -> None:
    server = serve(f"{code(tmp_path, 'def f(x): return len(x)')}:f")
    reply = server.client.post("/v1/models/f:predict", json={"instances": [5]})
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "model_failed")


@pytest.mark.parametrize(
    ("text", "sample", "described"),
    [
        ("def f(x): return x * 2", 1, "(x: int64) -> (result: int64)"),
        ("def f(x): return x * 2", 1.0, "(x: float64) -> (result: float64)"),
        ("def f(x): return str(x)", True, "(x: bool) -> (result: string)"),
        ("def f(x): return x[0] > 1", [5.1, 3, 1.4, 0.2], "(x: float64[4]) -> (result: bool)"),
        ("def f(x): return x", [[1, 2], [3, 4]], "(x: int64[2, 2]) -> (result: int64[any, any])"),
        ("def f(x): return np.array(x)", [1, 2], "(x: int64[2]) -> (result: int64[2])"),
        ("def f(x): return x", ["a", "b"], "(x: string[any]) -> (result: string[any])"),
        ("def f(x): return x", [1, "a"], "(x: json) -> (result: json)"),
        ("def f(x): return x", [[1], [2, 3]], "(x: json) -> (result: int64[any, any])"),
        ("def f(x): return {'a': x}", {"y": 1}, "(x: json) -> (result: json)"),
        ("def f(a, b): return a + b", [1, 0.5], "(a: int64, b: float64) -> (result: float64)"),
        ("def f(a, b=2): return a + b", {"a": 1}, "(a: int64, b: json) -> (result: int64)"),
        ("def f(a: float, b): return a + b", [1, 2], "(a: float64, b: int64) -> (result: int64)"),
        ("def f(x) -> float: return 1", "a", "(x: string) -> (result: float64)"),
        ("def f(x): return Image.new('L', (1, 1))", 1, "(x: int64) -> (result: image)"),
        ("def f(x: np.ndarray): return x.sum()", [1, 2], "(x: json) -> (result: int64)"),
        ("async def f(x): return x", 1, "(x: int64) -> (result: int64)"),
    ],
)
def test_a_sample_tells_the_types(tmp_path: Path, text: str, sample: Any, described: str) -> None:
    model = loaded(tmp_path, text, sample=sample)
    assert model.signature is not None
    assert model.signature.describe() == described


def test_a_sample_is_called_once_and_checks_requests_from_then_on(
    tmp_path: Path, serve: Callable[..., Running]
) -> None:
    path = code(tmp_path, "seen = []\ndef f(x):\n    seen.append(x)\n    return len(seen)")
    server = serve(ModelSpec(*parse(f"{path}:f"), sample=[1.0, 2.0]))
    assert server.predict("f", [3, 4]) == {"predictions": [2]}
    assert "expected float64[2]" in server.predict("f", [3, 4, 5])["error"]["message"]


def test_a_sample_that_fails_is_told_at_loading(tmp_path: Path) -> None:
    error = failing(tmp_path, "def f(x): return 1 / x", sample=0)
    assert "failed on the sample: ZeroDivisionError: division by zero" in error.message
    assert "does not take the sample" in failing(tmp_path, "def f(a, b): ...", sample=0).message
    assert "does not take the sample" in failing(tmp_path, "def f(a: np.ndarray): ...", sample=["x"]).message


# What it is made from


def test_classes_are_instantiated_at_loading(tmp_path: Path) -> None:
    text = """
made = []
class Gate:
    "A gate.\\n\\nWith weights."
    def __init__(self, kind="AND"): self.kind = kind; made.append(kind)
    def predict(self, left: int, right: int) -> int: return int(left + right == 2)
    def __call__(self): raise RuntimeError("predict comes first")
class Callable:
    def __call__(self, x: int) -> int: return x + 1
class Static:
    @staticmethod
    def predict(x: int) -> int: return x + 2
gate = Gate("module")
"""
    model = loaded(tmp_path, text, "Gate")
    assert ask(model, table(left=[0, 1], right=[1, 1])) == [0, 1]
    assert model.info["title"] == "A gate"
    assert model.info["description"] == "With weights."
    assert model.info["format"] == "Python class"
    assert ask(loaded(tmp_path, text, "gate"), table(left=[1], right=[1])) == [1]
    assert ask(loaded(tmp_path, text, "Callable"), table(x=[1])) == [2]
    assert ask(loaded(tmp_path, text, "Static"), table(x=[1])) == [3]
    assert ask(loaded(tmp_path, text, "gate.predict"), table(left=[1], right=[1])) == [1]


def test_what_a_docstring_and_a_file_tell(tmp_path: Path) -> None:
    text = (
        'def f(x: Annotated[int, "how many"]) -> int:\n    """Doubles.\n\n    Twice as much.\n    """\n    return 2 * x'
    )
    model = loaded(tmp_path, text)
    assert model.info == {
        "format": "Python function",
        "file": str(tmp_path / "code.py"),
        "title": "Doubles",
        "description": "Twice as much.",
    }
    assert model.signature is not None
    assert model.signature.inputs[0].description == "how many"


def test_a_hansang_model_is_used_as_it_is(tmp_path: Path) -> None:
    text = """
class Mine(hansang.Model):
    task = TABULAR
    max_batch_size = 8
    def __init__(self, factor=2): self.factor = factor
    def predict(self, calls):
        return [Table({"y": [self.factor * x for x in c.request.columns["x"]]}, c.request.rows) for c in calls]
mine = Mine(3)
class NoTask(hansang.Model): ...
"""
    for name, factor in (("Mine", 2), ("mine", 3)):
        model = open_source(parse(f"{code(tmp_path, text)}:{name}")[1])
        assert type(model).__name__ == "Mine"
        assert isinstance(model, Model)
        (answer,) = model.predict([Call(table(x=[1]), context())])  # type: ignore[misc]
        assert answer.columns == {"y": [factor]}
    assert "without a task" in failing(tmp_path, text, "NoTask").message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("f = 5", "f cannot be called: it is <class 'int'>"),
        ("class f: ...", "neither predict nor __call__"),
        ("class f:\n    def __init__(self, a, b=1): ...\n    def predict(self): ...", "needs arguments: a"),
        ("class f:\n    def __init__(self): 1 / 0\n    def predict(self): ...", "f() failed: ZeroDivisionError"),
        ("def f():\n    yield 1", "yields"),
        ("async def f():\n    yield 1", "yields"),
        ("def f(environ, start_response): ...", "WSGI"),
    ],
)
def test_what_cannot_be_called_is_refused(tmp_path: Path, text: str, said: str) -> None:
    error = failing(tmp_path, text)
    assert said in error.message
    assert error.hint


def test_what_is_made_in_code_is_served_too(serve: Callable[..., Running]) -> None:
    def double(x: int) -> int:
        return 2 * x

    class Gate:
        def predict(self, left: int, right: int) -> int:
            return left & right

    server = serve(double, Gate, Gate().predict)
    assert server.predict("double", 4) == {"predictions": [8]}
    assert server.predict("Gate", [1, 1]) == {"predictions": [1]}
    assert server.predict("predict", [1, 0]) == {"predictions": [0]}
    with hansang.load(double) as local:
        assert local.predict([1, 2]) == [2, 4]


def test_what_is_made_in_code_and_is_nothing_is_refused() -> None:
    for thing in (5, None, {"a": 1}):
        with pytest.raises(LoadFailed, match="cannot be served"):
            open_object(thing)
    with pytest.raises(LoadFailed, match="cannot be a model's name"):
        Server([lambda x: x])


# How it runs


TEXT = "def f(x: float) -> float: return 2 * x if x != 13 else 1 / 0"


def test_it_keeps_the_contract(tmp_path: Path) -> None:
    requests = [table(x=[1.0, 2.0, 3.0]), table(x=[4.0])]
    for text in (TEXT, "async " + TEXT, TEXT.replace("def f(", "class f:\n  def predict(self, ")):
        model = open_source(parse(f"{code(tmp_path, text)}:f")[1])
        assert isinstance(model, Model)
        assert model.task is TABULAR
        check_runtime(model, requests, wrong=table(x=[13.0]))
    untyped_model = open_source(parse(f"{code(tmp_path, 'def f(a, b): return a + b')}:f")[1])
    assert isinstance(untyped_model, Model)
    check_runtime(untyped_model, [untyped([1, 2], [3, 4]), untyped({"a": 1, "b": 1})], wrong=untyped(1))
    sampled = open_source(parse(f"{code(tmp_path, 'def f(a): return a * 2')}:f")[1])
    assert isinstance(sampled, Model)
    check_runtime(sampled, [table(a=[1, 2]), table(a=[3])], sample=1)


def test_rows_after_the_callers_leaving_are_not_computed(tmp_path: Path) -> None:
    model = loaded(tmp_path, "seen = []\ndef f(x):\n    seen.append(x)\n    x.cancel()\n    return 1")
    call = Call(untyped(), context())
    call.request = untyped(call.context, call.context)
    (result,) = model.predict([call])  # type: ignore[misc]
    assert isinstance(result, ClientGone)
    assert model.function.__globals__["seen"] == [call.context]  # type: ignore[attr-defined]


def test_an_exception_is_500_with_the_request_id_and_its_traceback_only_in_the_log(
    tmp_path: Path, serve: Callable[..., Running], caplog: pytest.LogCaptureFixture
) -> None:
    for text in (TEXT, "async " + TEXT):
        server = serve(f"{code(tmp_path, text)}:f")
        with caplog.at_level(logging.ERROR):
            reply = server.client.post("/v1/models/f:predict", json={"instances": [13]}, headers={"x-request-id": "r1"})
        assert (reply.status_code, reply.headers["x-request-id"]) == (500, "r1")
        assert "r1" in reply.json()["error"]["message"]
        assert "ZeroDivision" not in reply.text
        assert "code.py" not in reply.text
        (record,) = [record for record in caplog.records if record.exc_info]
        assert record.exc_info is not None
        assert record.exc_info[0] is ZeroDivisionError
        assert server.predict("f", 1) == {"predictions": [2]}
        caplog.clear()


def test_a_function_may_refuse_what_it_is_given(tmp_path: Path, serve: Callable[..., Running]) -> None:
    text = """
from hansang.core.errors import InvalidInput
def f(x: int) -> int:
    if x < 0: raise InvalidInput("x is negative", hint="Send 0 or more.")
    return x
"""
    server = serve(f"{code(tmp_path, text)}:f")
    reply = server.client.post("/v1/models/f:predict", json={"instances": [1, -1]})
    assert (reply.status_code, reply.json()["error"]["message"]) == (400, "x is negative")
    assert server.predict("f", 1) == {"predictions": [1]}


def test_several_calls_at_once_fail_alone(tmp_path: Path) -> None:
    for text in ("def f(x: np.ndarray): return x.sum()", "async def f(x: np.ndarray): return x.sum()"):
        model = loaded(tmp_path, text)
        calls = [Call(table(x=[value]), context()) for value in ([1], ["a"], [2])]
        answer: Any = model.predict(calls)
        one, two, three = asyncio.run(answer) if asyncio.iscoroutine(answer) else answer
        assert isinstance(two, InvalidInput)
        assert [one.columns, three.columns] == [{"result": [1]}, {"result": [2]}]


def test_async_calls_run_together(tmp_path: Path, serve: Callable[..., Running]) -> None:
    """Each of two calls waits for the other: they only end if they run at the same time."""
    text = """
import asyncio
here = []
async def f(x: int) -> int:
    here.append(x)
    while len(here) < 2: await asyncio.sleep(0)
    return x
"""
    server = serve(f"{code(tmp_path, text)}:f")

    async def both() -> list[Any]:
        return await asyncio.gather(
            asyncio.to_thread(server.predict, "f", 1), asyncio.to_thread(server.predict, "f", 2)
        )

    assert asyncio.run(both()) == [{"predictions": [1]}, {"predictions": [2]}]


def test_a_decorated_coroutine_function_is_awaited(tmp_path: Path) -> None:
    text = """
def logged(function):
    @functools.wraps(function)
    def wrapper(*a, **k): return function(*a, **k)
    return wrapper
@logged
async def f(x: int) -> int: return x + 1
"""
    assert ask(loaded(tmp_path, text), table(x=[1])) == [2]
