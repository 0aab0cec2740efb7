"""The server's one key: what is asked for it, and who gets in."""

from __future__ import annotations

import http.client
import logging
from collections.abc import Callable

import pytest

from conftest import KEY, Running
from hansang.access.server_key import ServerKey
from hansang.core.errors import SettingsError, Unauthorized


@pytest.mark.parametrize("key", ["", "short", "x" * 31, "with a space " + "x" * 32, "한" * 40, "line\n" + "x" * 40])
def test_a_weak_or_unsendable_key_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(SettingsError, match="at least 32 printable ASCII characters") as caught:
        ServerKey(key)
    assert not key or key not in f"{caught.value.message}{caught.value.hint}"


def test_without_a_key_everybody_is_anonymous() -> None:
    key = ServerKey(None)
    assert not key.required
    assert key.identify("/metrics", {b"authorization": b"Bearer whatever"}) == "anonymous"


@pytest.mark.parametrize(
    "headers",
    [
        {b"authorization": b"Bearer " + KEY.encode()},
        {b"authorization": b"bearer  " + KEY.encode() + b" "},
        {b"x-api-key": KEY.encode()},
    ],
)
def test_the_key_is_taken_from_either_header(headers: dict[bytes, bytes]) -> None:
    assert ServerKey(KEY).identify("/v1/models", headers) == "server-key"


@pytest.mark.parametrize(
    "headers",
    [
        {b"authorization": b"Bearer " + KEY.encode()[:-1]},
        {b"authorization": b"Bearer " + KEY.encode() + b"x"},
        {b"authorization": KEY.encode()},
        {b"authorization": b"Basic " + KEY.encode()},
        {b"authorization": b""},
        {b"authorization": b"Bearer \xff\xfe"},
        {b"x-api-key": b""},
        {b"x-api-key": KEY.upper().encode()},
        {b"authorization": b"Bearer wrong", b"x-api-key": KEY.encode()},
    ],
)
def test_a_wrong_key_is_refused(headers: dict[bytes, bytes]) -> None:
    with pytest.raises(Unauthorized, match="Incorrect API key") as caught:
        ServerKey(KEY).identify("/v1/models", headers)
    assert caught.value.code == "invalid_api_key"
    assert caught.value.headers == {"WWW-Authenticate": "Bearer"}


def test_over_http_only_the_public_pages_are_open(
    serve: Callable[..., Running], and_gate: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="hansang")
    server = serve(and_gate, key=KEY)
    outside = {"authorization": ""}
    del server.client.headers["authorization"]
    for path in ("/", "/docs", "/redoc", "/healthz", "/readyz"):
        assert server.client.get(path).status_code == 200, path
    for method, path in (
        ("GET", "/metrics"),
        ("GET", "/openapi.json"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/and"),
        ("POST", "/v1/models/and:predict"),
        ("POST", "/v1/chat/completions"),
        ("GET", "/predict/AND/1/1"),
        ("GET", "/nowhere"),
        ("GET", "/docs/"),
    ):
        reply = server.client.request(method, path)
        assert reply.status_code == 401, path
        assert reply.headers["www-authenticate"] == "Bearer"
        assert server.client.request(method, path, headers=outside).status_code == 401, path
    for path in ("//docs", "/docs/../metrics", "/static/../metrics", "/static/%2e%2e/metrics", "/docs%00", "/docs;x"):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)  # sends a path as it is
        connection.request("GET", path)
        reply = connection.getresponse()
        assert b"hansang_" not in reply.read(), path
        assert reply.status in (401, 404), path
        connection.close()
    wrong = server.client.get("/v1/models", headers={"authorization": f"Bearer {KEY}-almost"})
    assert wrong.json()["error"]["code"] == "invalid_api_key"
    assert KEY not in wrong.text
    server.client.headers["authorization"] = f"Bearer {KEY}"
    assert server.predict("and", [1, 1]) == {"predictions": [1]}
    assert KEY not in caplog.text
