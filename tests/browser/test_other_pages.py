"""Fine-tuning, Calibration and the log box as a visitor meets them."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from planner.catalog import runs
from tests.browser.conftest import Watched
from tests.test_fit import fitted_run, products
from tests.test_logs import GEMMA

pytestmark = pytest.mark.browser


def test_a_fine_tuning_run_is_judged_mended_and_kept_in_the_address(app: Watched) -> None:
    app.open("finetuning?v=1&model=Qwen/Qwen3-8B&gpu=rtx4090&method=qlora&seq_len=65536")
    assert "Does not fit" in app.verdict()
    app.page.get_by_role("button", name=re.compile("sequences of")).click()
    expect(app.page.locator('[data-testid="stAlert"]').first).to_have_text(re.compile("Fits|Tight"))
    app.page.wait_for_function("!location.search.includes('seq_len=65536')")
    app.page.get_by_role("radio", name="Full").click()
    app.page.wait_for_url("**method=full**")
    expect(app.page.get_by_text("Full fine-tuning of Qwen3-8B")).to_be_visible()


def test_a_pasted_log_stands_beside_the_estimate_and_sets_the_page(app: Watched) -> None:
    app.open("?v=1&gpu=mi300x")
    app.page.get_by_text("Compare with your engine's start-up log").click()
    box = app.page.get_by_label(re.compile("Paste the start-up log"))
    box.fill("no log at all")
    box.press("Control+Enter")
    expect(app.page.get_by_text("This log cannot be used")).to_be_visible()
    box.fill(GEMMA)
    box.press("Control+Enter")
    expect(app.page.get_by_text("as the log states it")).to_be_visible()
    app.page.get_by_role("button", name="Use these settings").click()
    app.page.wait_for_url("**max_model_len=4096**")
    expect(app.page.get_by_text("gemma-3-27b-it in BF16").first).to_be_visible()


def test_an_uploaded_run_is_shown_and_used_by_its_visitor(app: Watched) -> None:
    run = fitted_run(products())
    app.open("calibration?gpu=h200-sxm")
    expect(app.page.get_by_text("No run of this GPU is known here")).to_be_visible()
    data = runs.run_text(run).encode()
    app.page.locator('input[type="file"]').set_input_files(
        {"name": "run.json", "mimeType": "application/json", "buffer": data}
    )
    expect(app.page.get_by_text("estimates of this session rest on it")).to_be_visible(timeout=60_000)
    app.page.get_by_role("tab", name="Formats against batch").click()
    expect(app.page.get_by_text("Fastest:")).to_be_visible()
    app.page.get_by_role("link", name="Calculator").click()
    expect(app.page.get_by_text("Holds the load")).to_be_visible()
