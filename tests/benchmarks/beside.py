"""How quick a page stays while others search: `python -m tests.benchmarks.beside [searches]`.

Prints figures, asserts none. One visitor in Chromium moves a slider, first alone, then beside so many pages that
search through all models and all GPUs with a price, each again as soon as it is done.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from typing import Any

from tests.benchmarks.page import PORT, QUIET, ROOT, URL, moves, processor_s, said, spread, started

SEARCH = "recommend?v=1&door=load&concurrency=64"
WAIT_MS = 60_000


class Searches:
    """Pages that search over and over."""

    def __init__(self, pages: list[Any]) -> None:
        self.pages, self.begun = pages, 0

    def go_on(self) -> None:
        """Press Search where nothing is searched for."""
        for page in self.pages:
            if not page.get_by_role("button", name="Stop").count():
                page.get_by_role("button", name="Search", exact=True).click(timeout=WAIT_MS)
                self.begun += 1

    def running(self) -> int:
        """Pages whose search is not done."""
        return sum(page.get_by_role("button", name="Stop").count() > 0 for page in self.pages)


class Beside:
    """A page whose every wait first sees that the others search."""

    def __init__(self, page: Any, searches: Searches) -> None:
        self.page, self.searches, self.seen = page, searches, []  # type: ignore[var-annotated]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.page, name)

    def wait_for_timeout(self, ms: float) -> None:
        """As the page's own; between two moves."""
        self.searches.go_on()
        self.page.wait_for_timeout(ms)
        self.seen.append(self.searches.running())


def main(searches: int = 4) -> None:
    """Start a server, measure, end it."""
    from playwright.sync_api import sync_playwright

    command = [sys.executable, "-m", "planner", "app", "--port", str(PORT)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    own = shutil.which("chromium") or shutil.which("chromium-browser")
    try:
        said(f"server ready after {started():.1f} s; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(args=QUIET, executable_path=own)
            page = opened(browser, URL)
            page.locator('[data-testid="stPlotlyChart"]').nth(1).locator(".xtick text").first.wait_for()
            said(f"slider to new text, alone: {spread(moves(page))}")
            others = Searches([opened(browser, URL + SEARCH) for _ in range(searches)])
            for other in others.pages:
                other.get_by_role("button", name="Search", exact=True).wait_for(timeout=WAIT_MS)
            others.go_on()
            page.wait_for_timeout(3000)
            beside = Beside(page, others)
            before, begun = processor_s(server.pid), time.monotonic()
            said(f"beside {searches} searches: {spread(moves(beside))}")
            share = (processor_s(server.pid) - before) / (time.monotonic() - begun)
            said(f"  the server itself took {share:.0%} of a core, its processes for searches apart")
            mean = sum(beside.seen) / len(beside.seen)
            said(f"  {others.begun} searches begun, {mean:.1f} running on average; load {os.getloadavg()[0]:.1f}")
            browser.close()
    finally:
        server.terminate()
        server.wait(timeout=20)


def opened(browser: Any, address: str) -> Any:
    """A page of its own session."""
    page = browser.new_context(viewport={"width": 1400, "height": 900}).new_page()
    page.goto(address)
    return page


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
