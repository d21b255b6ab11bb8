"""The quality check as a newcomer meets it, in Chromium."""

from __future__ import annotations

import csv
import io
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from planner.quality.examples import TEMPLATE, read_examples
from tests.browser.conftest import Watched
from tests.quality.server import KEY, Server

pytest.importorskip("scipy")
pytest.importorskip("openai")
pytestmark = pytest.mark.browser

FIVE_MINUTES_S = 300.0
SENDS_MS = 400  # until the browser has sent what was typed
SAMPLE = TEMPLATE.with_name("quality_check_sample")


def replies(side: str) -> Callable[[str], str]:
    """What the sample's answers of a side say to its prompts."""
    rows = [json.loads(line) for line in (SAMPLE / f"{side}.jsonl").read_text("utf-8").splitlines()]
    said = {row["id"]: row.get("output", "") for row in rows}
    by_prompt = {one.messages[-1]["content"]: said[one.id] for one in read_examples(TEMPLATE)}
    return by_prompt.__getitem__


def fill(page: Page, label: str, number: int, text: str) -> None:
    box = page.get_by_role("textbox", name=label).nth(number)
    box.fill(text)
    box.press("Enter")
    page.wait_for_timeout(SENDS_MS)
    expect(page.locator('[data-testid="stStatusWidget"]')).to_have_count(0)


def check(page: Page) -> None:
    button = page.get_by_role("button", name="Check", exact=True)
    expect(button).to_be_enabled(timeout=30_000)
    button.click()


def test_from_the_template_to_a_verdict_in_five_minutes(app: Watched, tmp_path: Path) -> None:
    begun, page = time.monotonic(), app.page
    app.open()
    page.get_by_role("link", name="Quality check").click()
    expect(page.get_by_text("About 50 real requests")).to_be_visible()
    with page.expect_download() as template:
        page.get_by_role("button", name="Template").click()
    template.value.save_as(tmp_path / "my-examples.jsonl")
    page.locator('input[type="file"]').first.set_input_files(tmp_path / "my-examples.jsonl")
    expect(page.get_by_text("my-examples.jsonl: 12 examples;")).to_be_visible()
    with Server(delay_s=0.3, key=KEY) as before, Server(delay_s=0.1) as after:
        before.reply, after.reply = replies("baseline"), replies("candidate")
        for number, server in enumerate((before, after)):
            fill(page, "Address", number, server.url)
            fill(page, "Model", number, "m")
        check(page)
        expect(page.get_by_text("Cannot tell: 12 examples")).to_be_in_viewport(timeout=60_000)
    assert time.monotonic() - begun < FIVE_MINUTES_S
    expect(page.get_by_text("12 examples cannot see 2 points")).to_be_visible()
    expect(page.get_by_text("invoice-json got worse")).to_be_visible()
    with page.expect_download() as rows:
        page.get_by_role("button", name="CSV", exact=True).click()
    found = list(csv.DictReader(io.StringIO(Path(rows.value.path()).read_text("utf-8"))))
    assert len(found) == 12 and sum(row["change"] == "worse" for row in found) == 2
    assert before.url not in page.url and KEY not in page.content()


def test_a_check_is_stopped_and_goes_on_where_it_ended(app: Watched, tmp_path: Path) -> None:
    page = app.page
    app.open("quality_check")
    page.locator('input[type="file"]').first.set_input_files(TEMPLATE)
    with Server(delay_s=0.6) as server:
        server.reply = replies("baseline")
        for number in range(2):
            fill(page, "Address", number, server.url)
            fill(page, "Model", number, f"m{number}")
        page.get_by_text("How they are scored and asked").click()
        at_once = page.get_by_role("spinbutton", name="Requests at once")
        at_once.fill("1")
        at_once.press("Enter")
        page.wait_for_timeout(SENDS_MS)
        check(page)
        expect(page.get_by_text(re.compile("Answers before: [2-6] of 12"))).to_be_visible(timeout=60_000)
        page.get_by_role("button", name="Stop").click()
        expect(page.get_by_text("Stopped. Answers so far are kept").first).to_be_in_viewport()
        page.get_by_role("button", name="Go on where it ended").click()
        expect(page.get_by_text("Cannot tell: 12 examples")).to_be_visible(timeout=60_000)
        assert sum(server.asked.values()) <= 2 * 12 + 1
