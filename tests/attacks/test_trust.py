"""Attacks with pickles: unasked they never run; trusted, they get no secret, and nothing but their own process."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from hansang.app import Server
from hansang.core.errors import LoadFailed, UnsafeArtifact
from hansang.core.model import LoadContext
from hansang.core.source import parse
from hansang.registry.registry import ModelSpec
from hansang.settings import Settings

SECRETS = ("HANSANG_API_KEY", "OPENAI_API_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


class Runs:
    """Unpickled, it runs a line of Python."""

    def __init__(self, line: str) -> None:
        self.line = line

    def __reduce__(self) -> Any:
        return exec, (self.line,)


class Answers:
    """Unpickled, it is the function that a line of Python names `f`."""

    def __init__(self, line: str) -> None:
        self.line = line

    def __reduce__(self) -> Any:
        return eval, (f"(lambda space: (exec({self.line!r}, space), space['f'])[1])({{}})",)


def trust(path: Path) -> str:
    return f"sha256:{sha256(path.read_bytes()).hexdigest()}"


def saved(path: Path, attack: Any) -> Path:
    path.write_bytes(pickle.dumps(attack))
    return path


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


def touching(canary: Path) -> Runs:
    return Runs(f"open({str(canary)!r}, 'w').close()")


def upload(served: Any, file: Path, name: str = "clf") -> Any:
    return served.client.put(f"/v1/models/{name}?filename={file.name}", content=file.read_bytes())


def test_an_uploaded_pickle_is_refused_with_its_report(serve: Callable[..., Any], tmp_path: Path, canary: Path) -> None:
    file = saved(tmp_path / "clf.pkl", touching(canary))
    served = serve(home=tmp_path / "home")
    reply = upload(served, file)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert error["code"] == "unsafe_artifact"
    assert "builtins.exec" in error["message"]
    assert "hansang models convert clf.pkl" in error["hint"]
    assert f"--trust {trust(file)}" in error["hint"]
    assert not canary.exists()
    assert served.client.get("/v1/models/clf").status_code == 404


def test_trust_cannot_be_asked_for_over_http(serve: Callable[..., Any], tmp_path: Path, canary: Path) -> None:
    file = saved(tmp_path / "clf.pkl", touching(canary))
    served = serve(home=tmp_path / "home")
    headers = {"x-trust": trust(file), "trust": trust(file)}
    for query in (f"trust={trust(file)}", f"trusted={trust(file)}", "hosted=yes", "options[trusted]=1"):
        path = f"/v1/models/clf?filename=clf.pkl&{query}"
        assert served.client.put(path, content=file.read_bytes(), headers=headers).status_code == 400
    form = {"trust": trust(file), "trusted": trust(file), "hosted": "yes", "options": '{"trusted": "1"}'}
    reply = served.client.put("/v1/models/clf", data=form, files={"file": ("clf.pkl", file.read_bytes())})
    assert reply.status_code == 400
    assert not canary.exists()


def test_an_upload_runs_only_if_its_very_bytes_are_trusted(
    serve: Callable[..., Any], tmp_path: Path, canary: Path
) -> None:
    good = saved(tmp_path / "good.pkl", Answers("def f(x):\n return x * 2"))
    bad = saved(tmp_path / "bad.pkl", touching(canary))
    served = serve(trust=[trust(good)], home=tmp_path / "home")
    assert upload(served, bad, "good").status_code == 400
    assert upload(served, good, "good").status_code in (200, 201)
    assert served.predict("good", 4) == {"predictions": [8]}
    assert upload(served, bad, "good").status_code == 400
    assert served.predict("good", 4) == {"predictions": [8]}
    assert not canary.exists()


def test_trust_is_of_content_not_of_a_name(serve: Callable[..., Any], tmp_path: Path, canary: Path) -> None:
    file = saved(tmp_path / "clf.pkl", Answers("def f(x):\n import os\n os._exit(1)"))
    served = serve(str(file), trust=[trust(file)], home=tmp_path / "home")
    saved(file, touching(canary))
    reply = served.client.post("/v1/models/clf:predict", json={"instances": [1]})
    assert reply.json()["error"]["code"] == "process_ended"
    reply = served.client.post("/v1/models/clf:predict", json={"instances": [1]})
    assert reply.status_code == 503
    assert "not the file that was trusted" in reply.json()["error"]["message"]
    assert not canary.exists()


def test_a_trusted_pickle_sees_no_secret(
    serve: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, "canary-0123456789-0123456789-0123456789")
    file = saved(tmp_path / "spy.pkl", Answers("import os\nseen = dict(os.environ)\ndef f(x):\n return seen"))
    served = serve(str(file), trust=[trust(file)], home=tmp_path / "home", key="k" * 32)
    (seen,) = served.predict("spy", 1)["predictions"]
    assert "PATH" in seen
    assert not set(SECRETS) & seen.keys()
    assert "canary" not in str(seen.values())


def test_it_runs_in_another_process_than_the_servers(serve: Callable[..., Any], tmp_path: Path) -> None:
    line = "import os, sys\npids = [os.getpid()]\nsys.hansang_was_here = True\ndef f(x):\n return pids + [os.getpid()]"
    file = saved(tmp_path / "pid.pkl", Answers(line))
    served = serve(str(file), trust=[trust(file)], home=tmp_path / "home")
    loaded, answered = served.predict("pid", 1)["predictions"][0]
    assert loaded == answered != os.getpid()
    assert not hasattr(sys, "hansang_was_here")


def test_its_answers_are_never_unpickled(serve: Callable[..., Any], tmp_path: Path, canary: Path) -> None:
    attack = pickle.dumps(touching(canary))
    line = f"""
import os, struct, time
def f(x):
    for fd in range(3, 20):
        try:
            os.write(fd, struct.pack(">I", {len(attack)}) + {attack!r})
        except OSError:
            pass
    time.sleep(600)
"""
    file = saved(tmp_path / "liar.pkl", Answers(line))
    served = serve(str(file), trust=[trust(file)], home=tmp_path / "home")
    reply = served.client.post("/v1/models/liar:predict", json={"instances": [1]})
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "process_ended")
    assert not canary.exists()


@pytest.mark.parametrize("line", ["import os; os._exit(1)", "raise SystemExit", "1/0", "import os; os.kill(0, 9)"])
def test_a_pickle_that_ends_everything_ends_its_process(tmp_path: Path, line: str) -> None:
    file = saved(tmp_path / "end.pkl", Runs(line))
    server = Server([str(file)], Settings(trust=[trust(file)], home=tmp_path / "home"))
    with pytest.raises(LoadFailed):
        server.registry.find("end").model.load(LoadContext())


def test_converting_a_pickle_does_not_run_it(tmp_path: Path, canary: Path) -> None:
    file = saved(tmp_path / "clf.pkl", touching(canary))
    for to in ("json", "skops", "safetensors", "onnx"):
        done = subprocess.run(
            [sys.executable, "-m", "hansang", "models", "convert", str(file), "--to", to],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1
        assert "builtins.exec" in done.stderr
    wrong = "sha256:" + "0" * 64
    done = subprocess.run(
        [sys.executable, "-m", "hansang", "models", "convert", str(file), "--trust", wrong], capture_output=True
    )
    assert done.returncode == 1
    assert not canary.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["clf.pkl"]


def test_a_trusted_pickle_is_converted_apart_and_without_secrets(
    tmp_path: Path, canary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "canary-0123456789")
    line = f"import os; open({str(canary)!r}, 'w').write(str(dict(os.environ)) + str(os.getppid()))"
    file = saved(tmp_path / "clf.pkl", Runs(line))
    done = subprocess.run(
        [sys.executable, "-m", "hansang", "models", "convert", str(file), "--trust", trust(file)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "NoneType" in done.stderr
    assert "PATH" in canary.read_text()
    assert "canary-0123456789" not in canary.read_text()


def test_no_way_of_naming_a_file_is_a_way_around_trust(tmp_path: Path, canary: Path) -> None:
    file = saved(tmp_path / "clf.pkl", touching(canary))
    for text in (f"{file}", f"clf={file}"):
        name, source = parse(text)
        with pytest.raises(UnsafeArtifact):
            Server([ModelSpec(name, source)], Settings(home=tmp_path / "home"))
    assert not canary.exists()
