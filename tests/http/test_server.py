"""Our own server on the wire: slow senders, odd heads, requests inside requests, and the way it stops."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from hansang.app import Server
from hansang.http.server import HEAD_LIMIT
from hansang.settings import Settings
from house import House, Lists, Raw, house, wait_for

GET = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def served() -> Iterator[House]:
    with house({"a": Lists(), "slow": Lists(held=True)}) as one:
        yield one


def connections(served: House) -> int:
    assert served.server is not None
    return len(served.server.server_state.connections)


# ---- slow senders ----


@pytest.fixture
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_others_are_served_beside_a_thousand_half_sent_requests_and_each_of_those_is_closed(many_files: None) -> None:
    halves = [
        b"",
        b"G",
        b"GET /healthz HT",
        b"GET /healthz HTTP/1.1\r\nhost: loc",
        b"POST /lists/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n[1",
        b"POST /lists/a HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n5\r\n[1",
        b"\r\n",
        b"POST /healthz HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n[1",
    ]
    with house({"a": Lists()}, header_timeout=1) as served, ExitStack() as stack:
        raws = [stack.enter_context(Raw(served.port)) for _ in range(1000)]
        for n, raw in enumerate(raws):
            raw.send(halves[n % len(halves)])
        with Raw(served.port) as whole:
            for n in range(20):
                assert whole.ask("POST", "/lists/a", body=b"[%d]" % n).json() == [2 * n]
        for raw in raws:
            raw.file.read()
        wait_for(lambda: not connections(served))
        assert served.post("/lists/a", [1]).json() == [2]
        assert served.engine._deadlines._open == {}


def test_a_head_that_drips_is_closed_however_steadily_it_drips() -> None:
    with house({}, header_timeout=0.3) as served, Raw(served.port) as raw:
        closed = threading.Event()

        def drip() -> None:
            try:
                for byte in GET[:-2] + b"x-padding: " + b"x" * 10_000:
                    raw.send(bytes([byte]))
                    if closed.wait(0.01):
                        return
            except OSError:
                pass

        thread = threading.Thread(target=drip)
        thread.start()
        assert raw.at_end()
        closed.set()
        thread.join()


def test_a_body_that_pauses_is_closed_and_one_that_is_only_long_is_not() -> None:
    head = b"POST /lists/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 13\r\n\r\n"
    with house({"a": Lists()}, header_timeout=1) as served:
        with Raw(served.port) as raw:
            raw.send(head)
            for byte in b"[1,2,3,4,5,6]":
                raw.send(bytes([byte]))
                threading.Event().wait(0.1)
            assert raw.read().json() == [2, 4, 6, 8, 10, 12]
        with Raw(served.port) as raw:
            raw.send(head + b"[1")
            assert raw.at_end()
        wait_for(lambda: served.statuses().get(("/lists/{model}", 499)) == 1)


def test_the_second_request_of_a_connection_has_its_time_too() -> None:
    with house({"a": Lists()}, header_timeout=0.3) as served, Raw(served.port) as raw:
        for _ in range(2):
            assert raw.ask("POST", "/lists/a", body=b"[1]").json() == [2]
        raw.send(GET[:20])
        assert raw.at_end()


def test_a_model_that_takes_its_time_is_not_a_slow_sender() -> None:
    model = Lists(held=True)
    with house({"m": model}, header_timeout=0.1) as served, Raw(served.port) as raw:
        raw.send(raw.request("POST", "/lists/m", body=b"[1]"))
        wait_for(lambda: model.batches)
        threading.Event().wait(0.3)
        model.gate.set()
        assert raw.read().json() == [2]


def test_a_body_that_nobody_reads_yet_is_not_a_slow_sender() -> None:
    """The app is behind: that we do not read is no fault of the sender."""
    read_on = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            raise RuntimeError
        while not read_on.is_set():
            await asyncio.sleep(0.001)
        size, more = 0, True
        while more:
            message = await receive()
            size, more = size + len(message.get("body", b"")), message.get("more_body")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"%d" % size})

    with house({}, mounts={"app": app}, header_timeout=0.1) as served, Raw(served.port) as raw:
        body = b"x" * 3_000_000
        sender = threading.Thread(target=raw.send, args=[raw.request("POST", "/apps/app/", body=body)])
        sender.start()
        threading.Event().wait(0.4)
        read_on.set()
        assert raw.read().body == b"3000000"
        sender.join()


# ---- heads ----


def refused(served: House, *parts: bytes) -> bytes:
    """What a connection answers before it is closed, as it must be."""
    with Raw(served.port) as raw:
        try:
            for part in parts:
                raw.send(part)
            return raw.file.read()
        except OSError:
            return b""


@pytest.mark.parametrize(
    "parts",
    [
        [b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-big: " + b"x" * HEAD_LIMIT + b"\r\n\r\n"],
        [b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n" + b"a: b\r\n" * 12_000 + b"\r\n"],
        [b"GET /" + b"x" * HEAD_LIMIT + b" HTTP/1.1\r\nhost: localhost\r\n\r\n"],
        [b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n", *[b"x-part: " + b"x" * 1000 + b"\r\n"] * 2000],
        [b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-endless: ", *[b"x" * 1000] * 2000],
        [b"GET /", *[b"x" * 1000] * 2000],
        [b"\r\n" * 500] * 2000,
    ],
    ids=["one header", "many headers", "target", "headers in parts", "endless header", "endless target", "empty lines"],
)
def test_a_head_over_the_limit_is_refused_and_closed(served: House, parts: list[bytes]) -> None:
    before = served.statuses()
    answer = refused(served, *parts)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")
    assert served.statuses() == before
    assert served.get("/healthz").status == 200


def test_a_head_below_the_limit_is_taken(served: House) -> None:
    with Raw(served.port) as raw:
        assert raw.ask("GET", "/healthz", "x-big: " + "x" * (HEAD_LIMIT - 1000)).status == 200
        head = raw.request("GET", "/healthz", "x-big: " + "x" * (HEAD_LIMIT - 1000))
        for start in range(0, len(head), 7000):
            raw.send(head[start : start + 7000])
        assert raw.read().status == 200


def test_a_large_body_does_not_count_as_the_next_head(served: House) -> None:
    with Raw(served.port) as raw:
        whole = raw.request("POST", "/lists/a", body=b"[" + b" " * 3 * HEAD_LIMIT + b"1]")
        raw.send(whole + GET[:10])
        assert raw.read().json() == [2]
        raw.send(GET[10:])
        assert raw.read().status == 200


@pytest.mark.parametrize(
    "head",
    [
        b"POST /lists/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: abc\r\n\r\n",
        b"POST /lists/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
        b"POST /lists/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1_0\r\n\r\n[1234567]",
        b"POST /lists/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: +3\r\n\r\n[1]",
        b"POST /lists/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3 3\r\n\r\n[1]",
        b"POST /lists/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3, 3\r\n\r\n[1]",
        b"POST /lists/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0x3\r\n\r\n[1]",
        b"POST /lists/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999999999999999\r\n\r\n[1]",
        b"POST /lists/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\n[1]",
        b"POST /lists/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n"
        b"3\r\n[1]\r\n0\r\n\r\n",
        b"POST /lists/a HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n"
        b"0\r\n\r\nGET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"POST /lists/a HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: xchunked\r\n\r\n3\r\n[1]\r\n0\r\n\r\n",
        b"POST /lists/a HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked, identity\r\n\r\n",
        b"POST /lists/a HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding : chunked\r\n\r\n",
        b"POST /lists/a HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n[1]\r\n0\r\n\r\n",
        b"POST /lists/a HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n[1]\r\n0\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n folded: 1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nno colon\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: local\x00host\r\n\r\n",
        b"GET /healthz HTTP/1.1\rhost: localhost\r\r",
        b"GET /a b HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET /healthz HTTP/9.9\r\nhost: localhost\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"BREW /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"CONNECT evil.example:443 HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET \xed\x95\x9c HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET /\xed\x95\x9c HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET http:// HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET http://localhost HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00" * 100,
        b"just some words\r\n\r\n",
    ],
    ids=lambda head: head[:90].decode("latin-1").replace("\r\n", "|"),
)
def test_what_is_not_http_or_could_mean_two_things_is_400_and_the_end(served: House, head: bytes) -> None:
    models = served.registry.find("a").model
    assert isinstance(models, Lists)
    before = len(models.batches)
    answer = refused(served, head)
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert answer.count(b"HTTP/1.1 ") == 1, "the rest was taken for another request"
    assert len(models.batches) == before
    assert served.get("/healthz").status == 200


def test_what_comes_after_the_last_request_is_not_answered(served: House) -> None:
    closing = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    assert refused(served, closing + GET).count(b"HTTP/1.1 ") == 1


# ---- keeping the line ----


def test_pipelined_requests_are_answered_in_order(served: House) -> None:
    with Raw(served.port) as raw:
        requests = [raw.request("POST", "/lists/a", f"x-request-id: {n}", body=b"[%d]" % n) for n in range(50)]
        raw.send(b"".join(requests))
        for n in range(50):
            answer = raw.read()
            assert (answer.headers["x-request-id"], answer.json()) == (str(n), [2 * n])


def test_pipelined_requests_wait_for_the_one_before_them(served: House) -> None:
    model = served.registry.find("slow").model
    assert isinstance(model, Lists)
    with Raw(served.port) as raw:
        raw.send(raw.request("POST", "/lists/slow", "x-request-id: first", body=b"[1]") + GET)
        wait_for(lambda: model.batches)
        model.gate.once()
        assert raw.read().headers["x-request-id"] == "first"
        assert raw.read().json() == {"status": "ok"}


def test_http_1_0_is_answered_and_closed(served: House) -> None:
    for request in (
        b"GET /healthz HTTP/1.0\r\nhost: localhost\r\n\r\n",
        b"POST /lists/a HTTP/1.0\r\nhost: localhost\r\ncontent-length: 3\r\n\r\n[1]",
        b"GET /nowhere HTTP/1.0\r\nhost: localhost\r\nconnection: keep-alive\r\n\r\n",
    ):
        answer = refused(served, request)
        assert answer.startswith(b"HTTP/1.1 ")
        assert b"connection: close" in answer


def test_connection_close_is_obeyed_and_said(served: House) -> None:
    with Raw(served.port) as raw:
        answer = raw.ask("POST", "/lists/a", "connection: close", body=b"[1]")
        assert (answer.json(), answer.headers["connection"]) == ([2], "close")
        assert raw.at_end()


def test_a_caller_who_has_said_all_and_closes_its_side_is_taken_to_have_left(served: House) -> None:
    """uvicorn's way, and the only one to notice that a caller left: a half-closed connection is a closed one."""
    with Raw(served.port) as raw:
        raw.send(raw.request("POST", "/lists/slow", body=b"[1]"))
        wait_for(lambda: served.registry.find("slow").queue.running)  # type: ignore[union-attr]
        raw.socket.shutdown(socket.SHUT_WR)
        assert raw.at_end()
        served.registry.find("slow").model.gate.once()  # type: ignore[attr-defined]


def test_a_large_answer_waits_for_a_slow_reader_and_is_whole(served: House) -> None:
    with Raw(served.port) as raw:
        raw.send(raw.request("POST", "/lists/a", body=json.dumps(["x" * 1000] * 5000).encode()))
        threading.Event().wait(0.1)
        assert raw.read().json() == ["x" * 2000] * 5000
        assert raw.ask("GET", "/healthz").status == 200


def test_an_answer_that_nobody_reads_is_thrown_away() -> None:
    with house({"a": Lists(lambda row: "x" * 1_000_000)}, header_timeout=0.1) as served:
        assert served.server is not None
        served.server.config.timeout_keep_alive = 0
        with Raw(served.port) as raw:
            raw.send(raw.request("POST", "/lists/a", body=json.dumps([1] * 40).encode()))
            wait_for(lambda: served.statuses())
            wait_for(lambda: not connections(served))


# ---- the end ----

PROGRAM = """
import sys, threading, time, json
from hansang.app import Server
from hansang.core.model import Model
from hansang.http.server import uvicorn_server
from hansang.settings import Settings
import socket
sys.path.insert(0, {tests!r})
from house import Lists, House

served = House({{"stuck": Lists(lambda row: time.sleep(600)), "a": Lists()}})
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
runner = uvicorn_server(
    served.app,
    drain_timeout=1,
    on_ready=lambda: print(listener.getsockname()[1], flush=True),
    on_drain=lambda: setattr(served.status, "draining", True),
)
import signal
signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it again at the end
runner.run(sockets=[listener])
print("ended", flush=True)
"""


def start_program(tests: Path) -> tuple[subprocess.Popen[str], int]:
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PROGRAM.format(tests=str(tests))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def test_a_model_that_never_answers_does_not_keep_the_server_from_ending(request: pytest.FixtureRequest) -> None:
    process, port = start_program(request.config.rootpath / "tests")
    with process:
        stuck, half, idle, other = (Raw(port) for _ in range(4))
        stuck.send(stuck.request("POST", "/lists/stuck", body=b"[1]") + GET)
        half.send(GET[:20])
        assert idle.ask("GET", "/readyz").status == 200
        other.send(other.request("POST", "/lists/stuck", body=b"[2]"))
        assert idle.ask("GET", "/metrics").status == 200
        process.send_signal(signal.SIGTERM)
        answer = stuck.read()
        assert (answer.status, answer.error["type"]) == (503, "overloaded")
        assert other.read().status == 503
        output, errors = process.communicate(timeout=20)
        for raw in (stuck, half, idle, other):
            raw.close()
    assert (process.returncode, output) == (0, "ended\n"), errors
    assert "Traceback" not in errors


# ---- in another house ----


def embedded(tmp_path: Path, gate: str) -> FastAPI:
    """A learner's own app, with ours mounted in it. It gets no lifespan."""
    app = FastAPI()
    server = Server([f"gate={gate}"], Settings(home=tmp_path))
    app.mount("/ai", server.app)
    app.state.server = server
    return app


def test_a_server_mounted_in_another_app_starts_at_its_first_request(tmp_path: Path, and_gate: str) -> None:
    import uvicorn

    app = embedded(tmp_path, and_gate)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    runner = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none"))
    thread = threading.Thread(target=runner.run, kwargs={"sockets": [listener]}, daemon=True)
    port = listener.getsockname()[1]
    thread.start()
    wait_for(lambda: runner.started)
    try:
        first = [Raw(port) for _ in range(5)]
        for raw in first:
            raw.send(raw.request("POST", "/ai/v1/models/gate:predict", body=b'{"instances": [[1, 1]]}'))
        for raw in first:
            assert raw.read().json() == {"predictions": [1]}
            raw.close()
        with Raw(port) as raw:
            assert raw.ask("GET", "/ai/healthz").status == 200
            assert raw.ask("GET", "/ai/nowhere").code == "unknown_url"
            assert raw.ask("GET", "/healthz").status == 404
            assert raw.ask("GET", "/ai/healthz", host="evil.example").status == 403
            assert "/ai/v1/models/gate:predict" in raw.ask("GET", "/ai/v1/models/gate:predict").error["hint"]
    finally:
        runner.should_exit = True
        thread.join()
        asyncio.run(app.state.server.stop())
