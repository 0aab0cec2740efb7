"""A real Chromium. Without one the tests are skipped, but in CI (CI=true) they fail."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # the network is cut
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """For one module: playwright's event loop runs in this thread until it is stopped."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        told = "no Chromium: sudo apt-get install chromium (or scripts/system-packages)"
        if os.environ.get("CI") == "true":
            pytest.fail(told)
        pytest.skip(told)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield launched
        launched.close()


class Watched:
    """A page, with all that it complained of and all that it asked for."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.requests: list[Request] = []
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.requests.append(request))

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def hosts(self) -> set[str]:
        """Whom it asked. What is made in the page itself (data:, blob:) asks nobody."""
        return {urlsplit(request.url).netloc for request in self.requests} - {""}


@pytest.fixture
def watched(browser: Browser) -> Iterator[Watched]:
    with browser.new_context(viewport={"width": 1300, "height": 1600}) as context:
        context.set_default_timeout(20_000)
        yield Watched(context.new_page())
