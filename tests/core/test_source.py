"""What stands for a model on the command line, in every way that people write it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hansang.core.errors import HansangError, LoadFailed
from hansang.core.source import NAME, parse


@pytest.mark.parametrize(
    ("text", "name", "path", "attribute"),
    [
        ("iris.onnx", "iris", "iris.onnx", None),
        ("models/iris.v2.onnx", "iris.v2", "models/iris.v2.onnx", None),
        ("./and.json", "and", "and.json", None),
        ("gates.py:and_gate", "and_gate", "gates.py", "and_gate"),
        ("5_1.py:app", "5_1", "5_1.py", "app"),
        ("5_1.py", "5_1", "5_1.py", None),
        ("5_1.py:", "5_1", "5_1.py", None),
        ("lesson.ipynb:predict", "predict", "lesson.ipynb", "predict"),
        ("LESSON.IPYNB:predict", "predict", "LESSON.IPYNB", "predict"),
        ("한글 파일.py:predict", "predict", "한글 파일.py", "predict"),
        ("mine=한글.onnx", "mine", "한글.onnx", None),
        ("mine=a=b.onnx", "mine", "a=b.onnx", None),
        ("mine=gates.py:and_gate", "mine", "gates.py", "and_gate"),
        ("a b/iris.onnx", "iris", "a b/iris.onnx", None),
        ("dir=x/iris.onnx", "dir", "x/iris.onnx", None),
    ],
)
def test_files(text: str, name: str, path: str, attribute: str | None) -> None:
    found, source = parse(text)
    assert (found, source.path, source.attribute, source.scheme) == (name, Path(path), attribute, None)


@pytest.mark.parametrize(
    ("text", "name", "scheme", "rest"),
    [
        ("echo:", "echo", "echo", ""),
        ("echo:x", "x", "echo", "x"),
        ("me=echo:", "me", "echo", ""),
        ("me=hf:Qwen/Qwen3-0.6B", "me", "hf", "Qwen/Qwen3-0.6B"),
        ("me=openai:gpt:4", "me", "openai", "gpt:4"),
    ],
)
def test_schemes(text: str, name: str, scheme: str, rest: str) -> None:
    found, source = parse(text)
    assert (found, source.scheme, source.rest, source.path) == (name, scheme, rest, None)


def test_a_file_that_is_there_is_no_scheme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("echo:model").write_text("{}")
    assert parse("m=echo:model")[1].path == Path("echo:model")


@pytest.mark.parametrize(
    "text",
    ["나이.json", "-x.onnx", ".onnx", "", "=x.onnx", "a b.onnx", "a/b=x.onnx", "x" * 200 + ".onnx", "hf:a/b", "é="],
)
def test_a_name_that_cannot_be_one_is_an_error_that_shows_how_to_give_one(text: str) -> None:
    with pytest.raises(LoadFailed, match="name") as failed:
        parse(text)
    assert "my-model=" in str(failed.value.hint)


def test_the_home_directory_is_meant_by_a_tilde(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse("~/iris.onnx")[1].path == tmp_path / "iris.onnx"
    assert parse("m=~no-such-user-here/iris.onnx")[1].path == Path("~no-such-user-here/iris.onnx")


@given(st.text(max_size=400))
def test_whatever_is_typed_is_understood_or_refused_in_our_words(text: str) -> None:
    try:
        name, source = parse(text)
    except LoadFailed:
        return
    assert NAME.fullmatch(name)
    assert (source.path is None) != (source.scheme is None)
    if source.path is not None:
        with suppress(HansangError):
            source.file()


def test_a_missing_file_names_those_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "iris.onnx").write_bytes(b"x")
    (tmp_path / "other.txt").write_bytes(b"x")
    with pytest.raises(LoadFailed, match="There is no file") as missing:
        parse(str(tmp_path / "irsi.onnx"))[1].file()
    assert missing.value.hint == "Files there with that ending: iris.onnx."
    with pytest.raises(LoadFailed, match="There is no file"):
        parse(str(tmp_path / "nowhere" / "x.onnx"))[1].file()
    with pytest.raises(LoadFailed, match="There is no file"):
        parse("m=" + str(tmp_path / "x.**"))[1].file()
    with pytest.raises(LoadFailed, match="no file"):
        parse("m=" + "x" * 5000 + ".onnx")[1].file()


def test_a_folder_and_what_cannot_be_read_are_told_apart(tmp_path: Path) -> None:
    folder = tmp_path / "folder.onnx"
    folder.mkdir()
    with pytest.raises(LoadFailed, match="is not a file"):
        parse(str(folder))[1].file()
    locked = tmp_path / "locked.onnx"
    locked.write_bytes(b"x")
    locked.chmod(0)
    if os.access(locked, os.R_OK):
        pytest.skip("who may do everything can read this too")
    with pytest.raises(LoadFailed, match="cannot be read: Permission denied"):
        parse(str(locked))[1].file()


def test_a_scheme_is_no_file() -> None:
    with pytest.raises(LoadFailed, match="is not a file"):
        parse("echo:")[1].file()
