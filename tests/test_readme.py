"""What the README says is so: its table and outputs are what the planner says today, its commands run."""

from __future__ import annotations

import importlib.util
import pkgutil
import re
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


def test_predictions_and_outputs_are_today_s(root: Path, maker: ModuleType) -> None:
    assert (root / "README.md").read_text("utf-8") == maker.readme(), "run: make docs"


def test_commands_that_are_named_are_known_and_start_lines_read(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = re.findall(r"`planner ([^`]+)`", (root / "README.md").read_text("utf-8"))
    assert len(named) >= 8
    for command in named:
        asked = shlex.split(command)
        runs = "--from-command" in asked
        assert run(asked if runs else [asked[0], "--help"]) == 0, command
    assert capsys.readouterr().out


def test_every_page_is_in_the_index_and_every_link_leads_somewhere(root: Path) -> None:
    pages = [root / "README.md", *sorted((root / "docs").glob("*.md"))]
    index = (root / "docs" / "README.md").read_text("utf-8")
    assert not [page.name for page in pages[1:] if page.name != "README.md" and f"({page.name})" not in index]
    for page in pages:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_map_of_the_code_names_functions_and_files_that_exist(root: Path) -> None:
    text = (root / "docs" / "architecture.md").read_text("utf-8")
    functions = re.findall(r"`((?:catalog|estimate|formats|memory|ops|roofline|serving)(?:\.\w+)+)`", text)
    assert len(functions) >= 10
    assert not [name for name in functions if pkgutil.resolve_name(f"planner.{name}") is None]
    files = set(re.findall(r"`(\w+\.py)`", text))
    assert not {name for name in files if not (root / "planner" / "estimate" / name).exists()}
