"""The command line as a whole: what every command shares."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hansang import __version__
from hansang.cli import hansang
from terminal import typed

HEAVY = ("pydantic", "fastapi", "uvicorn", "numpy", "onnxruntime", "aiohttp", "orjson", "asyncio")


def test_help_and_version_answer_at_once_for_they_import_nothing_heavy() -> None:
    code = f"""
import sys
from hansang.cli import main
status = main(sys.argv[1:])
assert not (found := [name for name in {HEAVY!r} if name in sys.modules]), found
sys.exit(status)
"""
    for arguments, said in ((["--help"], "serve"), (["--version"], __version__), (["predict", "--help"], "SOURCE")):
        ran = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
        assert (ran.returncode, ran.stderr) == (0, "")
        assert said in ran.stdout


def test_the_commands_are_these_and_each_says_what_it_does() -> None:
    assert sorted(hansang.commands) == ["bench", "init", "jobs", "models", "predict", "serve", "train"]
    for name, command in hansang.commands.items():
        assert command.help, name
        answer = typed(name, "--help")
        assert (answer.status, answer.err) == (0, "")


def test_it_runs_as_a_module() -> None:
    ran = subprocess.run([sys.executable, "-m", "hansang", "--version"], capture_output=True, text=True)
    assert ran.stdout == f"hansang {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["sevre"], "error: No such command 'sevre'.", "hint: hansang --help"),
        (["predict"], "error: Missing argument 'SOURCE'.", "hint: hansang predict --help"),
        (["predict", "--nope", "x"], "error: No such option '--nope'.", "hint: hansang predict --help"),
        (["models", "inspect"], "error: Give a SOURCE (or a NAME)", "hint: hansang models inspect --help"),
    ],
)
def test_asked_wrongly_is_status_2_with_an_error_and_a_hint(arguments: list[str], message: str, hint: str) -> None:
    answer = typed(*arguments)
    assert answer.status == 2
    assert answer.out == ""
    told, advised = answer.err.splitlines()
    assert told.startswith(message)
    assert advised == hint


def test_nothing_typed_shows_what_there_is() -> None:
    answer = typed()
    assert answer.status == 2
    assert "Commands:" in answer.err
