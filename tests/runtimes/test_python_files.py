"""Files and notebooks are imported by path, once; what goes wrong in them is told in one line."""

from __future__ import annotations

import pickle
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hansang.core.errors import LoadFailed
from hansang.core.source import parse
from hansang.runtimes.python_files import load_object


def opened(text: str | Path) -> Any:
    return load_object(parse(f"m={text}")[1])


def failing(text: str | Path) -> LoadFailed:
    with pytest.raises(LoadFailed) as caught:
        opened(text)
    assert "Traceback" not in caught.value.message
    return caught.value


def written(path: Path, *lines: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def clean_imports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """What a test imports from its folder is gone after it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize("name", ["gates.py", "5_1.py", "모델.py", "a b.c.py", "class.py"])
def test_any_file_name_works(tmp_path: Path, name: str) -> None:
    assert opened(f"{written(tmp_path / name, 'value = 7')}:value") == 7


def test_names_may_be_korean_or_dotted(tmp_path: Path) -> None:
    path = written(tmp_path / "x.py", "class 문:", "    def 열다(self): return '열림'", "문짝 = 문()")
    assert opened(f"{path}:문짝.열다")() == "열림"


def test_siblings_are_imported(tmp_path: Path) -> None:
    written(tmp_path / "model.py", "NAME = 'and'")
    assert opened(f"{written(tmp_path / 'main.py', 'import model', 'name = model.NAME')}:name") == "and"


def test_two_folders_keep_their_own_siblings(tmp_path: Path) -> None:
    """Two lessons, each with a `model.py`: no lesson gets the other's."""
    for day in ("one", "two"):
        written(tmp_path / day / "model.py", f"DAY = {day!r}")
        written(tmp_path / day / "main.py", "import model", "def day(): return model.DAY")
    days = [opened(f"{tmp_path / day / 'main.py'}:day") for day in ("one", "two")]
    assert [day() for day in days] == ["one", "two"]


def test_a_file_is_run_once_for_all_its_names(tmp_path: Path) -> None:
    path = written(tmp_path / "x.py", "with open('ran', 'a') as f: f.write('.')", "a, b = 1, 2")
    path.write_text(path.read_text().replace("'ran'", repr(str(tmp_path / "ran"))))
    assert [opened(f"{path}:{name}") for name in ("a", "b", "a")] == [1, 2, 1]
    assert (tmp_path / "ran").read_text() == "."


def test_a_changed_file_is_run_again(tmp_path: Path) -> None:
    path = written(tmp_path / "x.py", "value = 1")
    assert opened(f"{path}:value") == 1
    written(path, "value = 22")
    assert opened(f"{path}:value") == 22


def test_dataclasses_type_hints_and_pickles_find_their_module(tmp_path: Path) -> None:
    path = written(
        tmp_path / "x.py",
        "from __future__ import annotations",
        "from dataclasses import dataclass",
        "@dataclass",
        "class Point:",
        "    x: float",
        "def f(p: Point) -> Point: return p",
    )
    point = opened(f"{path}:Point")
    assert typing.get_type_hints(opened(f"{path}:f"))["p"] is point
    assert pickle.loads(pickle.dumps(point(1.5))) == point(1.5)


def test_what_only_a_program_does_is_not_done(tmp_path: Path) -> None:
    path = written(tmp_path / "x.py", "y = 1", "if __name__ == '__main__':", "    y = 2")
    assert opened(f"{path}:y") == 1


def test_a_missing_file_names_near_ones(tmp_path: Path) -> None:
    written(tmp_path / "gates.py", "")
    error = failing(tmp_path / "gatse.py")
    assert "gatse.py" in error.message
    assert "gates.py" in (error.hint or "")


def test_a_file_alone_lists_the_commands_and_runs_nothing(tmp_path: Path) -> None:
    path = written(
        tmp_path / "gates.py",
        "from fastapi import FastAPI",
        "app = FastAPI()",
        "LIMIT = 3",
        "def and_gate(a, b): return a & b",
        "class Gate: ...",
        "def _private(): ...",
        "1 / 0",
    )
    error = failing(path)
    commands = [f"hansang serve {path}:{name}" for name in ("app", "and_gate", "Gate")]
    assert error.hint == "\n".join(commands)


def test_a_missing_name_tells_near_ones_and_what_there_is(tmp_path: Path) -> None:
    error = failing(f"{written(tmp_path / 'g.py', 'def and_gate(): ...', 'def or_gate(): ...')}:add_gate")
    assert "has no add_gate" in error.message
    assert f"Did you mean {tmp_path}/g.py:and_gate" in (error.hint or "")
    assert "It defines and_gate, or_gate." in (error.hint or "")


def test_an_exception_names_file_line_and_what(tmp_path: Path) -> None:
    path = written(tmp_path / "x.py", "def f(a):", "    return 1 / a", "", "f(0)")
    error = failing(f"{path}:f")
    assert error.message == f"{path}, line 2: ZeroDivisionError: division by zero"
    assert error.hint == "The line is: return 1 / a"


def test_an_exception_in_a_sibling_names_the_sibling(tmp_path: Path) -> None:
    sibling = written(tmp_path / "other.py", "", "raise ValueError('no data')")
    error = failing(f"{written(tmp_path / 'x.py', 'import other')}:f")
    assert error.message == f"{sibling}, line 2: ValueError: no data"


def test_a_syntax_error_names_its_line(tmp_path: Path) -> None:
    path = written(tmp_path / "x.py", "def f(:", "    pass")
    assert failing(f"{path}:f").message == f"{path}, line 1: SyntaxError: invalid syntax"


def test_what_is_not_installed_comes_with_the_command(tmp_path: Path) -> None:
    error = failing(f"{written(tmp_path / 'x.py', 'import nowhere_to_be_found.deep')}:f")
    assert "No module named 'nowhere_to_be_found'" in error.message
    assert error.hint == "Install it where hansang is installed: pip install nowhere_to_be_found"


def test_a_file_that_ends_the_program_does_not_end_the_server(tmp_path: Path) -> None:
    error = failing(f"{written(tmp_path / 'x.py', 'import sys', 'sys.exit(2)')}:f")
    assert "line 2 ends the program" in error.message
    assert "__main__" in (error.hint or "")


def test_a_file_that_is_no_python_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_bytes(b"\xff\xfe\x00binary")
    assert str(path) in failing(f"{path}:f").message


def test_a_failed_file_may_be_mended(tmp_path: Path) -> None:
    path = written(tmp_path / "x.py", "1 / 0")
    failing(f"{path}:f")
    written(path, "def f(): return 'mended'")
    assert opened(f"{path}:f")() == "mended"
