"""`hansang serve`, as a person at a terminal meets it."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from pathlib import Path

import pytest

from conftest import KEY
from hansang.cli.listen import lan_address
from terminal import started, typed

SLOW = """
import threading

def slow(name: str) -> str:
    open(f"{name}.begun", "w").close()
    gate = threading.Event()
    import os
    while not os.path.exists(f"{name}.go"):
        gate.wait(0.01)
    return "done"
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_says_where_it_is_what_it_serves_and_whether_it_wants_a_key(here: Path, and_gate: str) -> None:
    with started("serve", and_gate, "--port", "0", cwd=here) as server:
        url = server.until_ready()
        said = "\n".join(server.lines)
        assert f"try it    {url}/docs" in said
        assert "models    and" in said
        assert "key       not required: only this machine can ask" in said
        with server.client() as client:
            reply = client.post("/v1/models/and:predict", json={"instances": [[1, 1]]})
            assert reply.json() == {"predictions": [1]}
        assert server.stop() == 0


def test_ctrl_c_is_a_good_end(here: Path) -> None:
    with started("serve", "--no-demo", "--port", "0", cwd=here) as server:
        server.until_ready()
        assert server.stop(signal.SIGINT) == 0
    assert "Traceback" not in "\n".join(server.lines)


def test_beyond_loopback_it_says_the_address_in_the_network_and_answers_to_it(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANSANG_API_KEY", KEY)
    with started("serve", "--no-demo", "--port", "0", "--host", "0.0.0.0", cwd=here) as server:
        url = server.until_ready()
        said = "\n".join(server.lines)
        assert "key       required" in said
        assert KEY not in said
        port = url.rpartition(":")[2]
        with server.client() as client:
            assert client.get("/healthz", headers={"host": f"evil.example:{port}"}).status_code == 403
            if lan := lan_address():
                assert f"network   http://{lan}:{port}" in said
                assert client.get("/healthz", headers={"host": f"{lan}:{port}"}).status_code == 200
            assert client.get("/metrics").status_code == 401
            assert client.get("/metrics", headers={"authorization": f"Bearer {KEY}"}).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_beyond_loopback_without_a_key_is_refused_with_both_ways_on(host: str) -> None:
    answer = typed("serve", "--no-demo", "--host", host)
    assert answer.status == 2
    assert answer.err.startswith(f"error: Listening on {host} would let everybody who reaches this machine use")
    assert "export HANSANG_API_KEY=" in answer.err
    assert "--host 127.0.0.1" in answer.err


def test_a_port_in_use_names_the_process_and_the_command_for_the_next_free_one(and_gate: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        answer = typed("serve", and_gate, "--port", str(port), "--log-format", "json")
    assert answer.status == 2
    message, hint = answer.err.splitlines()
    assert message.startswith(f"error: Port {port} is in use by process {os.getpid()} (")
    command = f"hint: The next free one: hansang serve {and_gate} --log-format json --port "
    assert hint.startswith(command)
    assert int(hint.removeprefix(command)) > port


def test_a_host_that_is_not_ours_is_refused() -> None:
    answer = typed("serve", "--no-demo", "--host", "no-such-host.invalid")
    assert answer.status == 2
    assert "error: 'no-such-host.invalid' is no address of this machine" in answer.err


def test_what_cannot_be_loaded_is_told_once_without_a_traceback(here: Path) -> None:
    (here / "broken.json").write_text('{"weights": [1]')
    for model, message in (
        ("broken.json", "error: broken.json is not a saved perceptron: it is not JSON"),
        ("missing.json", "error: There is no file missing.json."),
    ):
        with started("serve", model, "--port", "0", cwd=here) as server:
            server.until("^error: ")
            server.until("^hint: ")
            assert server.process.wait(30) == 1
            assert server.lines[0].startswith(message)
            assert len(server.lines) == 2


def test_two_models_of_one_name_are_an_error_that_shows_how_to_name_one(and_gate: str) -> None:
    answer = typed("serve", and_gate, and_gate, "--port", "0")
    assert answer.status == 1
    assert "error: Two models are named 'and'." in answer.err
    assert f"hint: Give one another name: and-2={and_gate}" in answer.err


def test_a_wrong_flag_or_setting_is_told_with_the_nearest() -> None:
    wrong = typed("serve", "--prot", "1")
    assert wrong.status == 2
    assert "'--port'" in wrong.err
    assert "inherited" not in wrong.err
    wrong = typed("serve", "--log-format", "jsn")
    assert wrong.status == 2
    assert "error: --log-format = 'jsn': input should be 'text' or 'json'.\nhint: Did you mean json?" in wrong.err


def test_sigterm_lets_requests_in_flight_finish_and_readyz_says_so_first(here: Path) -> None:
    (here / "work.py").write_text(SLOW)
    with started("serve", "work.py:slow", "--port", "0", "--drain-delay", "20", cwd=here) as server:
        server.until_ready()
        answers = []

        def ask() -> None:
            with server.client() as client:
                answers.append(client.post("/v1/models/slow:predict", json={"instances": ["a"]}))

        caller = threading.Thread(target=ask)
        caller.start()
        while not (here / "a.begun").exists():
            pass
        server.process.terminate()
        with server.client() as client:
            while client.get("/readyz").status_code == 200:
                pass
            told = client.get("/readyz")
            assert (told.status_code, told.json()["status"]) == (503, "draining")
            assert client.get("/healthz").status_code == 200
        server.process.terminate()  # the second does not wait for the delay
        (here / "a.go").touch()
        caller.join(30)
        assert [(answer.status_code, answer.json()) for answer in answers] == [(200, {"predictions": ["done"]})]
        assert server.process.wait(30) == 0


def test_sigterm_alone_finishes_what_is_in_flight(here: Path) -> None:
    (here / "work.py").write_text(SLOW)
    with started("serve", "work.py:slow", "--port", "0", cwd=here) as server:
        server.until_ready()
        answers = []

        def ask() -> None:
            with server.client() as client:
                answers.append(client.post("/v1/models/slow:predict", json={"instances": ["a"]}).json())

        caller = threading.Thread(target=ask)
        caller.start()
        while not (here / "a.begun").exists():
            pass
        server.process.terminate()
        (here / "a.go").touch()
        caller.join(30)
        assert server.process.wait(30) == 0
    assert answers == [{"predictions": ["done"]}]


def test_a_signal_while_a_model_loads_is_obeyed_after_that_and_a_second_at_once(here: Path) -> None:
    code = """
import time
import hansang
from hansang.tasks.tabular import TABULAR

class Late(hansang.Model):
    task = TABULAR

    def load(self, context):
        print("loading", flush=True)
        time.sleep(600)

hansang.serve(Late(), port=0)
"""
    with started(cwd=here, program=("-c", code)) as server:
        server.until("^loading")
        server.process.terminate()
        server.until("WARNING hansang.http: models are loading: the server stops after that")
        server.process.terminate()
        assert server.process.wait(30) == 128 + signal.SIGTERM


def test_nothing_heavy_is_imported_before_it_is_used(here: Path) -> None:
    """Start-up time and memory of a server with no model: what `numpy` and the like would cost, they do not."""
    heavy = {"numpy", "onnxruntime", "aiohttp", "PIL", "prometheus_client", "sklearn", "torch"}
    code = """
import atexit, sys
from hansang.cli import main
atexit.register(lambda: print("modules", *sorted({name.partition(".")[0] for name in sys.modules})))
sys.exit(main(sys.argv[1:]))
"""
    with started("serve", "--no-demo", "--port", "0", cwd=here, program=("-c", code)) as server:
        server.until_ready()
        with server.client() as client:
            assert client.get("/readyz").status_code == 200
            assert client.get("/v1/models/none").status_code == 404
        assert server.stop() == 0
        loaded = set(server.until("^modules ").split())
    assert "fastapi" in loaded
    assert sorted(loaded & heavy) == []


def test_log_lines_for_programs_carry_the_address_and_request_ids(here: Path, and_gate: str) -> None:
    with started("serve", and_gate, "--port", "0", "--log-format", "json", "--access-log", cwd=here) as server:
        ready = json.loads(server.until('"ready"'))
        assert ready["models"] == ["and"]
        assert ready["key_required"] is False
        server.url = ready["url"]
        with server.client() as client:
            client.get("/healthz?secret=1", headers={"x-request-id": "mine-1"})
            client.get("/two%0Alines")
        line = json.loads(server.until("healthz"))
        assert line["level"] == "info"
        assert line["logger"] == "hansang.requests"
        assert line["request_id"] == "mine-1"
        assert line["message"].startswith("GET /healthz 200 in ")
        assert json.loads(server.until("lines"))["message"].startswith(r"GET /two\x0alines 404 in ")


def test_there_is_no_access_log_unless_asked_for(here: Path) -> None:
    with started("serve", "--no-demo", "--port", "0", cwd=here) as server:
        server.until_ready()
        with server.client() as client:
            client.get("/healthz")
        server.stop()
    assert "healthz" not in "\n".join(server.lines)


def test_models_of_the_configuration_are_served_and_then_no_demo(here: Path, and_gate: str) -> None:
    (here / "hansang.toml").write_text(f'port = 0\n[models.gate]\nsource = "{and_gate}"\n')
    with started("serve", cwd=here) as server:
        server.until_ready()
    assert "  models    gate" in server.lines


def test_without_a_model_it_serves_the_demo_table(here: Path) -> None:
    with started("serve", "--port", "0", cwd=here) as server:
        server.until_ready()
        (models,) = [line for line in server.lines if line.startswith("  models")]
        assert {"xor", "iris"} <= set(models.removeprefix("  models").replace(",", " ").split())


def test_a_sample_teaches_an_untyped_model_its_types(here: Path) -> None:
    (here / "loose.py").write_text("def add(a, b):\n    return a + b\n")
    with started("serve", "loose.py:add", "--sample", "[1, 2]", "--port", "0", cwd=here) as server:
        server.until_ready()
        with server.client() as client:
            reply = client.post("/v1/models/add:predict", json={"instances": [["one", 2]]})
            assert reply.status_code == 400
    answer = typed("serve", "loose.py:add", "b=loose.py:add", "--sample", "[1, 2]")
    assert answer.status == 2
    assert "hint: Write --sample NAME=JSON, with one of: add, b" in answer.err


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_serve_from_python_does_the_same(here: Path, and_gate: str) -> None:
    code = f"import hansang; hansang.serve({and_gate!r}, port=0)"
    with started(cwd=here, program=("-c", code)) as server:
        server.until_ready()
        with server.client() as client:
            assert client.post("/v1/models/and:predict", json={"instances": [[1, 1]]}).json() == {"predictions": [1]}
        assert server.stop() == 0
