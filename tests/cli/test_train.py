"""`hansang train`: here, into the repository of a home, and on a server."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Running
from hansang import Client
from hansang.cli.plot import plot
from hansang.registry.repository import Repository
from terminal import started, typed

TABLE = "a,b,y\n0,0,no\n0,1,yes\n1,0,yes\n1,1,yes\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_trains_into_the_repository_of_a_home(here: Path) -> None:
    answer = typed("train", "and", "--home", "home", "--seed", "1")
    assert (answer.status, answer.err) == (0, "")
    lines = answer.out.splitlines()
    assert lines[0] == "started"
    assert lines[1].startswith("epoch 1  errors ")
    assert "model         and  perceptron on gate and" in lines
    assert "version       1" in lines
    assert "accuracy      1" in lines
    path = here / "home" / "models" / "and" / "1" / "perceptron.json"
    assert f"path          {Path('home/models/and/1/perceptron.json')}" in lines
    assert path.exists()
    assert Repository(here / "home" / "models").get("and").provenance["source"] == "training"


def test_json_is_the_job_and_nothing_else(here: Path) -> None:
    for number in (1, 2):
        job = json.loads(typed("train", "nor", "--home", "home", "--format", "pickle", "--json").out)
        assert (job["state"], job["result"]["version"], job["result"]["file"]) == (
            "succeeded",
            number,
            "perceptron.pkl",
        )


def test_a_perceptron_on_xor_says_why_it_did_not_converge() -> None:
    answer = typed("train", "xor", "--trainer", "perceptron", "--home", "home", "--epochs", "30")
    assert answer.status == 0
    assert "no straight line separates the two classes" in answer.out
    assert "Train it with the trainer `mlp`" in answer.out


def test_rows_and_tables_are_read_from_files(here: Path) -> None:
    (here / "rows.json").write_text("[[0, 0, 0], [0, 1, 1], [1, 0, 0], [1, 1, 1]]")
    job = json.loads(typed("train", "second", "--data", "rows.json", "--home", "home", "--json", "--epochs", "3").out)
    assert (job["params"]["data"]["source"], job["params"]["options"]["epochs"]) == ("rows", 3)
    (here / "table.csv").write_text(TABLE)
    words = ("--data", "table.csv", "--target", "y", "--option", "hidden=4", "--epochs", "2", "--home", "home")
    job = json.loads(typed("train", "either", *words, "--json").out)
    assert job["params"]["data"]["classes"] == {"no": 1, "yes": 3}
    assert job["params"]["options"]["hidden"] == 4
    assert (here / "table.csv").exists()


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["xro"], "There is no gate 'xro'", "Did you mean xor?"),
        (["xor", "--trainer", "mpl"], "There is no trainer 'mpl'", "Did you mean mlp?"),
        (["and", "--trainer", "perceptron", "--option", "learningrate=1"], "no option", "Did you mean learning_rate?"),
        (["and", "--option", "hidden"], "is not NAME=NUMBER", "--option hidden=16"),
        (["and", "--format", "pickel"], "cannot save as 'pickel'", "Did you mean pickle?"),
        (["and", "--epochs", "0"], "pochs is 0.", "1 to 100000"),
        (["and", "--seed", "-1"], "eed is -1.", "A whole number"),
        (["and", "--data", "tabel.csv"], "There is no file tabel.csv.", "Did you mean table.csv?"),
        (["and", "--data", "table.csv", "--target", "z"], "There is no column 'z'", "Columns: a, b, y."),
    ],
)
def test_wrong_words_name_the_nearest_right_one(here: Path, words: list[str], message: str, hint: str) -> None:
    (here / "table.csv").write_text(TABLE)
    answer = typed("train", *words, "--home", "home")
    assert answer.status == 1
    error, advice = answer.err.splitlines()
    assert message in error
    assert hint in advice
    assert Repository(here / "home" / "models").names() == []


def test_a_model_of_the_configuration_is_not_trained_over(here: Path, and_gate: str) -> None:
    (here / "hansang.toml").write_text(f'home = "home"\n[models.and]\nsource = "{and_gate}"\n')
    answer = typed("train", "and")
    assert answer.status == 1
    assert "error: and stands in the configuration" in answer.err


def test_it_trains_on_a_server_and_follows(serve: Callable[..., Running]) -> None:
    server = serve(demo=False)
    answer = typed("train", "or", "--url", server.url)
    assert answer.status == 0
    assert "version       1" in answer.out
    assert "next:" not in answer.out
    assert server.predict("or", [1, 0]) == {"predictions": [1]}
    assert typed("train", "or", "--url", server.url, "--home", "home").status == 2


def test_a_running_server_serves_what_was_trained_beside_it_once_it_is_told_to_load(
    serve: Callable[..., Running], here: Path
) -> None:
    server = serve(demo=False, home=here / "home")
    client = Client(server.url)
    client.upload(_gate(here, "gate.json", "[1, 1]", "-1.5"), "gate")
    assert typed("train", "gate", "--data", "or", "--home", "home").status == 0
    assert client.predict("gate", [[0, 1]]) == [0]
    assert client.model("gate")["versions"] == ["2", "1"]
    loaded = typed("models", "load", "gate", "--url", server.url)
    assert loaded.out == "gate: version 2 is ready.\n"
    assert client.predict("gate", [[0, 1]]) == [1]
    assert [job["model"] for job in client.jobs()] == ["gate"]


def _gate(folder: Path, name: str, weights: str, bias: str) -> Path:
    path = folder / name
    path.write_text(f'{{"weights": {weights}, "bias": {bias}}}')
    return path


def test_ctrl_c_cancels_the_job_and_stores_nothing(here: Path) -> None:
    (here / "rows.json").write_text(json.dumps([[x / 500, x / 500 + 0.01 * (x % 3)] for x in range(100)]))
    words = ("train", "slow", "--trainer", "mlp", "--data", "rows.json", "--epochs", "100000", "--home", "home")
    with started(*words, cwd=here) as training:
        training.until("epoch ")
        assert training.stop(signal.SIGINT) == 130
        training.until("was cancelled; nothing was stored")
    assert Repository(here / "home" / "models").names() == []


def test_on_a_terminal_there_is_a_bar_and_a_plot_of_the_errors(here: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "hansang", "train", "xor", "--trainer", "perceptron", "--home", "home"]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", "TERM": "xterm"}
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, cwd=here, env=environment)
    os.close(theirs)
    said = b""
    try:
        while piece := os.read(ours, 65536):
            said += piece
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    text = said.decode()
    assert process.wait(30) == 0
    assert "xor (perceptron)  [" in text
    assert "100%" in text
    assert any("\u2800" <= character <= "\u28ff" for character in text)
    assert "note          It did not converge" in text


def test_a_plot_falls_as_its_values_do() -> None:
    lines = plot([3.0, 2.0, 1.0, 0.0], width=8, height=4, braille=False)
    assert lines == ["3 |***", "  |  ***", "  |    ***", "0 |      **"]
    assert len(plot([0.5], height=3)) == 3
    assert {len(line.partition("│")[0]) for line in plot([1e-6, 1000.25])} == {len("1e-06 ")}
