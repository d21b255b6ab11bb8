"""Every worked example in a docstring runs and says what it says."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = [path for path in sorted((ROOT / "planner").rglob("*.py")) if "    >>> " in path.read_text("utf-8")]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_worked_examples_are_so(path: Path) -> None:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    failed, tried = doctest.testmod(importlib.import_module(name))
    assert tried and not failed


def test_the_doors_have_a_worked_example() -> None:
    doors = {
        "__init__.py",
        "estimate/__init__.py",
        "simulation/__init__.py",
        "finetuning/__init__.py",
        "search/recommend.py",
    }
    assert doors <= {str(path.relative_to(ROOT / "planner")) for path in EXAMPLES}
