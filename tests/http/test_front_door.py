"""Everything that may happen between a socket and a model, on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from hansang.core.errors import HansangError, InvalidInput
from hansang.core.model import CallContext
from hansang.core.wire import JSON, Reply, Request, Route, StreamReply
from hansang.http.front_door import _HOT
from hansang.scheduling.batcher import QueueLimits
from house import KINDS, STREAMS, WAITING, Counting, House, Lists, Raw, house, wait_for

waiting_kinds = pytest.mark.parametrize("kind", WAITING)
every_stream = pytest.mark.parametrize("kind", list(STREAMS))
servers = pytest.mark.parametrize("plain", [False, True], ids=["ours", "plain uvicorn"])


async def fail(request: Request) -> Reply:
    raise RuntimeError("secret detail")


async def blob(request: Request, kind: str) -> Reply:
    kinds = {"injected": b"text/plain\r\nset-cookie: a=b", "plain": b"text/plain", "odd": b"\xff\x00"}
    return Reply(b"body", content_type=kinds[kind])


async def quiet(request: Request) -> StreamReply:
    async def nothing() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b""

    return StreamReply(nothing(), lambda error: b"")


async def echo(request: Request) -> Reply:
    return Reply(
        json.dumps({"path": request.path, "query": request.query.decode(), "size": len(request.body)}).encode()
    )


async def broken_stream(request: Request) -> StreamReply:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"one"
        raise RuntimeError("secret detail")

    return StreamReply(pieces(), lambda error: b"")


ROUTES = [
    Route("POST", "/fail", fail),
    Route("GET", "/blob/{kind}", blob),
    Route("GET", "/quiet", quiet),
    Route("POST", "/echo", echo),
    Route("PUT", "/echo", echo),
    Route("GET", "/broken", broken_stream),
]


async def mounted(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI app: says what it sees, raises at /boom, has a WebSocket."""
    if scope["type"] == "lifespan":
        raise RuntimeError("no lifespan")
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close"})
        return
    if scope["path"].endswith("/boom"):
        raise RuntimeError("secret detail")
    size = 0
    while True:
        message = await receive()
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    body = json.dumps({"root_path": scope["root_path"], "path": scope["path"], "size": size}).encode()
    await send({"type": "http.response.start", "status": 418, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module", params=[False, True], ids=["ours", "plain uvicorn"])
def open_house(request: pytest.FixtureRequest) -> Iterator[House]:
    models = {
        "a": Lists(),
        "slow": Lists(held=True),
        "bad": Lists(lambda row: 1 // 0),
        "picky": Lists(lambda row: InvalidInput("not that", hint="this", param="row")),
        "s": Counting(),
    }
    with house(
        models,
        plain=request.param,
        routes=ROUTES,
        mounts={"site": mounted},
        origins=["https://app.example"],
        hosts=["names.example"],
        body_limit=100_000,
    ) as served:
        yield served


# ---- request ids ----


@pytest.mark.parametrize("given", ["a", "A-z_0.9:x", "x" * 128])
@pytest.mark.parametrize("path", ["/lists/a", "/lists/nobody", "/nowhere", "/apps/site/x", "/stream/s"])
def test_a_request_id_is_taken(open_house: House, given: str, path: str) -> None:
    assert open_house.post(path, [1], f"x-request-id: {given}").headers["x-request-id"] == given


@pytest.mark.parametrize(
    "given", ["", "x" * 129, "a b", "한글".encode().decode("latin-1"), "a\tb", 'a"b', "a,b", "<x>"]
)
def test_an_id_that_could_do_harm_in_a_log_is_replaced(open_house: House, given: str) -> None:
    first, second = (open_house.post("/lists/a", [1], f"x-request-id: {given}").headers for _ in range(2))
    assert first["x-request-id"].startswith("req_")
    assert first["x-request-id"] != second["x-request-id"]


def test_the_id_is_in_the_error_of_a_failing_model(open_house: House) -> None:
    answer = open_house.post("/lists/bad", [1], "x-request-id: mine-7")
    assert answer.status == 500
    assert "mine-7" in answer.error["message"]


# ---- errors ----


def test_an_error_of_a_handler_is_told_in_full(open_house: House) -> None:
    answer = open_house.post("/lists/picky", [1])
    assert answer.status == 400
    assert answer.error == {
        "message": "not that",
        "type": "invalid_request_error",
        "param": "row",
        "code": "invalid_input",
        "hint": "this",
    }


def test_an_exception_of_ours_is_a_500_without_its_text(open_house: House, caplog: pytest.LogCaptureFixture) -> None:
    answer = open_house.post("/fail", [])
    assert (answer.status, answer.code) == (500, "internal_error")
    assert b"secret" not in answer.body
    assert "secret detail" in caplog.text


def test_an_unknown_path_names_near_ones_and_a_wrong_method_the_right_command(open_house: House) -> None:
    assert open_house.get("/helthz").error["hint"] == "Did you mean /healthz?"
    answer = open_house.get("/lists/a")
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert "curl -X POST http://localhost/lists/a" in answer.error["hint"]
    answer = open_house.get("/echo", method="DELETE")
    assert answer.headers["allow"] == "POST, PUT"
    assert open_house.get("/healthz", method="POST").status == 405


def test_a_head_of_an_error_has_no_body_and_the_connection_goes_on(open_house: House) -> None:
    with Raw(open_house.port) as raw:
        for path, status in (("/lists/a", 405), ("/nowhere", 404), ("/apps/site/x", 418)):
            assert raw.ask("HEAD", path).status == status
        assert raw.ask("GET", "/healthz").status == 200


@pytest.mark.parametrize(
    "path", ["/lists/bad", "/lists/nobody", "/lists/picky", "/fail", "/nowhere", "/apps/site/boom"]
)
def test_a_connection_goes_on_after_an_error(open_house: House, path: str) -> None:
    with Raw(open_house.port) as raw:
        for _ in range(2):
            assert raw.ask("POST", path, body=b"[1]").status >= 400
        assert raw.ask("POST", "/lists/a", body=b"[4]").json() == [8]


def test_an_exception_in_a_mounted_app_is_told_as_ours_are(open_house: House) -> None:
    answer = open_house.post("/apps/site/boom", [])
    assert (answer.status, answer.code) == (500, "internal_error")


def test_a_stream_that_breaks_for_a_reason_of_ours_is_cut_not_ended(open_house: House) -> None:
    with Raw(open_house.port) as raw:
        raw.send(raw.request("GET", "/broken"))
        assert raw.read_head()[0] == 200
        assert b"0\r\n\r\n" not in raw.file.read()


# ---- answers ----


def test_a_content_type_cannot_bring_headers_of_its_own(open_house: House) -> None:
    assert open_house.get("/blob/plain").headers["content-type"] == "text/plain"
    for kind in ("injected", "odd"):
        answer = open_house.get(f"/blob/{kind}")
        assert "set-cookie" not in answer.headers
        assert (answer.status, answer.code) == (500, "model_failed")


def test_a_stream_of_nothing_is_an_empty_answer(open_house: House) -> None:
    answer = open_house.get("/quiet")
    assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/echo", "/echo", ""),
        ("/%65cho", "/echo", ""),
        ("/echo?a=%20b&a=2", "/echo", "a=%20b&a=2"),
        ("/echo?", "/echo", ""),
        ("http://localhost/echo?x", "/echo", "x"),
        ("http://elsewhere.example/echo", "/echo", ""),
    ],
)
def test_targets_are_understood_as_they_should(open_house: House, target: str, path: str, query: str) -> None:
    if open_house.plain and target.startswith("http"):
        pytest.skip("uvicorn takes an absolute target for a path when it uses h11")
    with Raw(open_house.port) as raw:
        assert raw.ask("POST", target, body=b"").json() == {"path": path, "query": query, "size": 0}


@pytest.mark.parametrize(
    "target", ["//echo", "/./echo", "/x/../echo", "/echo/", "/ECHO", "/echo%2f", "/echo%00", "/echo%0a", "/%2e/echo"]
)
def test_other_spellings_are_other_paths(open_house: House, target: str) -> None:
    with Raw(open_house.port) as raw:
        assert raw.ask("POST", target, body=b"").status == 404


@pytest.mark.parametrize(
    "target", ["/lists/%ED%95%9C%EA%B8%80", "/lists/%ff%fe", "/lists/%", "/lists/%zz", "/lists/" + "x" * 20_000]
)
def test_odd_model_names_are_404(open_house: House, target: str) -> None:
    with Raw(open_house.port) as raw:
        answer = raw.ask("POST", target, body=b"[1]")
        assert (answer.status, answer.code) == (404, "model_not_found")


# ---- bodies ----


def chunked(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (*parts, b""))


CHUNKED = b"POST /lists/a HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"


def test_a_chunked_body_is_put_together(open_house: House) -> None:
    with Raw(open_house.port) as raw:
        for parts in ([b"[1,2]"], [b"[", b"1", b",", b"2]"]):
            raw.send(CHUNKED + chunked(*parts))
            assert raw.read().json() == [2, 4]


def test_a_body_that_comes_byte_by_byte_is_put_together(open_house: House) -> None:
    with Raw(open_house.port) as raw:
        for byte in raw.request("POST", "/lists/a", body=b"[1, 2]"):
            raw.send(bytes([byte]))
        assert raw.read().json() == [2, 4]


def test_a_body_just_at_the_limit_is_taken(open_house: House) -> None:
    for path, status in (("/echo", 200),):
        with Raw(open_house.port) as raw:
            assert raw.ask("POST", path, body=b" " * 100_000).status == status
            raw.send(b"POST /echo HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n")
            raw.send(chunked(b" " * 60_000, b" " * 40_000))
            assert raw.read().json()["size"] == 100_000


@pytest.mark.parametrize("path", ["/echo", "/healthz", "/nowhere"])
def test_a_body_announced_as_too_large_is_refused_before_it_comes(open_house: House, path: str) -> None:
    with Raw(open_house.port) as raw:
        raw.send(f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100001\r\n\r\n".encode())
        answer = raw.read()
        assert (answer.status, answer.code, answer.headers["connection"]) == (413, "body_too_large", "close")
        assert raw.at_end()


def test_a_chunked_body_that_becomes_too_large_is_refused(open_house: House) -> None:
    with Raw(open_house.port) as raw:
        raw.send(CHUNKED + b"%x\r\n" % 200_000 + b" " * 100_001)
        answer = raw.read()
        assert (answer.status, answer.code, answer.headers["connection"]) == (413, "body_too_large", "close")
        assert raw.at_end()


def test_whoever_sends_a_body_that_is_too_large_still_reads_the_answer(open_house: House) -> None:
    """Closing while the caller sends would reset the connection, and the answer with it."""
    with Raw(open_house.port) as raw:
        body = b" " * 30_000_000
        sent = threading.Event()

        def send() -> None:
            with contextlib.suppress(OSError):
                raw.send(raw.request("POST", "/echo", body=body))
            sent.set()

        threading.Thread(target=send, daemon=True).start()
        assert raw.read().status == 413
        assert raw.at_end()
        wait_for(sent.is_set)


def test_a_mounted_app_reads_bodies_of_any_size_itself(open_house: House) -> None:
    assert open_house.post("/apps/site/x", ["x" * 200_000]).json()["size"] > 200_000


def test_expect_100_continue_is_told_to_go_on_only_when_the_body_is_wanted(open_house: House) -> None:
    with Raw(open_house.port) as raw:
        raw.send(b"POST /lists/a HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n")
        assert raw.read_head()[0] == 100
        raw.send(b"[2]")
        assert raw.read().json() == [4]
        raw.send(b"POST /lists/a HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 300000\r\n\r\n")
        assert raw.read().status == 413


def test_a_body_that_does_not_come_meets_the_deadline(open_house: House) -> None:
    with Raw(open_house.port) as raw:
        raw.send(b"POST /lists/a HTTP/1.1\r\nhost: localhost\r\nx-hansang-timeout: 0.05\r\ncontent-length: 3\r\n\r\n[1")
        answer = raw.read()
        assert (answer.status, answer.code) == (504, "deadline_exceeded")
        assert "did not arrive" in answer.error["message"]


def test_a_caller_who_leaves_before_its_body_is_whole_is_forgotten(open_house: House) -> None:
    before = open_house.statuses().get(("/lists/{model}", 499), 0)
    with Raw(open_house.port) as raw:
        raw.send(b"POST /lists/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\n\r\n[1")
    wait_for(lambda: open_house.statuses().get(("/lists/{model}", 499), 0) == before + 1)


# ---- deadlines ----


def test_a_deadline_is_told_while_the_model_still_sleeps_and_others_are_served(open_house: House) -> None:
    answer = open_house.post("/lists/slow", [1], "x-hansang-timeout: 0.05")
    assert (answer.status, answer.code) == (504, "deadline_exceeded")
    assert open_house.post("/lists/a", [1]).status == 200
    assert open_house.post("/lists/slow", [1], "x-hansang-timeout: 0.05").status == 504
    slow = open_house.registry.find("slow").model
    assert isinstance(slow, Lists)
    assert slow.ended == 0
    slow.gate.set()
    assert open_house.post("/lists/slow", [1], "x-hansang-timeout: 5").json() == [2]


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "-inf", "1e999", "abc", "", "1 2", "0x10", "1,5", "\xff"])
def test_a_timeout_that_is_no_number_of_seconds_is_400(open_house: House, value: str) -> None:
    answer = open_house.post("/lists/a", [1], f"x-hansang-timeout: {value}")
    assert (answer.status, answer.code) == (400, "invalid_timeout")


@pytest.mark.parametrize("value", ["1e-9", "0.0000001"])
def test_a_timeout_that_has_passed_is_504(open_house: House, value: str) -> None:
    assert open_house.post("/lists/a", [1], f"x-hansang-timeout: {value}").status == 504
    assert open_house.post("/stream/s", [1], f"x-hansang-timeout: {value}").status == 504


def test_a_timeout_only_lowers() -> None:
    with house({"slow": Lists(held=True)}, timeout=0.05) as served:
        for header in ([], ["x-hansang-timeout: 100"], ["x-hansang-timeout: 1e300"]):
            assert served.post("/lists/slow", [1], *header).status == 504


# ---- queue ----


@servers
def test_a_full_queue_is_503_with_retry_after(plain: bool) -> None:
    model = Lists(held=True)
    with house({"m": model}, limits=QueueLimits(calls=1), plain=plain) as served:
        waiting = [Raw(served.port) for _ in range(2)]
        for n, raw in enumerate(waiting):
            raw.send(raw.request("POST", "/lists/m", body=b"[1]"))
            wait_for(lambda n=n: len(model.batches) == 1 and queue(served).depth == n)  # type: ignore[misc]
        answer = served.post("/lists/m", [1])
        assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "queue_full", "1")
        model.gate.set()
        for raw in waiting:
            assert raw.read().json() == [2]
            raw.close()
        assert served.outcomes("m") == {"ok": 2, "queue_full": 1}


def queue(served: House, name: str = "m") -> Any:
    return served.registry.find(name).queue


# ---- leaving ----


@servers
@waiting_kinds
def test_the_queued_work_of_a_caller_who_leaves_never_starts(kind: str, plain: bool) -> None:
    model = KINDS[kind](held=True)
    with house({"m": model}, plain=plain) as served:
        first, second = Raw(served.port), Raw(served.port)
        first.send(first.request("POST", "/lists/m", body=b"[1]"))
        wait_for(lambda: model.batches)
        second.send(second.request("POST", "/lists/m", body=b"[2]"))
        wait_for(lambda: queue(served).depth == 1)
        second.close()
        wait_for(lambda: queue(served).depth == 0)
        model.gate.set()
        assert first.read().json() == [2]
        first.close()
        assert served.post("/lists/m", [3]).json() == [6]
        assert model.batches == [[[1]], [[3]]]
        assert served.outcomes("m") == {"ok": 2, "cancelled": 1}
        wait_for(lambda: served.statuses() == {("/lists/{model}", 200): 2, ("/lists/{model}", 499): 1})


@servers
@every_stream
def test_a_caller_who_leaves_in_the_middle_of_a_stream_stops_the_model(kind: str, plain: bool) -> None:
    model = STREAMS[kind](held=kind != "inline")
    with house({"m": model}, plain=plain) as served:
        with Raw(served.port) as raw:
            raw.send(raw.request("POST", "/stream/m", body=json.dumps(list(range(200_000))).encode()))
            model.gate.once()
            assert raw.read_head()[0] == 200
            assert next(raw.chunks()) == b"data: 0\n\n"
        wait_for(lambda: served.statuses().get(("/stream/{model}", 499)))
        model.gate.set()
        wait_for(model.stopped.is_set)
        assert len(model.steps) < 200_000
        assert served.post("/stream/m", [1]).body == b"data: 2\n\n"
        assert served.outcomes("m") == {"ok": 1, "cancelled": 1}


@servers
@waiting_kinds
def test_a_caller_who_leaves_before_the_first_delta_stops_the_model(kind: str, plain: bool) -> None:
    model = STREAMS[kind](held=True)
    with house({"m": model}, plain=plain) as served:
        with Raw(served.port) as raw:
            raw.send(raw.request("POST", "/stream/m", body=b"[1, 2, 3]"))
            wait_for(lambda: queue(served).running)
        wait_for(lambda: served.statuses().get(("/stream/{model}", 499)))
        model.gate.set()
        wait_for(lambda: not queue(served).running)
        assert len(model.steps) <= 1


@servers
def test_a_thousand_callers_who_leave_leave_nothing_behind(plain: bool) -> None:
    """Some leave while they wait, some while the model works, some in the middle of a stream or of their body."""
    models = {"m": KINDS["async"](held=True, concurrency=2), "t": Lists(), "s": STREAMS["async"](held=True)}
    with house(models, plain=plain) as served:
        contexts = living_contexts()
        before = served.on_loop(lambda: len(asyncio.all_tasks()))
        requests = [
            ("POST", "/lists/m", b"[1]"),
            ("POST", "/stream/s", b"[1, 2]"),
            ("POST", "/lists/t", b"[1, 2, 3]"),
            ("GET", "/healthz", None),
        ]
        for n in range(40):
            raws = [Raw(served.port) for _ in range(25)]
            for m, raw in enumerate(raws):
                method, path, body = requests[(n + m) % len(requests)]
                head = raw.request(method, path, body=body)
                raw.send(head[: len(head) - m % 2])
            for raw in raws:
                raw.close()
        assert served.server is not None
        state = served.server.server_state
        wait_for(lambda: not state.connections and not state.tasks)
        wait_for(lambda: served.on_loop(lambda: len(asyncio.all_tasks())) == before)
        for name in models:
            wait_for(lambda name=name: not queue(served, name).running)  # type: ignore[misc]
            assert (queue(served, name).depth, queue(served, name)._rows, queue(served, name)._bytes) == (0, 0, 0)
        assert served.engine._deadlines._open == {}
        wait_for(lambda: living_contexts() <= contexts)
        for model in models.values():
            model.gate.set()  # type: ignore[attr-defined]
        assert served.post("/lists/m", [1]).json() == [2]
        assert served.post("/stream/s", [1]).body == b"data: 2\n\n"


def living_contexts() -> int:
    gc.collect()
    return sum(type(thing) is CallContext for thing in gc.get_objects())


# ---- streams ----


@servers
@every_stream
def test_an_error_before_the_first_delta_has_its_status_and_one_after_it_is_an_event(kind: str, plain: bool) -> None:
    def work(row: Any) -> Any:
        if row == "refuse":
            raise InvalidInput("no")
        if row == "fail":
            raise ValueError("secret detail")
        return row

    with house({"m": STREAMS[kind](work)}, plain=plain) as served:
        answer = served.post("/stream/m", ["refuse"])
        assert (answer.status, answer.code) == (400, "invalid_input")
        answer = served.post("/stream/m", ["fail"])
        assert (answer.status, answer.code) == (500, "model_failed")
        answer = served.post("/stream/m", [1, "refuse"])
        assert (answer.status, answer.body) == (200, b"data: 1\n\nerror: invalid_input\n\n")
        answer = served.post("/stream/m", [1, "fail"])
        assert (answer.status, answer.body) == (200, b"data: 1\n\nerror: model_failed\n\n")
        assert served.post("/stream/m", [1, 2]).body == b"data: 1\n\ndata: 2\n\n"
        assert served.outcomes("m") == {"error": 4, "ok": 1}


@servers
@waiting_kinds
def test_a_deadline_in_the_middle_of_a_stream_ends_it_with_an_event(kind: str, plain: bool) -> None:
    model = STREAMS[kind](held=True)
    with house({"m": model}, plain=plain) as served:
        model.gate.once()
        answer = served.post("/stream/m", [1, 2], "x-hansang-timeout: 0.2")
        assert (answer.status, answer.body) == (200, b"data: 2\n\nerror: deadline_exceeded\n\n")
        answer = served.post("/stream/m", [1, 2], "x-hansang-timeout: 0.05")
        assert (answer.status, answer.code) == (504, "deadline_exceeded")
        model.gate.set()
        wait_for(lambda: not queue(served).running)
        assert served.post("/stream/m", [1]).body == b"data: 2\n\n"
        assert served.outcomes("m") == {"deadline": 2, "ok": 1}
        wait_for(lambda: served.statuses() == {("/stream/{model}", 504): 2, ("/stream/{model}", 200): 1})


@servers
def test_a_stream_that_never_waits_still_meets_its_deadline_and_lets_others_in(plain: bool) -> None:
    def endless() -> Iterator[int]:
        while True:
            yield 1

    class Endless(Counting):
        def stream(self, call: Any) -> Any:
            return endless()

    with house({"m": Endless(placement="inline"), "a": Lists()}, plain=plain) as served:
        with Raw(served.port) as raw:
            raw.send(raw.request("POST", "/stream/m", "x-hansang-timeout: 0.5", body=b"[1]"))
            assert raw.read_head()[0] == 200
            assert served.post("/lists/a", [1]).json() == [2]
            *_, last = raw.chunks()
        assert last.endswith(b"error: deadline_exceeded\n\n")


@servers
@every_stream
def test_a_reader_that_does_not_read_holds_back_the_model_and_lets_it_go_at_the_deadline(
    kind: str, plain: bool
) -> None:
    big = "x" * 10_000

    def work(row: Any) -> Any:
        return big

    model = STREAMS[kind](work)
    with house({"m": model}, plain=plain) as served:
        with Raw(served.port) as raw:
            raw.send(raw.request("POST", "/stream/m", "x-hansang-timeout: 0.5", body=json.dumps([0] * 5000).encode()))
            wait_for(model.stopped.is_set)
            assert len(model.steps) < 4000, "all of it was made for nobody"
            wait_for(lambda: not queue(served).running)
            assert served.server is not None
            wait_for(lambda: not served.server.server_state.tasks)  # type: ignore[union-attr]
            if not plain:
                wait_for(lambda: not served.server.server_state.connections)  # type: ignore[union-attr]
        assert served.outcomes("m") == {"deadline": 1}
        assert served.statuses() == {("/stream/{model}", 504): 1}


def test_pipelined_streams_come_one_after_the_other(open_house: House) -> None:
    with Raw(open_house.port) as raw:
        raw.send(raw.request("POST", "/stream/s", body=b"[1, 2]") + raw.request("POST", "/lists/a", body=b"[5]"))
        assert raw.read().body == b"data: 2\n\ndata: 4\n\n"
        assert raw.read().json() == [10]


def test_a_caller_who_leaves_is_told_to_the_request_that_is_answered_not_to_one_before_it() -> None:
    """The second of two pipelined requests: what the first one leaves behind must not hide that the caller left."""
    release = threading.Event()

    async def tidy(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})
        while not release.is_set():
            await asyncio.sleep(0.001)

    model = Lists(held=True)
    with house({"m": model}, mounts={"site": tidy}) as served:
        with Raw(served.port) as raw:
            raw.send(raw.request("GET", "/apps/site/x") + raw.request("POST", "/lists/m", body=b"[1]"))
            assert raw.read().status == 200
            wait_for(lambda: model.batches)
            release.set()
            wait_for(lambda: served.statuses().get(("/apps/site/", 200)))
        wait_for(lambda: served.statuses().get(("/lists/{model}", 499)))


# ---- mounted apps ----


def test_a_mounted_app_sees_its_root_path(open_house: House) -> None:
    assert open_house.post("/apps/site/deep/er", []).json() == {
        "root_path": "/apps/site",
        "path": "/apps/site/deep/er",
        "size": 2,
    }
    answer = open_house.get("/apps/site")
    assert (answer.status, answer.headers["location"]) == (307, "/apps/site/")
    assert open_house.get("/apps/sitemap").status == 404
    assert open_house.get("/apps/").status == 404


def test_a_redirect_to_a_mounted_app_keeps_the_query(open_house: House) -> None:
    assert open_house.get("/apps/site?a=1&b=%20").headers["location"] == "/apps/site/?a=1&b=%20"


def test_a_hansang_server_inside_a_mounted_app_is_counted_by_both() -> None:
    inner = House({"a": Lists()})

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        async def read() -> Any:
            return await receive()

        await inner.app(scope, read, send)

    with house({}, mounts={"inner": wrapped}) as served:
        assert served.post("/apps/inner/lists/a", [1]).json() == [2]
        assert served.statuses() == {("/apps/inner/", 200): 1}
        assert inner.statuses() == {("/lists/{model}", 200): 1}


def test_a_websocket_reaches_only_mounted_apps(open_house: House) -> None:
    def upgrade(path: str, *headers: str) -> int:
        with Raw(open_house.port) as raw:
            return (
                raw.ask(
                    "GET",
                    path,
                    "connection: upgrade",
                    "upgrade: websocket",
                    "sec-websocket-version: 13",
                    "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
                    *headers,
                ).status
                if "apps/site" not in path or headers
                else _accepted(raw, path)
            )

    def _accepted(raw: Raw, path: str) -> int:
        raw.send(
            raw.request(
                "GET",
                path,
                "connection: upgrade",
                "upgrade: websocket",
                "sec-websocket-version: 13",
                "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
            )
        )
        return raw.read_head()[0]

    assert upgrade("/apps/site/ws") == 101
    assert upgrade("/lists/a") == 403
    assert upgrade("/healthz") == 403
    assert upgrade("/apps/other/ws") == 403
    assert upgrade("/apps/site/ws", "origin: https://evil.example") == 403


# ---- the route cache ----


def test_paths_of_callers_cannot_fill_the_memory_nor_spoil_the_cache() -> None:
    with house({"a": Lists()}) as served:
        with Raw(served.port) as raw:
            for n in range(_HOT + 50):
                raw.send(raw.request("POST", f"/lists/x{n}", body=b"[1]"))
                if n % 100 == 99:
                    for _ in range(100):
                        assert raw.read().status == 404
        assert len(served.door._hot) <= _HOT
        served.post("/lists/" + "y" * 30_000, [1])
        assert max(len(path) for _, path in served.door._hot) < 1000
        assert served.post("/lists/a", [1]).json() == [2]
        assert ("POST", "/lists/a") in served.door._hot


# ---- pages of others ----

LISTED = "origin: https://app.example"


def test_a_listed_page_may_ask_beforehand(open_house: House) -> None:
    answer = open_house.get("/lists/a", LISTED, "access-control-request-method: POST", method="OPTIONS")
    assert answer.status == 204
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert "authorization" in answer.headers["access-control-allow-headers"]
    answer = open_house.get("/lists/a", "origin: https://evil.example", method="OPTIONS")
    assert answer.status == 403
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/lists/a", 200),
        ("/stream/s", 200),
        ("/lists/nobody", 404),
        ("/lists/picky", 400),
        ("/lists/bad", 500),
        ("/fail", 500),
        ("/nowhere", 404),
        ("/healthz", 405),
        ("/blob/plain", 405),
        ("/apps/site/x", 418),
        ("/apps/site/boom", 500),
    ],
)
def test_a_listed_page_can_read_every_answer_and_every_error(open_house: House, path: str, status: int) -> None:
    answer = open_house.post(path, [1], LISTED)
    assert answer.status == status
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert "origin" in answer.headers["vary"].lower()


def test_a_page_that_is_not_listed_is_told_nothing_it_could_read(open_house: House) -> None:
    answer = open_house.post("/lists/a", [1], "origin: https://evil.example")
    assert (answer.status, answer.code) == (403, "foreign_origin")
    assert not [name for name in answer.headers if name.startswith("access-control")]


# ---- the trace ----


@servers
def test_every_request_leaves_exactly_one_trace_however_it_ends(plain: bool) -> None:
    models = {"a": Lists(), "bad": Lists(lambda row: 1 // 0), "slow": Lists(held=True), "s": Counting(held=True)}
    with house(
        models, routes=ROUTES, mounts={"site": mounted}, plain=plain, body_limit=1000, origins=["https://app.example"]
    ) as served:
        asked = 0

        def counted() -> int:
            return sum(served.statuses().values())

        for path, headers in [
            ("/lists/a", []),
            ("/lists/bad", []),
            ("/lists/nobody", []),
            ("/nowhere", []),
            ("/healthz", []),
            ("/fail", []),
            ("/apps/site/x", []),
            ("/apps/site/boom", []),
            ("/apps/site", []),
            ("/lists/slow", ["x-hansang-timeout: 0.02"]),
            ("/stream/s", ["x-hansang-timeout: 0.02"]),
            ("/lists/a", ["x-hansang-timeout: no"]),
            ("/lists/a", ["origin: https://evil.example"]),
            ("/lists/a", [LISTED]),
        ]:
            served.post(path, [1], *headers)
            asked += 1
            wait_for(lambda: counted() >= asked)  # noqa: B023
            assert counted() == asked, path
        for method, path in [("GET", "/healthz"), ("HEAD", "/healthz"), ("OPTIONS", "/lists/a"), ("GET", "/broken")]:
            with Raw(served.port) as raw:
                raw.send(raw.request(method, path))
                raw.read_head()
                asked += 1
                wait_for(lambda: counted() == asked)  # noqa: B023
        served.post("/echo", "x" * 2000)
        asked += 1
        wait_for(lambda: counted() >= asked)
        with Raw(served.port) as raw:
            raw.send(raw.request("POST", "/lists/slow", body=b"[1]"))
            wait_for(lambda: queue(served, "slow").depth or queue(served, "slow").running)
        asked += 1
        wait_for(lambda: counted() == asked)
        statuses = served.statuses()
        assert statuses["/lists/{model}", 499] == 1
        assert statuses["/apps/site/", 418] == 1
        assert statuses["/apps/site/", 500] == 1
        assert statuses["/healthz", 200] == 2
        assert statuses["/lists/{model}", 504] == 1
        assert statuses["/stream/{model}", 504] == 1
        assert statuses["/echo", 413] == 1


def test_a_task_that_is_cancelled_by_the_server_leaves_its_trace_and_frees_the_model() -> None:
    """What uvicorn does with requests that are still running when its patience ends."""
    models = {"m": Lists(held=True), "s": STREAMS["async"](held=True)}
    with house(models) as served, Raw(served.port) as whole, Raw(served.port) as pieces:
        models["s"].gate.once()  # type: ignore[attr-defined]
        whole.send(whole.request("POST", "/lists/m", body=b"[1]"))
        pieces.send(pieces.request("POST", "/stream/s", body=b"[1, 2]"))
        pieces.read_head()
        wait_for(lambda: queue(served).running)
        assert served.server is not None
        tasks = served.server.server_state.tasks
        served.on_loop(lambda: [task.cancel() for task in list(tasks)] and None)
        wait_for(lambda: not tasks)
        assert sum(served.statuses().values()) == 2
        assert served.outcomes("m") == served.outcomes("s") == {"cancelled": 1}
        wait_for(lambda: not queue(served, "s").running)


@servers
def test_a_caller_who_leaves_makes_no_noise_in_the_log(plain: bool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), house({"m": Lists(held=True), "s": STREAMS["async"](held=True)}) as served:
        for path, name in (("/lists/m", "m"), ("/stream/s", "s")):
            with Raw(served.port) as raw:
                raw.send(raw.request("POST", path, body=b"[1]"))
                wait_for(lambda: queue(served, name).running)  # noqa: B023
            wait_for(lambda: not served.server.server_state.tasks)  # type: ignore[union-attr]
        served.registry.find("s").model.gate.once()  # type: ignore[attr-defined]
        with Raw(served.port) as raw:
            raw.send(raw.request("POST", "/stream/s", body=b"[1, 2]"))
            raw.read_head()
        wait_for(lambda: not served.server.server_state.tasks)  # type: ignore[union-attr]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING], caplog.text


def test_json_is_known_by_identity() -> None:
    """The short way out is taken for our own JSON; an equal media type of others is sent like any other."""
    assert Reply(b"{}").content_type is JSON
    assert issubclass(InvalidInput, HansangError)
