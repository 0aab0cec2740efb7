"""/docs and /redoc in a real browser: they show every operation, predict, complain of nothing, ask nobody else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from socket import socket
from threading import Event, Thread
from typing import TYPE_CHECKING

import pytest
from fastapi import FastAPI
from playwright.sync_api import expect

from conftest import KEY, Running
from hansang.app import Server
from hansang.http.server import uvicorn_server
from hansang.settings import Settings
from tables import Rows, same

if TYPE_CHECKING:
    from chromium import Watched

pytest_plugins = ["chromium"]

PREDICT = "#operations-models-predict_and"
BODY = '{"instances": [[1, 1], [0, 1]]}'


def predict(watched: Watched) -> str:
    """Try it out: the text that Swagger UI shows as the answer."""
    page = watched.page
    operation = page.locator(PREDICT)
    operation.locator(".opblock-summary-control").click()
    operation.locator("textarea.body-param__text").fill(BODY)
    operation.get_by_role("button", name="Execute").click()
    answer = operation.locator(".live-responses-table .response-col_description pre").first
    expect(answer).to_contain_text("{")
    return answer.inner_text()


def give_key(watched: Watched, key: str) -> None:
    watched.page.fill("#key", key)
    watched.page.get_by_role("button", name="Open").click()


def test_docs_shows_every_operation_and_predicts(
    serve: Callable[..., Running], and_gate: str, watched: Watched
) -> None:
    server = serve(and_gate, "echo:")
    watched.page.goto(f"{server.url}/docs")
    document = server.client.get("/openapi.json").json()
    for path in document["paths"]:
        expect(watched.page.locator(f'.opblock-summary-path[data-path="{path}"]').first).to_be_visible()
    assert "predictions" in predict(watched)
    assert watched.complaints == []
    assert watched.hosts() == {f"127.0.0.1:{server.port}"}


def test_redoc_shows_every_operation(serve: Callable[..., Running], and_gate: str, watched: Watched) -> None:
    server = serve(and_gate, "echo:")
    watched.page.goto(f"{server.url}/redoc")
    for title in ("Predict with and", "Chat", "One model", "A gate of two inputs"):
        expect(watched.page.get_by_role("heading", name=title)).to_be_visible()
    watched.page.get_by_placeholder("Search...").fill("predict")
    expect(watched.page.get_by_role("search").get_by_role("menuitem").first).to_be_visible()
    assert watched.complaints == []
    assert watched.hosts() == {f"127.0.0.1:{server.port}"}


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_a_page_asks_for_the_key_and_keeps_it_for_this_tab_alone(
    serve: Callable[..., Running], and_gate: str, watched: Watched, path: str
) -> None:
    server = serve(and_gate, key=KEY)
    page = watched.page
    page.goto(f"{server.url}{path}")
    expect(page.locator("#key")).to_be_focused()
    assert not [request for request in watched.requests if "openapi.json" in request.url]
    give_key(watched, KEY)
    expect(page.get_by_text("Predict with and").locator("visible=true").first).to_be_visible()
    assert page.evaluate("[sessionStorage.getItem('hansang.key'), localStorage.length, document.cookie]") == [
        KEY,
        0,
        "",
    ]
    page.reload()
    expect(page.get_by_text("Predict with and").locator("visible=true").first).to_be_visible()
    if path == "/docs":
        assert "predictions" in predict(watched)
    page.get_by_role("button", name="Forget the key").click()
    expect(page.locator("#key")).to_be_visible()
    assert page.evaluate("sessionStorage.length") == 0
    assert not [request.url for request in watched.requests if KEY in request.url]
    assert watched.complaints == []


def test_a_wrong_key_is_told_and_asked_for_again(
    serve: Callable[..., Running], and_gate: str, watched: Watched
) -> None:
    server = serve(and_gate, key=KEY)
    watched.page.goto(f"{server.url}/docs")
    give_key(watched, "wrong")
    expect(watched.page.locator(".wrong")).to_have_text("Incorrect API key provided.")
    assert watched.page.evaluate("sessionStorage.length") == 0
    give_key(watched, KEY)
    expect(watched.page.locator(PREDICT)).to_be_visible()


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_what_a_models_file_says_of_it_is_shown_not_run(
    serve: Callable[..., Running], watched: Watched, path: str
) -> None:
    attack = "<script>document.title = 'taken'</script><svg onload=\"document.title = 'taken'\"></svg> Bold"
    server = serve(Rows("dish", same, info={"title": attack, "description": attack}))
    watched.page.goto(f"{server.url}{path}")
    expect(watched.page.get_by_text("Predict with").locator("visible=true").first).to_be_visible()
    if path == "/docs":
        watched.page.locator("#operations-models-predict_dish .opblock-summary-control").click()
    expect(watched.page.get_by_text(attack).locator("visible=true").first).to_be_visible()
    assert watched.page.title() != "taken"
    assert watched.complaints == []
    assert watched.hosts() == {f"127.0.0.1:{server.port}"}


@contextmanager
def mounted(model: str) -> Iterator[str]:
    """Our server below /ai of somebody else's app."""
    outer = FastAPI()
    outer.mount("/ai", Server([model], Settings()).app)
    listener = socket()
    listener.bind(("127.0.0.1", 0))
    ready = Event()
    uvicorn = uvicorn_server(outer, drain_timeout=2, on_ready=ready.set)
    thread = Thread(target=uvicorn.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    assert ready.wait(20)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/ai"
    uvicorn.should_exit = True
    thread.join(15)


def test_the_pages_work_below_a_path(and_gate: str, watched: Watched) -> None:
    with mounted(and_gate) as url:
        watched.page.goto(f"{url}/docs")
        assert "predictions" in predict(watched)
        watched.page.goto(f"{url}/redoc")
        expect(watched.page.get_by_role("heading", name="Predict with and")).to_be_visible()
        assert watched.complaints == []
        assert all(request.url.startswith((url, "blob:")) for request in watched.requests)
