"""The documentation pages and their files, as they are served. What a browser makes of them: tests/browser."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest

from conftest import KEY, Running
from hansang.http.docs import REDOC, STATIC, SWAGGER

VENDOR = STATIC / "vendor"


def policy(server: Running, path: str) -> dict[str, list[str]]:
    """The Content-Security-Policy of a page, by directive."""
    header = server.client.get(path).headers["content-security-policy"]
    return {part.split()[0]: part.split()[1:] for part in header.split(";")}


def test_every_vendored_file_is_as_it_was_published() -> None:
    listed = json.loads((VENDOR / "vendor.json").read_text(encoding="utf-8"))
    expected = {
        f"{package['name']}-{package['version']}/{name}": digest
        for package in listed
        for name, digest in package["files"].items()
    }
    found = {
        path.relative_to(VENDOR).as_posix(): sha256(path.read_bytes()).hexdigest()
        for path in VENDOR.rglob("*")
        if path.is_file() and path != VENDOR / "vendor.json"
    }
    assert found == expected


def test_every_vendored_package_has_a_licence_that_we_may_ship() -> None:
    for package in json.loads((VENDOR / "vendor.json").read_text(encoding="utf-8")):
        assert package["licence"] in {"Apache-2.0", "MIT", "BSD-3-Clause"}
        assert "LICENSE" in package["files"]
        assert package["source"].startswith(f"npm: {package['name']}@{package['version']}")


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_a_page_names_only_files_of_this_server_and_all_are_there(serve: Callable[..., Running], path: str) -> None:
    server = serve()
    reply = server.client.get(path)
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    files = re.findall(r'(?:src|href)="([^"]+)"', reply.text)
    assert len(files) >= 4
    for file in files:
        assert file.startswith("static/")  # relative, so that it works under any path
        assert server.client.get(f"/{file}").status_code == 200
    assert "http" not in reply.text.replace("http-equiv", "")
    assert not re.search(r"<script(?![^>]* src=)|<style| on\w+=| style=", reply.text)


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_a_page_may_run_and_ask_nothing_but_this_server(serve: Callable[..., Running], path: str) -> None:
    allowed = policy(serve(), path)
    assert allowed["default-src"] == ["'none'"]
    assert allowed["script-src"] == ["'self'"]
    assert allowed["connect-src"] == ["'self'"]
    assert allowed["frame-ancestors"] == ["'none'"]
    assert allowed["base-uri"] == ["'none'"]
    assert not [
        word for words in allowed.values() for word in words if "unsafe" in word or "*" in word or "http" in word
    ]


def test_redocs_own_styles_have_a_nonce_of_their_own_each_time(serve: Callable[..., Running]) -> None:
    server = serve()
    seen = set()
    for _ in range(3):
        reply = server.client.get("/redoc")
        (nonce,) = re.findall(r'nonce="([^"]+)"', reply.text)
        assert f"'nonce-{nonce}'" in reply.headers["content-security-policy"]
        assert reply.headers["cache-control"] == "no-store"
        seen.add(nonce)
    assert len(seen) == 3


def test_files_of_a_version_are_kept_for_ever_and_ours_asked_for_again(serve: Callable[..., Running]) -> None:
    server = serve()
    for file in (f"{SWAGGER}/swagger-ui.css", f"{REDOC}/redoc.standalone.js"):
        reply = server.client.get(f"/{file}")
        assert reply.headers["cache-control"] == "public, max-age=31536000, immutable"
    for file in ("static/docs/spec.js", "static/vendor/vendor.json", "static/icon.svg"):
        reply = server.client.get(f"/{file}")
        assert reply.headers["cache-control"] == "no-cache"
        again = server.client.get(f"/{file}", headers={"if-none-match": reply.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("docs/spec.js", "text/javascript; charset=utf-8"),
        ("docs/docs.css", "text/css; charset=utf-8"),
        ("icon.svg", "image/svg+xml"),
        ("vendor/vendor.json", "application/json"),
        (f"{REDOC.removeprefix('static/')}/LICENSE", "text/plain; charset=utf-8"),
    ],
)
def test_a_file_has_its_type_whatever_the_machine_thinks(serve: Callable[..., Running], file: str, kind: str) -> None:
    reply = serve().client.get(f"/static/{file}")
    assert reply.headers["content-type"] == kind
    assert reply.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "/static/",
        "/static/vendor",
        "/static/nothing.js",
        "/static/%2e%2e/docs.py",
        "/static/..%2fdocs.py",
        "/static/..%2f..%2f..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/static//etc/passwd",
        "/static/%00",
        "/static/" + "x" * 5000,
    ],
)
def test_nothing_else_of_the_machine_is_served(serve: Callable[..., Running], path: str) -> None:
    reply = serve().client.get(path)
    assert reply.status_code == 404
    assert list(reply.json()) == ["error"]


def test_with_a_key_the_pages_are_public_and_know_that_they_must_ask(serve: Callable[..., Running]) -> None:
    server = serve(key=KEY)
    nobody: dict[str, Any] = {"headers": {"authorization": ""}}
    for path in ("/docs", "/redoc"):
        reply = server.client.get(path, **nobody)
        assert (reply.status_code, 'data-secured="true"' in reply.text) == (200, True)
        assert KEY not in reply.text
    assert server.client.get("/static/docs/spec.js", **nobody).status_code == 200
    assert server.client.get("/openapi.json", **nobody).status_code == 401
    assert 'data-secured="false"' in serve().client.get("/docs").text
