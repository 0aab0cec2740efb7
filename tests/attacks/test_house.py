"""Attacks on the house as a whole, each with the refusal it must meet. Attacks on files are beside this."""

from __future__ import annotations

import hmac
import itertools
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conftest import Running, running
from hansang import logs
from hansang.access import server_key
from hansang.access.server_key import PUBLIC, ServerKey
from hansang.core.errors import InvalidInput, Unauthorized
from hansang.core.model import Call, Model
from hansang.tasks.tabular import TABULAR, Table
from house import PATIENCE, Raw, wait_for

KEY = "canary-7f3a-0123456789-abcdef-9876543210"
UPGRADE = [
    "connection: upgrade",
    "upgrade: websocket",
    "sec-websocket-version: 13",
    "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
]
SITE = """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute

def home(request):
    return PlainTextResponse("home")

def boom(request):
    raise RuntimeError("boom")

async def talk(socket):
    await socket.accept()
    await socket.close()

app = Starlette(routes=[Route("/", home), Route("/docs", home), Route("/boom", boom), WebSocketRoute("/ws", talk)])
"""


def raises(a: float) -> float:
    raise RuntimeError(f"it is about {a}")


def refuses(a: float) -> float:
    raise InvalidInput(f"not {a}")


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with a key, one of everything on its table."""
    folder = tmp_path_factory.mktemp("locked")
    gate = folder / "and.json"
    gate.write_text('{"weights": [0.5, 0.5], "bias": -0.75}', encoding="utf-8")
    site = folder / "site.py"
    site.write_text(SITE, encoding="utf-8")
    models = [f"gate={gate}", raises, refuses, "echo:", f"{site}:app"]
    with running(*models, key=KEY, home=folder, timeout=5, cors_origins=["https://app.example"]) as served:
        yield served


def walk(served: Running) -> Iterator[tuple[str, str]]:
    """Every method and path that the server knows, its documented ones and those that are not."""
    door: Any = served.server.app._door
    for route in door._routes:
        yield route.method, route.template
    control: Any = door._control
    for route in control.routes:
        methods = getattr(route, "methods", None)
        for method in methods or {"GET"}:
            yield method, route.path if methods else f"{route.path}/logo.svg"
    for name in served.server.registry.mounts:
        yield "GET", f"/apps/{name}"
        yield "GET", f"/apps/{name}/"
        yield "GET", f"/apps/{name}/docs"
    document = served.client.get("/openapi.json").json()
    for path, operations in document["paths"].items():
        for method in operations:
            yield method.upper(), path


def filled(template: str) -> str:
    return "".join(
        "1" if inside else part
        for part, inside in zip(template.replace("}", "{").split("{"), itertools.cycle([False, True]), strict=False)
    )


def is_public(path: str) -> bool:
    return path in PUBLIC or path.startswith("/static/")


def test_every_route_but_the_public_ones_asks_for_the_key(locked: Running) -> None:
    routes = {(method, filled(template)) for method, template in walk(locked)}
    assert len(routes) > 15
    with Raw(locked.port) as raw:
        for known, path in sorted(routes):
            for method in {known, "GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"}:
                answer = raw.ask(method, path, "content-type: application/json", body=b"{}")
                if is_public(path):
                    assert answer.status != 401, (method, path)
                else:
                    assert answer.status == 401, (method, path)
                    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "path",
    [
        "//docs",
        "/docs/",
        "/docs/..",
        "/docs/../v1/models",
        "/docs/..%2fv1/models",
        "/docs/%2e%2e/v1/models",
        "/docs%2f..%2fv1%2fmodels",
        "/docs;/v1/models",
        "/docs%00",
        "/docs%0a",
        "/docs%23",
        "/DOCS",
        "/./docs",
        "/%2e/docs",
        "/static",
        "/Static/x",
        "//static/x",
        "/v1/models/",
        "//v1/models",
        "/v1//models",
        "/v1/models%2f",
        "/V1/models",
        "/v1/models/gate:predict/",
        "/v1/models/gate%3apredict",
        "/metrics/",
        "/openapi.json/",
        "/openapi.json?x=/docs",
        "/readyz/../metrics",
        "/apps/app/docs",
        "/apps//docs",
        "/apps/site/../../docs",
        "http://localhost/v1/models",
        "http://localhost/docs/../metrics",
    ],
)
def test_no_spelling_of_a_path_gets_past_the_key(locked: Running, path: str) -> None:
    with Raw(locked.port) as raw:
        for method in ("GET", "POST", "HEAD", "OPTIONS"):
            answer = raw.ask(method, path, body=b"{}")
            assert answer.status == 401, (method, path, answer)


@pytest.mark.parametrize(
    "path",
    [
        "/static/../v1/models",
        "/static/%2e%2e/v1/models",
        "/static/..%2f..%2f..%2f..%2fetc/passwd",
        "/static/%2e%2e/%2e%2e/front_door.py",
        "/static//etc/passwd",
        "/static/%00",
        "/static/",
        "/static/../apps/site/",
    ],
)
def test_the_public_folder_leads_nowhere_else(locked: Running, path: str) -> None:
    with Raw(locked.port) as raw:
        for method in ("GET", "POST"):
            answer = raw.ask(method, path, body=b"{}")
            assert answer.status in (401, 404, 405), answer
            assert b"root:" not in answer.body


WRONG = [
    "authorization: Bearer",
    "authorization: Bearer ",
    f"authorization: {KEY}",
    f"authorization: Basic {KEY}",
    f"authorization: Bearer {KEY}x",
    f"authorization: Bearer {KEY[:-1]}",
    f"authorization: Bearer {KEY.upper()}",
    f"authorization: Bearer {KEY}, Bearer {KEY}",
    f"authorization: Bearer {KEY}\xff",
    f"authorization: Bearer x{KEY}",
    f"authorization: Bearer Bearer {KEY}",
    "authorization: \xff\xfe",
    "x-api-key: ",
    f"x-api-key: Bearer {KEY}",
    f"x-api-key: {KEY}x",
    f"api-key: {KEY}",
    f"cookie: key={KEY}",
]


@pytest.mark.parametrize("header", WRONG)
def test_what_only_looks_like_the_key_is_not_the_key(locked: Running, header: str) -> None:
    with Raw(locked.port) as raw:
        for path in ("/v1/models", "/metrics"):
            answer = raw.ask("GET", path, header)
            assert answer.status == 401
            assert KEY.lower() not in str(answer).lower()


@pytest.mark.parametrize(
    "headers",
    [
        [f"authorization: Bearer {KEY}"],
        [f"authorization: bearer {KEY}"],
        [f"authorization: BEARER  {KEY} "],
        [f"x-api-key: {KEY}"],
        [f"X-API-Key: {KEY}"],
    ],
)
def test_the_key_opens(locked: Running, headers: list[str]) -> None:
    with Raw(locked.port) as raw:
        assert raw.ask("GET", "/v1/models", *headers).status == 200


def test_a_key_in_the_query_opens_nothing(locked: Running) -> None:
    with Raw(locked.port) as raw:
        for name in ("key", "api_key", "access_token", "authorization"):
            assert raw.ask("GET", f"/v1/models?{name}={KEY}").status == 401


def test_two_authorizations_are_refused_whichever_is_right(locked: Running) -> None:
    right, wrong = f"authorization: Bearer {KEY}", "authorization: Bearer wrong"
    with Raw(locked.port) as raw:
        for headers in ([right, wrong], [wrong, right], [right, right], [f"x-api-key: {KEY}", "x-api-key: wrong"]):
            assert raw.ask("GET", "/v1/models", *headers).status == 400


def test_a_websocket_asks_for_the_key_too(locked: Running) -> None:
    with Raw(locked.port) as raw:
        assert raw.ask("GET", "/apps/site/ws", *UPGRADE).status == 403
    with Raw(locked.port) as raw:
        assert raw.ask("GET", "/apps/site/ws", *UPGRADE, "authorization: Bearer wrong").status == 403
    with Raw(locked.port) as raw:
        raw.send(raw.request("GET", "/apps/site/ws", *UPGRADE, f"authorization: Bearer {KEY}"))
        assert raw.read_head()[0] == 101


def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every comparison of what was given with the key goes through hmac.compare_digest."""
    compared: list[bytes] = []

    def compare(given: bytes, right: bytes) -> bool:
        compared.append(given)
        return hmac.compare_digest(given, right)

    monkeypatch.setattr(server_key, "hmac", SimpleNamespace(compare_digest=compare))
    key = ServerKey(KEY)
    for headers in (
        {b"authorization": b"Bearer " + KEY.encode()},
        {b"authorization": b"bearer " + KEY.encode()},
        {b"x-api-key": KEY.encode()},
    ):
        compared.clear()
        assert key.identify("/v1/models", headers) == "server-key"
        assert KEY.encode() in compared[-1]
    for wrong in ({b"authorization": b"Bearer x"}, {b"x-api-key": b"x"}):
        compared.clear()
        with pytest.raises(Unauthorized):
            key.identify("/v1/models", wrong)
        assert compared


def test_the_key_is_in_no_repr() -> None:
    key = ServerKey(KEY)
    assert KEY not in repr(key)
    assert KEY not in str(vars(key).keys())


# ---- the canary ----


@pytest.fixture
def everything_logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What `--log-level debug` would write, and more: every logger at its lowest."""
    levels = {name: logging.getLogger(name).level for name in ("hansang", "uvicorn", "uvicorn.error", "asyncio")}
    with caplog.at_level(1):
        for name in levels:
            logging.getLogger(name).setLevel(1)
        yield caplog
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def errors_of_every_kind(served: Running) -> Iterator[tuple[str, str, list[str], bytes]]:
    """(method, path, headers, body) of requests that go wrong in every way that there is."""
    predict = "/v1/models/{}:predict"
    good = b'{"instances": [[1, 1]]}'
    yield "POST", predict.format("gate"), [], good
    yield "POST", predict.format("raises"), [], b'{"instances": [1]}'
    yield "POST", predict.format("refuses"), [], b'{"instances": [1]}'
    yield "POST", predict.format("nobody"), [], good
    yield "POST", predict.format("gate"), [], b"{"
    yield "POST", predict.format("gate"), [], b'{"instances": [["a", null]]}'
    yield "POST", predict.format("gate"), ["x-hansang-timeout: no"], good
    yield "POST", predict.format("gate"), ["x-hansang-timeout: 1e-9"], good
    yield "POST", predict.format("gate"), ["origin: https://evil.example"], good
    yield "POST", predict.format("gate"), ["origin: https://app.example"], good
    yield "POST", "/v1/chat/completions", [], b'{"model": "echo", "messages": [{"role": "user", "content": "hi"}]}'
    yield "POST", "/v1/chat/completions", [], b'{"model": "gate", "messages": []}'
    yield "POST", "/v1/chat/completions", [], b"[]"
    yield "GET", predict.format("gate"), [], b""
    yield "GET", "/nowhere", [], b""
    yield "GET", "/v1/models/nobody", [], b""
    yield "GET", "/v1/models", [], b""
    yield "GET", "/openapi.json", [], b""
    yield "GET", "/apps/site/", [], b""
    yield "GET", "/apps/site/boom", [], b""
    yield "GET", "/predict/AND/1/x", [], b""
    yield "PUT", "/healthz", [], b""
    yield "GET", "/", [], b""


def test_the_key_is_in_no_log_no_error_and_no_metric(
    locked: Running, everything_logged: pytest.LogCaptureFixture
) -> None:
    told: list[str] = []
    with Raw(locked.port) as raw:
        for method, path, headers, body in errors_of_every_kind(locked):
            keys = (f"authorization: Bearer {KEY}", f"x-api-key: {KEY}", f"authorization: Bearer {KEY}-nearly")
            told += [str(raw.ask(method, path, key, *headers, body=body)) for key in keys]
    for broken in (
        f"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {KEY}\r\nbroken\r\n\r\n",
        f"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {KEY}\r\ncontent-length: x\r\n\r\n",
        f"POST /v1/models/gate:predict HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {KEY}\r\n"
        "content-length: 99\r\n\r\n{",
        f"GET /v1/models HTTP/1.1\r\nhost: evil.example\r\nauthorization: Bearer {KEY}\r\n\r\n",
    ):
        with Raw(locked.port) as raw:
            raw.send(broken.encode())
            if "99" not in broken:
                told.append(str(raw.read()))
    for path in ("/apps/site/ws", "/apps/nobody/ws", "/v1/models"):
        with Raw(locked.port) as raw:
            raw.send(raw.request("GET", path, *UPGRADE, f"authorization: Bearer {KEY}"))
            told.append(str(raw.read_head()))
    told.append(locked.client.get("/metrics").text)
    assert any("AssertionError" not in text and "500" in text for text in told)
    assert "it is about 1" in everything_logged.text, "the log is not what this test takes it for"
    for text in (*told, everything_logged.text):
        assert KEY not in text


def test_nor_in_what_the_log_says_to_people_or_programs(locked: Running) -> None:
    for formatter in (logs.TextFormatter(), logs.JSONFormatter()):
        record = logging.LogRecord("hansang", logging.INFO, "", 0, "%s", (locked.server.key,), None)
        assert KEY not in formatter.format(record)


# ---- many callers with many names ----


def series(served: Running) -> int:
    return sum(not line.startswith("#") for line in served.client.get("/metrics").text.splitlines())


def test_callers_cannot_make_metrics_grow(serve: Callable[..., Running], and_gate: str, tmp_path: Path) -> None:
    site = tmp_path / "site.py"
    site.write_text(SITE, encoding="utf-8")
    served = serve(f"gate={and_gate}", f"{site}:app", home=tmp_path)

    def round_(n: int) -> None:
        with Raw(served.port) as raw:
            for method in ("GET", "POST", "HEAD", "DELETE", "PROPFIND"):
                for path in (
                    f"/{n}",
                    f"/v1/models/m{n}:predict",
                    f"/v1/models/m{n}",
                    f"/v1/models/gate@{n}:predict",
                    f"/items/{n}",
                    f"/predict/g{n}/1/1",
                    f"/predict/gate/{n}/1",
                    f"/apps/site/{n}",
                    f"/apps/n{n}/",
                    f"/static/{n}",
                    f"/healthz?{n}",
                    f"/v1/jobs/{n}",
                ):
                    raw.ask(method, path, f"x-request-id: r{n}", body=b'{"instances": [[1, 1]]}')
            raw.ask("POST", "/v1/chat/completions", body=json.dumps({"model": f"m{n}", "messages": []}).encode())
            raw.ask("GET", "/", f"origin: http://o{n}.example")
            raw.ask("GET", "/", host=f"h{n}.example")

    round_(1)
    assert series(served)
    known = series(served)
    for n in range(2, 12):
        round_(n)
    assert series(served) == known


def test_a_flood_of_wrong_keys_leaves_one_line_in_the_metrics(locked: Running) -> None:
    before = series(locked)
    with Raw(locked.port) as raw:
        for n in range(200):
            assert raw.ask("GET", f"/v1/models/{n}", f"authorization: Bearer {n}").status == 401
    assert series(locked) <= before + 20


# ---- deep and wide ----


@pytest.mark.parametrize("depth", [100, 900, 1020, 5000, 200_000])
def test_deep_json_ends_as_an_answer_and_the_model_lives_on(locked: Running, depth: int) -> None:
    deep = b"[" * depth + b"]" * depth
    for body in (b'{"instances": ' + deep + b"}", b'{"instances": [' + deep + b"]}", deep, b'{"a":' * depth):
        reply = locked.client.post("/v1/models/gate:predict", content=body)
        assert reply.status_code == 400, reply.text
    assert locked.predict("gate", [1, 1]) == {"predictions": [1]}


def test_deep_json_to_an_untyped_batching_model_does_not_stop_it(tmp_path: Path) -> None:
    """Each waits while the model works, and is then compared with the others by its shape."""

    class Untyped(Model):
        name = "untyped"
        task = TABULAR
        max_batch_size = 8

        def predict(self, calls: list[Call]) -> list[Table]:
            time.sleep(0.05)
            return [Table({"": [1] * call.request.rows}, call.request.rows) for call in calls]

    with running(Untyped(), home=tmp_path, timeout=PATIENCE) as served:
        statuses: list[int] = []

        def ask(depth: int) -> None:
            body = b'{"instances": [' + b"[" * depth + b"]" * depth + b"]}"
            with Raw(served.port) as raw:
                statuses.append(raw.ask("POST", "/v1/models/untyped:predict", body=body).status)

        threads = [threading.Thread(target=ask, args=[depth]) for depth in (1, 990, 995, 1000, 1010, 2, 980, 970)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(statuses) <= {200, 400}
        assert served.predict("untyped", 1) == {"predictions": [1]}
        queue = served.server.registry.ready("untyped").queue
        assert queue is not None
        wait_for(lambda: (queue.depth, queue.running) == (0, 0))
