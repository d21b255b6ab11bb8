"""What every test shares: no test depends on the machine's terminal, locale or network proxies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent

for _name in ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "CLICOLOR_FORCE"):
    os.environ.pop(_name, None)
# A busy machine is no fault. Where changes are checked the examples are the same each time; by hand they are new ones.
settings.register_profile("untimed", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("untimed")
os.environ["PLANNER_OBSERVATIONS_DIR"] = os.devnull  # a folder that no test has; those that need one set their own


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT
