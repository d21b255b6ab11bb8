"""The calculator as a visitor meets it, in Chromium."""

from __future__ import annotations

import csv
import http.client
import io
import json
import re
import urllib.request
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import Watched

pytestmark = pytest.mark.browser

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
    "max_position_embeddings": 8192, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip


def query(app: Watched) -> dict[str, list[str]]:
    return parse_qs(urlsplit(app.page.url).query)


def test_the_first_screen_answers_the_question(app: Watched) -> None:
    app.open()
    assert "Holds the load" in app.verdict()
    tiles = app.page.locator('[data-testid="stMetric"]')
    expect(tiles).to_have_count(4)
    expect(app.page.get_by_text("GPU memory, each of 2")).to_be_in_viewport()
    chart = app.page.locator('[data-testid="stPlotlyChart"]').first
    expect(chart).to_be_in_viewport()
    assert query(app) == {}


def test_a_slider_moves_answer_and_address(app: Watched) -> None:
    app.open()
    slider = app.page.get_by_role("slider", name="Requests at once")
    slider.focus()
    slider.press("ArrowRight")
    expect(app.page.get_by_text("keeps 48 requests")).to_be_visible()
    app.page.wait_for_url("**concurrency=48**")


def test_the_address_opens_the_same_scenario_elsewhere(app: Watched, browser: Browser) -> None:
    app.open("?v=1&model=Qwen/Qwen3-8B&gpu=l40s&concurrency=3&input_tokens=1234")
    said = app.verdict()
    assert "1,234 + 500 tokens" in said
    slider = app.page.get_by_role("slider", name="Requests at once")
    slider.focus()
    slider.press("ArrowRight")
    expect(app.page.get_by_text("keeps 4 requests")).to_be_visible()
    app.page.wait_for_url("**concurrency=4**")
    other = browser.new_page()
    other.goto(app.page.url)
    expect(other.locator('[data-testid="stAlert"]').first).to_have_text(re.compile("keeps 4 requests of 1,234"))
    other.close()


def test_the_back_button_undoes_a_change(app: Watched) -> None:
    app.open(
        "?v=1&door=hardware&model=Qwen/Qwen3-8B&gpu=l40s&n_gpus=1&concurrency=3&input_tokens=1000&output_tokens=500"
    )
    slider = app.page.get_by_role("slider", name="Requests at once")
    slider.focus()
    slider.press("ArrowRight")
    app.page.wait_for_url("**concurrency=4**")
    app.page.go_back()
    expect(app.page.get_by_text("keeps 3 requests")).to_be_visible()


def test_a_bad_link_names_what_it_could_not_use_and_runs_nothing(app: Watched) -> None:
    evil = "<img src=x onerror=alert(1)>", "![x](http://evil.invalid/x.png)", "$\\href{http://evil.invalid}{x}$"
    app.open(f"?v=1&model={evil[0]}&gpu={evil[1]}&weight_format={evil[2]}&concurrency=1e400&n_gpus=-3&own=1")
    said = app.verdict()
    assert "cannot use" in said
    for text in (*evil[:1], "1e400", "n_gpus -3", "own"):
        assert text in said
    assert app.page.locator('[data-testid="stAlert"] img, [data-testid="stAlert"] a').count() == 0
    expect(app.page.locator('[data-testid="stMetric"]')).to_have_count(4)


def test_a_typed_name_is_looked_up_and_a_path_is_refused(app: Watched) -> None:
    app.open()
    box = app.page.get_by_role("combobox", name="Model")
    for written in ("deepseek r1", "deepseek-r1", "deepseek-ai/DeepSeek-R1"):
        box.fill(written)
        expect(app.page.get_by_role("option", name="DeepSeek R1 · 671 B")).to_be_visible()
    box.fill("llama 3 70b")
    box.press("Enter")
    expect(app.page.get_by_text("was taken as meta-llama/Meta-Llama-3-70B-Instruct")).to_be_visible()
    box = app.page.get_by_role("combobox", name="Model")
    box.fill("Qwen/Qwen3-32B-AWQ")
    box.press("Enter")
    expect(app.page.get_by_text("Qwen3-32B-AWQ in AWQ INT4")).to_be_visible()
    box = app.page.get_by_role("combobox", name="Model")
    box.fill("../../etc/passwd")
    box.press("Enter")
    expect(app.page.get_by_text("is no bundled model")).to_be_visible()


def test_an_uploaded_config_is_the_model(app: Watched) -> None:
    app.open()
    app.page.get_by_text("Your own command, model or GPU").click()
    chooser = app.page.locator('input[type="file"]').first
    chooser.set_input_files(
        {"name": "mine.json", "mimeType": "application/json", "buffer": json.dumps(CONFIG).encode()}
    )
    expect(app.page.get_by_text("mine in FP8")).to_be_visible()
    chooser = app.page.locator('input[type="file"]').first
    chooser.set_input_files({"name": "bad.json", "mimeType": "application/json", "buffer": b"[" * 100_000})
    expect(app.page.get_by_text("bad").last).to_be_visible()
    expect(app.page.get_by_text("mine in FP8")).to_be_visible()


def test_csv_json_and_report_come_down_and_agree(app: Watched, tmp_path: Path) -> None:
    app.open()
    texts = {}
    for label in ("CSV", "JSON", "Report"):
        with app.page.expect_download() as waiting:
            app.page.get_by_role("button", name=label, exact=True).click()
        waiting.value.save_as(tmp_path / label)
        texts[label] = (tmp_path / label).read_text("utf-8")
    row = next(csv.DictReader(io.StringIO(texts["CSV"])))
    document = json.loads(texts["JSON"])[0]
    assert row["verdict"] == document["verdict"] == "holds"
    assert float(row["weights_gib"]) == document["weights_gib"]
    assert f"room for {document['max_concurrency']}" in texts["Report"]


def test_the_report_opens_alone_and_asks_for_nothing(app: Watched, tmp_path: Path) -> None:
    app.open()
    with app.page.expect_download() as waiting:
        app.page.get_by_role("button", name="Report", exact=True).click()
    path = tmp_path / "report.html"
    waiting.value.save_as(path)
    asked: list[str] = []
    alone = app.page.context.new_page()
    alone.on("request", lambda request: asked.append(request.url))
    alone.goto(path.as_uri())
    expect(alone.locator("svg")).to_have_count(2)
    assert asked == [path.as_uri()]
    alone.close()


@pytest.mark.parametrize("path", ["", "recommend", "compare", "calibration", "finetuning"])
def test_a_phone_shows_every_page_without_sideways_scrolling(browser: Browser, app_url: str, path: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    page = context.new_page()
    page.goto(app_url + path)
    page.locator('[data-testid="stAlert"], [data-testid="stHeading"]').first.wait_for()
    page.wait_for_timeout(500)
    main = page.locator('[data-testid="stMain"]')
    assert main.evaluate("node => node.scrollWidth <= node.clientWidth + 1")
    if not path:
        expect(page.get_by_text("Holds the load")).to_be_in_viewport()
    context.close()


def test_pages_are_reached_by_their_own_address_on_a_fresh_server(app: Watched) -> None:
    for path, words in (
        ("calibration", "What the speed of this GPU rests on"),
        ("compare", "Compare"),
        ("recommend", "What runs best on"),
    ):
        app.open(path)
        expect(app.page.get_by_role("heading", name=words)).to_be_visible()
        expect(app.page.get_by_role("link", name="Calculator")).to_be_visible()


def test_pins_stand_in_the_link(app: Watched, browser: Browser) -> None:
    app.open("?v=1&model=Qwen/Qwen3-8B&gpu=l40s&concurrency=4")
    app.page.get_by_role("button", name="Pin to compare").click()
    app.page.wait_for_url("**pin=**")
    slider = app.page.get_by_role("slider", name="Requests at once")
    slider.focus()
    slider.press("ArrowRight")
    expect(app.page.get_by_text("keeps 6 requests")).to_be_visible()
    app.page.get_by_role("button", name="Pin to compare").click()
    app.page.wait_for_function("location.search.split('pin=').length === 3")
    other = browser.new_page()
    other.goto(app.url + "compare?" + urlsplit(app.page.url).query)
    expect(other.get_by_text("2 of 6 pinned")).to_be_visible()
    other.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_in_charts_can_be_read_on_either_ground(browser: Browser, app_url: str, scheme: str) -> None:
    context = browser.new_context(color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(app_url)
    label = page.locator('[data-testid="stPlotlyChart"] .xtick text').first
    label.wait_for()
    colours = (
        "node => [getComputedStyle(node).fill, getComputedStyle(document.querySelector('.stApp')).backgroundColor]"
    )
    ink, ground = ([int(n) for n in re.findall(r"\d+", text)[:3]] for text in label.evaluate(colours))
    assert contrast(ink, ground) > 4.5
    context.close()


def contrast(one: list[int], other: list[int]) -> float:
    """Contrast of two colours as WCAG 2 defines it."""

    def luminance(colour: list[int]) -> float:
        parts = (value / 255 for value in colour)
        red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def headers_of(url: str) -> dict[str, str]:
    with urllib.request.urlopen(url, timeout=10) as found:
        return {name.lower(): value for name, value in found.headers.items()}


def upgrade(url: str, host: str | None, origin: str) -> int:
    """Status of opening the session's websocket as a browser on `origin` would."""
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port or 0, timeout=10)
    key = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": "13"}
    headers = {"Host": host or place.netloc, "Origin": origin, "Upgrade": "websocket", "Connection": "Upgrade"}
    connection.request("GET", "/_stcore/stream", headers=headers | key)
    status = connection.getresponse().status
    connection.close()
    return status


def test_the_server_keeps_other_sites_out(app_url: str) -> None:
    headers = headers_of(app_url)
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"
    assert upgrade(app_url, "evil.invalid", app_url) == 403
    assert upgrade(app_url, None, "http://evil.invalid") == 403
    assert upgrade(app_url, None, app_url.rstrip("/")) == 101
