"""Log lines, for people and for programs."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest

from hansang import logs
from terminal import logging_restored


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Logging as it was."""
    with logging_restored():
        yield


def log_a_failure() -> None:
    try:
        raise ValueError("나쁜 값")
    except ValueError:
        logging.getLogger("hansang.model").exception("the model raised", extra={"request_id": "req_1"})


def test_text_has_time_level_place_words_and_what_belongs_to_them(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "text")
    log_a_failure()
    logging.getLogger("hansang.model").debug("too quiet")
    first, *traceback = capsys.readouterr().err.splitlines()
    time, _, rest = first.partition(" ")
    assert time.endswith("Z")
    assert rest == "ERROR hansang.model: the model raised request_id=req_1"
    assert traceback[-1] == "ValueError: 나쁜 값"


def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("debug", "json")
    log_a_failure()
    logging.getLogger("hansang.model").debug("quiet %d", 2)
    first, second = capsys.readouterr().err.splitlines()
    assert "나쁜 값" in first
    line = json.loads(first)
    assert line.pop("time").endswith("Z")
    assert line.pop("traceback").endswith("ValueError: 나쁜 값")
    assert line == {
        "level": "error",
        "logger": "hansang.model",
        "message": "the model raised",
        "request_id": "req_1",
    }
    assert json.loads(second)["message"] == "quiet 2"


def test_the_libraries_below_are_heard_from_warnings_on(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "text")
    logging.getLogger("uvicorn.error").info("Started server process")
    logging.getLogger("some.library").info("chatter")
    logging.getLogger("some.library").warning("trouble")
    assert [line.partition(" ")[2] for line in capsys.readouterr().err.splitlines()] == [
        "WARNING some.library: trouble"
    ]


def test_nothing_is_configured_by_importing() -> None:
    code = """
import logging, hansang.app, hansang.cli.run
print(logging.getLogger().handlers, logging.getLogger("hansang").level)
"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[] 0\n"
