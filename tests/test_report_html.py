"""The sizing report: one file, nothing loaded, nothing run, the same figures as the row."""

from __future__ import annotations

import re
from functools import cache
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest

from planner import explain
from planner.catalog import models
from planner.estimate import estimate
from planner.report import svg
from planner.report.html import report
from planner.specs.scenario import Scenario

MODEL = "meta-llama/Llama-3.3-70B-Instruct"
SCENARIO = Scenario(model=MODEL, weight_format="fp8", gpu="h100-sxm", n_gpus=2, tp=2, concurrency=32)


@cache
def rows() -> list[dict[str, Any]]:
    loads = (32, 1, 2, 4, 8, 16, 64, 128)
    found = estimate([SCENARIO.model_copy(update={"concurrency": n}) for n in loads]).rows()
    return [found[0], *sorted(found, key=lambda row: row["concurrency"])]


def page(**changed: Any) -> str:
    row, *curve = rows()
    return report(row | changed, curve, models.model(MODEL), "v=1&model=x")


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "rect", "line", "circle", "polyline", "polygon"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            assert self.open.pop() == tag


def test_the_report_loads_and_runs_nothing() -> None:
    found = Tags(page())
    assert not {"script", "link", "img", "iframe", "object"} & set(found.tags)
    assert not [name for name, _ in found.attributes if name in ("src", "href") or name.startswith("on")]
    assert "url(" not in page() and "@import" not in page()
    assert found.open == []


def test_the_report_says_verdict_figures_and_scenario() -> None:
    text = page()
    assert explain.verdict(rows()[0]).sentence in text
    assert explain.figure(rows()[0]["max_concurrency"]) in text
    assert text.count("<svg") == 2
    assert "vllm serve" in text and "h100-sxm" in text


def test_markup_in_a_name_is_text() -> None:
    text = page(name="<script>alert(1)</script>", reason="<img src=x onerror=alert(1)>")
    assert "<script" not in text and "<img" not in text
    assert "&lt;script&gt;" in text


def test_a_report_of_what_does_not_start_has_no_speed() -> None:
    scenario = Scenario(model=MODEL, weight_format="bf16", gpu="l4")
    row = estimate(scenario).rows()[0]
    text = report(row, [row], models.model(MODEL))
    assert "Does not start" in text
    assert "tokens/s for each user" not in text


@pytest.mark.parametrize("chart", [svg.memory_bar(rows()[0]), svg.load_speed(rows()[1:], rows()[0])])
def test_charts_are_well_formed_and_stay_inside_their_frame(chart: str) -> None:
    root = ElementTree.fromstring(chart)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    for shape in root.iter():
        for name, most in (("x", width), ("x1", width), ("x2", width), ("cx", width), ("y", height), ("y1", height)):
            if name in shape.attrib:
                assert -1 <= float(shape.attrib[name]) <= most + 1
    points = [
        tuple(map(float, pair.split(","))) for item in re.findall(r'points="([^"]*)"', chart) for pair in item.split()
    ]
    assert all(0 <= x <= width and 0 <= y <= height for x, y in points)


def test_segments_of_the_memory_bar_fill_the_card() -> None:
    widths = [float(value) for value in re.findall(r'<rect [^>]*width="([\d.]+)"', svg.memory_bar(rows()[0]))]
    assert sum(widths) == pytest.approx(svg.WIDTH, abs=2)
