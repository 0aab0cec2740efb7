"""`hansang serve --reload`: changes of code and of model files."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from hansang.cli.reload import Watched
from terminal import PATIENCE, Started, started

ADD = "def f(a: int) -> int:\n    return a + 1\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def answer(server: Started, model: str, row: Any) -> Any:
    with server.client() as client:
        return client.post(f"/v1/models/{model}:predict", json={"instances": [row]}).json()


def test_a_change_of_code_is_served_and_an_error_in_it_does_not_end_the_reloader(here: Path) -> None:
    code = here / "work.py"
    code.write_text(ADD)
    with started("serve", "work.py:f", "--port", "0", "--reload", cwd=here) as server:
        url = server.until_ready()
        assert answer(server, "f", 1) == {"predictions": [2]}

        code.write_text("def f(a: int) -> int:\n    return a +\n")
        server.until("changed: work.py")
        server.until("^error: .*work.py")
        server.until("the next change of a file tries again")
        assert server.process.poll() is None

        code.write_text(ADD.replace("1", "100"))
        assert server.until_ready() == url
        assert answer(server, "f", 1) == {"predictions": [101]}
        assert server.stop() == 0


def test_a_change_of_a_module_beside_it_counts_too(here: Path) -> None:
    (here / "helper.py").write_text("STEP = 1\n")
    (here / "work.py").write_text("from helper import STEP\n\ndef f(a: int) -> int:\n    return a + STEP\n")
    with started("serve", "work.py:f", "--port", "0", "--reload", cwd=here) as server:
        server.until_ready()
        (here / "helper.py").write_text("STEP = 10\n")
        server.until_ready()
        assert answer(server, "f", 1) == {"predictions": [11]}


def test_a_change_of_a_model_file_is_served(here: Path, and_gate: str) -> None:
    with started("serve", and_gate, "--port", "0", "--reload", cwd=here) as server:
        server.until_ready()
        new = here / "new.json"
        new.write_text('{"weights": [0.5, 0.5], "bias": -0.25}')
        new.replace(and_gate)
        server.until("changed: and.json")
        server.until_ready()
        assert answer(server, "and", [0, 1]) == {"predictions": [1]}


def test_the_server_goes_when_the_reloader_is_killed(here: Path, and_gate: str) -> None:
    with started("serve", and_gate, "--port", "0", "--reload", cwd=here) as server:
        server.until_ready()
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
        if not children.exists():
            pytest.skip("this system does not tell a process's children")
        (child,) = children.read_text().split()
        server.stop(signal.SIGKILL)
        until = time.monotonic() + PATIENCE
        while _runs(int(child)):
            assert time.monotonic() < until, "the server outlived its reloader"
            time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return not Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].startswith(" Z")
    except OSError:
        return False


def test_what_is_watched(here: Path) -> None:
    (here / "hansang.toml").touch()
    models = here / "models"
    models.mkdir()
    watched = Watched([f"{models}/iris.onnx", "code/gates.py:f", "echo:"], None)
    assert watched.folders == [here, here / "models"]  # code/ is not there to be watched
    for matters in ("models/iris.onnx", "code/gates.py", "code/deep/er.py", "code/lesson.ipynb", "hansang.toml"):
        assert watched.matters(str(here / matters)), matters
    for other in ("models/other.onnx", "code/.venv/x.py", "code/.ipynb_checkpoints/a.ipynb", "code/a.txt", "b.py"):
        assert not watched.matters(str(here / other)), other
