"""Rules of thumb: each is computed anew, and the page says of each whether it holds."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.fixture(scope="module")
def rules() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_rules", DOCS / "make_rules.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_rule_stands_on_the_page_with_its_cases(rules: ModuleType) -> None:
    page = (DOCS / "rules_of_thumb.md").read_text("utf-8")
    assert all(rule.said in page and all(case.label in page for case in rule.cases) for rule in rules.RULES)


def test_a_rule_holds_within_what_it_states(rules: ModuleType) -> None:
    rule = rules.Rule("", "", 1.4, 1.7, (), "")
    assert [rules.judged(rule, ratio) for ratio in (1.2, 1.3, 1.6, 1.9)] == ["no: less", "holds", "holds", "no: more"]


def test_an_fp8_cache_doubles_the_room(rules: ModuleType) -> None:
    rule = next(rule for rule in rules.RULES if "doubles the room" in rule.said)
    ratio, figures = rules.factor(rule.cases[0])
    assert ratio == pytest.approx(2.0, abs=0.05) and " / " in figures
