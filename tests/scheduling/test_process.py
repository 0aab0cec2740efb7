"""A model in its own process: its crashes, its hanging, its lies and its end stay its own."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from conftest import running
from hansang.app import open_source
from hansang.core.errors import DeadlineExceeded, HansangError, InvalidInput, LoadFailed, ModelFailed, Unavailable
from hansang.core.model import Call, CallContext, LoadContext
from hansang.core.source import parse
from hansang.registry.registry import ModelSpec, Registry
from hansang.scheduling import child
from hansang.scheduling.executors import answer
from hansang.scheduling.process import Hosted
from hansang.tasks.tabular import TABULAR, Blob, Table
from house import PATIENCE

CODE = """
import os, struct, subprocess, sys, time
from hansang.core.errors import InvalidInput

def twice(x: int) -> int:
    print("asked for", x)
    sys.stdin.read()
    return x * 2

def act(what):
    if what == "exit":
        os._exit(3)
    if what == "system exit":
        raise SystemExit(4)
    if what == "segfault":
        os.kill(os.getpid(), 11)
    if what == "hang":
        time.sleep(600)
    if what == "spin":
        while True:
            pass
    if what == "refuse":
        raise InvalidInput("No.", hint="Ask otherwise.", param="what")
    if what == "fail":
        raise RuntimeError("a secret of the model")
    if what == "pid":
        return os.getpid()
    if what == "environment":
        return dict(os.environ)
    if what == "start another":
        return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid
    if what == "print":
        print("line one\\n\\x1b[31mline two\\x1b[0m")
    return what

def lie(what: str) -> str:
    raw = {
        "giant": struct.pack(">I", 2**32 - 1),
        "garbage": struct.pack(">I", 4) + b"\\x80\\x04N.",
        "half": b"\\0\\0",
        "deep": struct.pack(">I", 10**6) + b"[" * 10**6,
        "long number": struct.pack(">I", 10**6) + b"9" * 10**6,
        "another's": struct.pack(">I", 13) + b'{"number": 7}',
        "a list": struct.pack(">I", 2) + b"[]",
    }[what]
    for fd in range(3, 20):
        try:
            os.write(fd, raw)
        except OSError:
            pass
    time.sleep(600)

async def later(x: int) -> int:
    return x + 1

class Rows:
    def predict(self, x):
        return x
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "acts.py"
    path.write_text(CODE, encoding="utf-8")
    return path


@pytest.fixture
def host(file: Path) -> Iterator[Callable[[str], Hosted]]:
    """`host("act")` is the function, loaded in a process; all end with the test."""
    made: list[Hosted] = []

    def start(name: str) -> Hosted:
        model = Hosted(parse(f"{file}:{name}")[1], TABULAR)
        made.append(model)
        model.load(LoadContext())
        return model

    yield start
    for model in made:
        model.unload()


def call(*rows: Any, column: str = "") -> Call:
    return Call(Table({column: list(rows)}, len(rows)), CallContext("test", float("inf")))


def ask(model: Hosted, *rows: Any, column: str = "") -> Any:
    (result,) = model.predict([call(*rows, column=column)])
    if isinstance(result, HansangError):
        raise result
    return result.columns["result"]


def has_ended(pid: int) -> bool:
    """Waits for it: an ended process may be a zombie for a moment."""
    end = monotonic() + PATIENCE
    while monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        sleep(0.01)
    return False


def test_it_answers_as_the_model_does_and_says_what_it_takes(host: Callable[[str], Hosted]) -> None:
    model = host("twice")
    assert model.signature is not None
    assert model.signature.describe() == "(x: int64) -> (result: int64)"
    assert model.info["process"] != os.getpid()
    assert ask(model, 1, 2, column="x") == [2, 4]
    assert [part.columns for part in model.predict([call(1, column="x"), call(5, column="x")])] == [
        {"result": [2]},
        {"result": [10]},
    ]


def test_async_models_and_any_json_pass(host: Callable[[str], Hosted]) -> None:
    assert ask(host("later"), 1, column="x") == [2]
    rows = [{"글": ["한", None, 1.5, {"a": True}]}, "\ud800", float("inf"), 2**70]
    assert ask(host("Rows"), *rows) == rows


def test_what_is_no_json_is_told_and_the_process_lives(host: Callable[[str], Hosted]) -> None:
    model = host("act")
    pid = ask(model, "pid")
    with pytest.raises(ModelFailed, match="must be JSON: Blob"):
        ask(model, Blob(b"picture"))
    assert ask(model, "pid") == pid


@pytest.mark.parametrize(
    ("end", "how"), [("exit", "it exited with 3"), ("segfault", "by SIGSEGV")], ids=["exit", "segfault"]
)
def test_a_crash_fails_its_own_call_and_the_next_one_works(host: Callable[[str], Hosted], end: str, how: str) -> None:
    model = host("act")
    with pytest.raises(Unavailable, match=how) as raised:
        ask(model, end)
    assert (raised.value.status, raised.value.code) == (503, "process_ended")
    assert ask(model, "hello") == ["hello"]


def test_who_shared_a_batch_with_a_crash_is_answered(host: Callable[[str], Hosted]) -> None:
    before, crash, after = answer(host("act"), [call("a"), call("exit"), call("b")])
    assert (before.columns, after.columns) == ({"result": ["a"]}, {"result": ["b"]})
    assert isinstance(crash, Unavailable)


def test_the_models_errors_pass_with_their_kind_and_its_exceptions_without(host: Callable[[str], Hosted]) -> None:
    model = host("act")
    with pytest.raises(InvalidInput, match="No") as refused:
        ask(model, "refuse")
    assert (refused.value.hint, refused.value.param) == ("Ask otherwise.", "what")
    with pytest.raises(ModelFailed) as failed:
        ask(model, "fail")
    assert "secret" not in failed.value.message
    with pytest.raises(ModelFailed):
        ask(model, "system exit")


def test_the_environment_has_no_secrets(host: Callable[[str], Hosted], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HANSANG_API_KEY", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "DATABASE_URL"):
        monkeypatch.setenv(name, "canary")
    (environment,) = ask(host("act"), "environment")
    assert "PATH" in environment
    assert "canary" not in str(environment)
    assert not {"HANSANG_API_KEY", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "HOME"} & environment.keys()


def test_what_it_prints_is_in_the_log_and_cannot_pass_for_other_lines(
    host: Callable[[str], Hosted], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hansang.model")
    assert ask(host("act"), "print") == ["print"]
    end = monotonic() + PATIENCE
    while "line two" not in caplog.text and monotonic() < end:
        sleep(0.01)
    lines = [record.getMessage() for record in caplog.records]
    assert [line.rpartition(": ")[2] for line in lines if "line" in line] == ["line one", "\\x1b[31mline two\\x1b[0m"]


@pytest.mark.parametrize("stuck", ["hang", "spin"])
def test_a_stuck_model_is_killed_when_nobody_waits_and_replaced(host: Callable[[str], Hosted], stuck: str) -> None:
    model = host("act")
    pid = ask(model, "pid")[0]
    asked = call(stuck)
    threading.Timer(0.2, asked.context.cancel, [DeadlineExceeded("Too late.")]).start()
    with pytest.raises(DeadlineExceeded):
        model.predict([asked])
    assert has_ended(pid)
    assert ask(model, "hello") == ["hello"]


@pytest.mark.parametrize("what", ["giant", "garbage", "deep", "long number", "another's", "a list"])
def test_frames_that_are_none_end_the_process_only(host: Callable[[str], Hosted], what: str) -> None:
    model = host("lie")
    with pytest.raises(Unavailable, match="it sent") as raised:
        ask(model, what, column="what")
    assert raised.value.code == "process_ended"


def test_half_a_frame_is_not_waited_for_longer_than_the_caller_waits(host: Callable[[str], Hosted]) -> None:
    model = host("lie")
    asked = call("half", column="what")
    threading.Timer(0.2, asked.context.cancel, [DeadlineExceeded("Too late.")]).start()
    with pytest.raises(DeadlineExceeded):
        model.predict([asked])


def test_a_process_that_does_not_read_is_not_waited_for(host: Callable[[str], Hosted]) -> None:
    model = host("act")
    pid = ask(model, "pid")[0]
    os.kill(pid, signal.SIGSTOP)
    asked = call("x" * 2**22)
    threading.Timer(0.2, asked.context.cancel, [DeadlineExceeded("Too late.")]).start()
    with pytest.raises(DeadlineExceeded):
        model.predict([asked])
    assert has_ended(pid)


def test_an_answer_beyond_the_bound_is_refused(host: Callable[[str], Hosted], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "LARGEST_ANSWER", 1000)
    with pytest.raises(Unavailable, match="more than 1,000 bytes"):
        ask(host("Rows"), "x" * 2000)


@pytest.mark.parametrize(
    "results",
    [
        None,
        [],
        [{}],
        [{"columns": {"result": [1, 2]}, "rows": 1}],
        [{"columns": {"result": [1]}, "rows": 10**12}],
        [{"columns": "x", "rows": 1}],
        [{"columns": {"result": 5}, "rows": 1}],
        [{"columns": {"result": [1]}, "rows": 1, "more": 2}],
        [{"error": "x"}],
        [5],
    ],
)
def test_answers_of_another_shape_are_the_models_failure(file: Path, results: Any) -> None:
    model = Hosted(parse(f"{file}:act")[1], TABULAR)
    with pytest.raises(ModelFailed, match="no answer"):
        model._results({"results": results}, [call("x")])


def test_a_file_that_ends_its_process_while_it_loads_is_told(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text("import os\nos._exit(5)\n")
    with pytest.raises(LoadFailed, match=r"ended while it loaded \(it exited with 5\)"):
        Hosted(parse(f"{path}:f")[1], TABULAR).load(LoadContext())
    path.write_text("def f(x):\n    return x\n")
    model = Hosted(parse(f"{path}:g")[1], TABULAR)
    with pytest.raises(LoadFailed, match="has no g") as raised:
        model.load(LoadContext())
    assert "f" in str(raised.value.hint)


def test_a_model_that_cannot_be_started_again_is_503(host: Callable[[str], Hosted], file: Path) -> None:
    model = host("act")
    file.unlink()
    with pytest.raises(Unavailable):
        ask(model, "exit")
    with pytest.raises(Unavailable, match="could not be started again: There is no file") as raised:
        ask(model, "hello")
    assert raised.value.code == "process_ended"


def test_unloading_ends_it_with_all_that_it_started(host: Callable[[str], Hosted]) -> None:
    model = host("act")
    pid, other = ask(model, "pid", "start another")
    model.unload()
    assert has_ended(pid)
    assert has_ended(other)
    with pytest.raises(Unavailable):
        ask(model, "hello")
    model.load(LoadContext())
    assert ask(model, "hello") == ["hello"]


def test_unloading_while_it_works_ends_it_and_its_caller(host: Callable[[str], Hosted]) -> None:
    model = host("act")
    pid = ask(model, "pid")[0]
    threading.Timer(0.2, model.unload).start()
    with pytest.raises(Unavailable):
        ask(model, "spin")
    assert has_ended(pid)


def test_threads_that_ask_at_once_get_their_own_answers(host: Callable[[str], Hosted]) -> None:
    model = host("twice")
    wrong: list[Any] = []

    def work(start: int) -> None:
        numbers = range(start, start + 50)
        wrong.extend(number for number in numbers if ask(model, number, column="x") != [number * 2])

    threads = [threading.Thread(target=work, args=(1000 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it ends when it next reads")
@pytest.mark.parametrize("work", ["hello", "spin"])
def test_it_dies_with_a_server_that_is_killed_whatever_it_does(file: Path, work: str) -> None:
    program = textwrap.dedent("""
        import sys, threading
        from hansang.core.model import Call, CallContext, LoadContext
        from hansang.core.source import parse
        from hansang.scheduling.process import Hosted
        from hansang.tasks.tabular import TABULAR, Table
        model = Hosted(parse(sys.argv[1] + ":act")[1], TABULAR)
        model.load(LoadContext())
        call = lambda row: Call(Table({"": [row]}, 1), CallContext("test", float("inf")))
        pids = [model.predict([call(what)])[0].columns["result"][0] for what in ("pid", "start another")]
        print(*pids, flush=True)
        model.predict([call(sys.argv[2])])
        threading.Event().wait()
    """)
    with subprocess.Popen(
        [sys.executable, "-c", program, str(file), work], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        pids = [int(pid) for pid in server.stdout.readline().split()]
        server.kill()
    assert len(pids) == 2
    assert [has_ended(pid) for pid in pids] == [True, True]


def test_a_server_serves_it_as_configured_and_stays_responsive(serve: Callable[..., Any], file: Path) -> None:
    source = parse(f"{file}:act")[1]
    served = serve(
        ModelSpec("act", source, placement="process", max_batch_size=8, concurrency=2), f"other={file}:later", timeout=1
    )
    model = served.server.registry.find("act").model
    assert (model.max_batch_size, model.concurrency) == (8, 2)
    (pid,) = served.predict("act", "pid")["predictions"]
    assert served.server.registry.find("act").memory > 2**20
    stuck = threading.Thread(target=served.predict, args=("act", "spin"))
    stuck.start()
    assert served.client.get("/healthz").status_code == 200
    assert served.predict("other", 4) == {"predictions": [5]}
    stuck.join()
    assert has_ended(pid)
    assert served.predict("act", "a", "b") == {"predictions": ["a", "b"]}
    reply = served.client.post("/v1/models/act:predict", json={"instances": ["exit"]})
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "process_ended")
    (pid,) = served.predict("act", "pid")["predictions"]
    assert served.client.post("/v1/models/act/unload").status_code == 200
    assert has_ended(pid)


def test_a_server_that_stops_ends_its_processes(file: Path) -> None:
    source = parse(f"{file}:act")[1]
    with running(ModelSpec("act", source, placement="process"), timeout=60) as served:
        (pid,) = served.predict("act", "pid")["predictions"]
    assert has_ended(pid)


def test_one_that_still_works_when_it_is_to_unload_is_ended(file: Path) -> None:
    async def work() -> int:
        registry = Registry(open_source)
        registry.add(ModelSpec("act", parse(f"{file}:act")[1], placement="process"))
        entry = await registry.load("act")
        assert entry.queue is not None
        pid = (await entry.queue.submit(call("pid"), 1)).columns["result"][0]
        stuck = entry.queue.submit(call("spin"), 1)
        await registry.unload("act", grace=0.1)
        with pytest.raises(Unavailable):
            await stuck
        return pid

    assert has_ended(asyncio.run(work()))
