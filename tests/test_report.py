"""Exports: what a spreadsheet would run is text, numbers stay numbers, and nothing is NaN."""

from __future__ import annotations

import csv
import io
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.report import csv_text, json_text, safe_cell


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\0"])
def test_a_text_that_a_spreadsheet_would_run_is_neutralised(start: str) -> None:
    assert safe_cell(f"{start}1+1") == f"'{start}1+1"


def test_negative_numbers_stay_numbers() -> None:
    assert [safe_cell(value) for value in (-1, -0.5)] == [-1, -0.5]


def test_missing_and_unusable_figures_are_empty_cells() -> None:
    assert [safe_cell(value) for value in (None, math.nan, math.inf, -math.inf)] == ["", "", "", ""]


def test_booleans_are_words() -> None:
    assert [safe_cell(value) for value in (True, False)] == ["true", "false"]


@given(st.lists(st.text(st.characters(exclude_categories=("Cs",)), max_size=30), min_size=1, max_size=4))
def test_any_text_survives_the_round_trip(texts: list[str]) -> None:
    names = [f"c{index}" for index in range(len(texts))]
    text = csv_text(names, [dict(zip(names, texts, strict=True))])
    _, row = csv.reader(io.StringIO(text, newline=""))
    assert row == [f"'{text}" if text.startswith(tuple("=+-@\t\r\0")) else text for text in texts]


def test_a_column_that_a_row_lacks_is_an_empty_cell() -> None:
    assert csv_text(["a", "b"], [{"a": 1}]) == "a,b\r\n1,\r\n"


def test_json_is_one_strict_document() -> None:
    text = json_text([{"a": math.nan, "b": None, "c": (1, math.inf)}])
    assert json.loads(text) == [{"a": None, "b": None, "c": [1, None]}]
    assert text.endswith("\n")
