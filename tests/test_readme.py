"""What the README says is so: its table is what the planner predicts today, its commands run."""

from __future__ import annotations

import importlib.util
import shlex
from pathlib import Path
from types import ModuleType

import pytest

from planner.cli.main import run


@pytest.fixture
def maker(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_readme", root / "docs" / "make_readme.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_predictions_are_today_s(root: Path, maker: ModuleType) -> None:
    assert (root / "README.md").read_text("utf-8") == maker.readme(), "run: make docs"


def test_the_commands_run(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line for line in (root / "README.md").read_text("utf-8").splitlines() if line.startswith("planner estimate")]
    for line in [line for line in lines if "plan.csv" not in line]:
        assert run(shlex.split(line)[1:]) == 0, line
    assert len(lines) >= 3 and capsys.readouterr().out
