"""`hansang predict`: the same answers here and from a server."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import KEY, Running
from terminal import Typed, typed

Ask = Callable[..., Typed]


@pytest.fixture(params=["here", "server"])
def ask(request: pytest.FixtureRequest, serve: Callable[..., Running], and_gate: str) -> Ask:
    """`ask(INPUT...)` predicts with the AND gate, loaded here or on a server."""
    if request.param == "here":
        return lambda *words: typed("predict", and_gate, *words)
    url = serve(and_gate).url
    return lambda *words: typed("predict", "and", "--url", url, *words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["[[1, 1], [0, 1]]"], "1\n0\n"),
        (['[{"left": 1, "right": 1}]'], "1\n"),
        (['{"left": 1, "right": 0}'], "0\n"),
        (['{"instances": [[1, 1]]}'], "1\n"),
        (["left=1", "right=1"], "1\n"),
        (["[[1, 1], [0, 1]]", "--json"], '{"predictions": [1, 0]}\n'),
    ],
)
def test_input_is_json_rows_or_names_with_values(ask: Ask, words: list[str], said: str) -> None:
    answer = ask(*words)
    assert (answer.status, answer.out, answer.err) == (0, said, "")


def test_input_is_a_file_or_standard_input(ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = tmp_path / "rows.json"
    rows.write_text("[[1, 1]]")
    assert ask(f"@{rows}").out == "1\n"
    for words in (["-"], []):
        monkeypatch.setattr("sys.stdin", io.StringIO("[[0, 0], [1, 1]]"))
        assert ask(*words).out == "0\n1\n"


def test_wrong_input_is_told_as_the_server_tells_it(ask: Ask) -> None:
    answer = ask("[[1]]")
    assert answer.status == 1
    assert answer.err.startswith("error: instances[0]")
    assert "hint: and takes (left: float64, right: float64)" in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["[[1, 1"], "error: INPUT is not JSON: Expecting ',' delimiter at character 6 of '[[1, 1'."),
        (["left=1", "oops"], "error: 'oops' is not name=value."),
        (["@missing.json"], "error: missing.json cannot be read: No such file or directory."),
    ],
)
def test_input_that_cannot_be_read_is_an_error(and_gate: str, words: list[str], message: str) -> None:
    answer = typed("predict", and_gate, *words)
    assert answer.status == 1
    assert answer.err.startswith(message)


def test_a_file_is_given_by_name(tmp_path: Path) -> None:
    (tmp_path / "files.py").write_text("def size(data: bytes) -> int:\n    return len(data)\n")
    (tmp_path / "five.bin").write_bytes(b"\x00\x01\x02\x03\x04")
    answer = typed("predict", f"{tmp_path}/files.py:size", f"data=@{tmp_path}/five.bin")
    assert (answer.status, answer.out) == (0, "5\n")


def test_a_key_is_taken_from_the_environment(
    serve: Callable[..., Running], and_gate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = serve(and_gate, key=KEY).url
    answer = typed("predict", "and", "--url", url, "[[1, 1]]")
    assert answer.status == 1
    assert "error: You didn't provide an API key." in answer.err
    monkeypatch.setenv("HANSANG_API_KEY", KEY)
    assert typed("predict", "and", "--url", url, "[[1, 1]]").out == "1\n"


def test_korean_stays_korean(tmp_path: Path) -> None:
    (tmp_path / "hi.py").write_text(
        "def greet(name: str) -> dict:\n    return {'인사': name + '님'}\n", encoding="utf-8"
    )
    answer = typed("predict", f"{tmp_path}/hi.py:greet", "name=민수")
    assert json.loads(answer.out) == {"인사": "민수님"}
    assert "민수님" in answer.out


def test_what_cannot_be_loaded_is_an_error(tmp_path: Path) -> None:
    answer = typed("predict", tmp_path / "gone.json", "[[1]]")
    assert answer.status == 1
    assert "error: There is no file" in answer.err
