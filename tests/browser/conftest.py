"""A real Chromium before a real server: the distribution's own where it is installed, else Playwright's."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.quality.server import KEY

ROOT = Path(__file__).resolve().parents[2]
QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
START_S = 30.0
TIMEOUT_MS = 15_000


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests."""
    own = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(args=QUIET, executable_path=own)
        yield started
        started.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A fresh page of a visitor nobody has seen."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    yield context.new_page()
    context.close()


@pytest.fixture(scope="session")
def app_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The calculator with its production settings on a free port of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "planner", "app", "--port", str(port)]
    data = str(tmp_path_factory.mktemp("data"))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XDG_DATA_HOME": data, "PLANNER_BASELINE_API_KEY": KEY}
    server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(f"http://127.0.0.1:{port}/_stcore/health", server)
        yield f"http://127.0.0.1:{port}/"
    finally:
        server.terminate()
        server.wait(timeout=20)


def _wait(url: str, server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        assert server.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the server does not answer")


class Watched:
    """A page that remembers what it asked of other hosts, its dialogs and its errors."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        self.outside: list[str] = []
        self.dialogs: list[str] = []
        self.errors: list[str] = []
        page.set_default_timeout(TIMEOUT_MS)
        page.on("request", lambda request: self._asked(request.url))
        page.on("websocket", lambda socket: self._asked(socket.url))
        page.on("dialog", lambda dialog: (self.dialogs.append(dialog.message), dialog.dismiss()))
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def _asked(self, url: str) -> None:
        host = self.url.split("/")[2]
        if not url.startswith(("data:", "blob:", f"http://{host}/", f"ws://{host}/")):
            self.outside.append(url)

    def open(self, path: str = "") -> None:
        """Open a page and wait until it has answered."""
        self.page.goto(self.url + path)
        self.settle()

    def settle(self) -> None:
        """Wait until the page shows a verdict or a heading and no run goes on."""
        self.page.locator('[data-testid="stAlert"], [data-testid="stHeading"]').first.wait_for()
        self.page.wait_for_function("!document.querySelector('[data-testid=\"stStatusWidget\"]')")

    def verdict(self) -> str:
        """What the page says on top."""
        return str(self.page.locator('[data-testid="stAlert"]').first.inner_text())


@pytest.fixture
def app(page: Page, app_url: str) -> Iterator[Watched]:
    """A watched page; whatever a test does, nothing is asked of another host and no script of a stranger runs."""
    watched = Watched(page, app_url)
    yield watched
    assert watched.outside == []
    assert watched.dialogs == []
    assert watched.errors == []
