"""Hosts and origins that are ours, and all the others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hansang.core.errors import BadRequest, Forbidden
from hansang.http.guard import Guard, refuse_repeated
from house import House, Lists, Raw, house

UPGRADE = [
    "connection: upgrade",
    "upgrade: websocket",
    "sec-websocket-version: 13",
    "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
]


def host_is_ours(guard: Guard, host: str) -> bool:
    try:
        guard.check({b"host": host.encode("latin-1")})
    except Forbidden as refused:
        return refused.code != "unknown_host"
    return True


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:8000", "LocalHost:1", "127.0.0.1", "127.0.0.1:65535", "[::1]", "[::1]:8000"],
)
def test_this_machine_is_ours(host: str) -> None:
    assert host_is_ours(Guard(), host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        ":8000",
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "evil.example#localhost",
        "localhost@evil.example",
        "evil.example/localhost",
        "localhost evil.example",
        "localhost,evil.example",
        "localhost:80:80",
        "localhost:x",
        "localhost:-1",
        "127.0.0.1.evil.example",
        "127.1",
        "0x7f000001",
        "2130706433",
        "0.0.0.0",
        "0",
        "[::]",
        "[::1",
        "::1]",
        "[::1]x",
        "[::1]:8000:1",
        "[::ffff:127.0.0.1]",
        "[0:0:0:0:0:0:0:1]",
        "*",
        "\xff",
    ],
)
def test_anything_else_is_not_though_it_may_lead_here(host: str) -> None:
    assert not host_is_ours(Guard(), host)


@pytest.mark.parametrize(
    ("allowed", "host"),
    [
        ("names.example", "names.example:8000"),
        ("Names.Example", "names.example"),
        ("names.example:8000", "names.example:9000"),
        ("192.168.0.7", "192.168.0.7:8000"),
        ("fe80::1", "[fe80::1]:8000"),
        ("[fe80::1]", "[FE80::1]"),
        (" names.example ", "names.example"),
        ("*", "anything.example"),
        ("*", ""),
    ],
)
def test_what_is_allowed_is_ours_too_in_every_way_of_writing(allowed: str, host: str) -> None:
    assert host_is_ours(Guard([allowed]), host)
    assert host_is_ours(Guard([allowed]), "localhost")


def test_a_name_is_no_pattern() -> None:
    guard = Guard(["names.example", ".example"])
    for host in ("sub.names.example", "namesxexample", "x.example", "example"):
        assert not host_is_ours(guard, host)


def origin_is_ours(guard: Guard, origin: str, host: str = "localhost:8000") -> bool:
    try:
        guard.check({b"host": host.encode(), b"origin": origin.encode("latin-1")})
    except Forbidden as refused:
        return refused.code != "foreign_origin"
    return True


@pytest.mark.parametrize(
    ("origin", "ours"),
    [
        ("http://localhost:8000", True),
        ("https://localhost:8000", True),
        ("https://app.example", True),
        ("http://localhost", False),
        ("http://localhost:9000", False),
        ("http://127.0.0.1:8000", False),
        ("null", False),
        ("", False),
        ("*", False),
        ("localhost:8000", False),
        ("http://evil.example", False),
        ("http://app.example", False),
        ("https://app.example:8443", False),
        ("https://app.example.evil.example", False),
        ("https://app.example@evil.example", False),
        ("https://evil.example/https://app.example", False),
        ("file://", False),
        ("chrome-extension://abc", False),
        ("\xff", False),
    ],
)
def test_pages_of_ours_and_of_others(origin: str, ours: bool) -> None:
    assert origin_is_ours(Guard(origins=["https://App.example/"]), origin) is ours


def test_null_is_allowed_by_nobody_but_who_lists_it() -> None:
    assert not origin_is_ours(Guard(["*"]), "null")
    assert origin_is_ours(Guard(origins=["null"]), "null")


def test_only_a_listed_page_gets_the_headers_to_read_an_answer() -> None:
    guard = Guard(origins=["https://app.example"])
    names = {name for name, _ in guard.cors_headers({b"origin": b"https://app.example"})}
    assert names == {b"access-control-allow-origin", b"access-control-expose-headers", b"vary"}
    for origin in (b"http://localhost", b"https://evil.example", b"null"):
        assert guard.cors_headers({b"origin": origin}) == []
    assert guard.cors_headers({}) == []


def test_hosts_of_callers_are_not_remembered_without_end() -> None:
    guard = Guard(["*"])
    for n in range(1000):
        guard.check({b"host": b"h%d.example" % n})
    assert len(guard._seen) < 100


@pytest.mark.parametrize("name", ["host", "origin", "authorization", "x-api-key", "x-hansang-timeout"])
def test_a_header_that_says_who_asks_or_what_may_not_come_twice(name: str) -> None:
    with pytest.raises(BadRequest, match=name):
        refuse_repeated([(name.encode(), b"localhost"), (b"accept", b"*"), (name.encode(), b"localhost")])
    refuse_repeated([(b"accept", b"a"), (b"accept", b"b"), (name.encode(), b"c")])


# ---- on the wire ----


@pytest.fixture(scope="module", params=[False, True], ids=["ours", "plain uvicorn"])
def served(request: pytest.FixtureRequest) -> Iterator[House]:
    async def site(scope: object, receive: object, send: object) -> None:
        raise AssertionError("nobody comes this far")

    with house({"a": Lists()}, mounts={"site": site}, plain=request.param) as one:
        yield one


PATHS = ["/lists/a", "/healthz", "/", "/docs", "/metrics", "/nowhere", "/apps/site/x", "/apps/site"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE"])
def test_dns_rebinding_finds_no_door(served: House, method: str, path: str) -> None:
    with Raw(served.port) as raw:
        for host in ("evil.example", f"evil.example:{served.port}"):
            assert raw.ask(method, path, host=host).status == 403


@pytest.mark.parametrize("path", PATHS)
def test_a_request_without_a_host_is_refused(served: House, path: str) -> None:
    with Raw(served.port) as raw:
        assert raw.ask("GET", path, host=None).status in (400, 403)


def test_a_second_host_or_origin_is_refused_wherever_it_stands(served: House) -> None:
    for headers in (
        ["host: evil.example"],
        ["origin: https://evil.example", f"origin: http://localhost:{served.port}"],
    ):
        with Raw(served.port) as raw:
            assert raw.ask("POST", "/lists/a", *headers, body=b"[1]").status == 400


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1", "file://"])
@pytest.mark.parametrize("path", PATHS)
def test_a_foreign_page_can_send_nothing_simple_posts_included(served: House, path: str, origin: str) -> None:
    with Raw(served.port) as raw:
        for method, content_type in [
            ("POST", "text/plain"),
            ("POST", "application/x-www-form-urlencoded"),
            ("GET", "a/b"),
        ]:
            headers = [f"origin: {origin}", f"content-type: {content_type}"]
            assert raw.ask(method, path, *headers, body=b"[1]").status == 403
    model = served.registry.find("a").model
    assert isinstance(model, Lists)
    assert [[1]] not in model.batches


@pytest.mark.parametrize(
    "headers",
    [
        ["host: evil.example"],
        ["host: localhost", "origin: https://evil.example"],
        ["host: localhost", "origin: null"],
        ["host: localhost", "host: localhost"],
    ],
)
def test_a_foreign_page_opens_no_websocket(served: House, headers: list[str]) -> None:
    with Raw(served.port) as raw:
        answer = raw.ask("GET", "/apps/site/ws", *headers, *UPGRADE, host=None)
        assert answer.status in (400, 403)


def test_the_page_of_the_server_itself_may_do_everything(served: House) -> None:
    with Raw(served.port) as raw:
        host = f"localhost:{served.port}"
        assert raw.ask("POST", "/lists/a", f"origin: http://{host}", body=b"[]", host=host).json() == []
        assert raw.ask("POST", "/lists/a", "origin: http://[::1]:9", body=b"[]", host="[::1]:9").json() == []
