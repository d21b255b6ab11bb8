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
    lines = (root / "README.md").read_text("utf-8").splitlines()
    commands = [line for line in lines if line.startswith("planner estimate") and "plan.csv" not in line]
    for command in commands:
        assert run(shlex.split(command)[1:]) == 0, command
    assert len(commands) >= 2 and capsys.readouterr().out
