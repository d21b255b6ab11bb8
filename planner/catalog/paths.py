"""Where the files that ship with the planner lie, in a checkout beside the package, in a wheel inside it; and the
user's own."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent


@lru_cache(maxsize=8)
def _shipped(folder: str) -> Path:
    checkout = PACKAGE.parent / folder
    return checkout if checkout.is_dir() else PACKAGE / folder


def data_dir() -> Path:
    """Models, formats, engines, evidence and name indices."""
    return PACKAGE / "data"


def profiles_dir() -> Path:
    """One YAML per accelerator."""
    return _shipped("hardware_profiles")


def user_profiles_dir() -> Path:
    """The user's own accelerators; those that ship come first."""
    return user_dir() / "hardware_profiles"


def runs_dir() -> Path:
    """Calibration runs, one folder per accelerator."""
    return _shipped("calibration_runs")


def user_dir() -> Path:
    """The user's own folder; every estimate looks there for runs, observations and checks."""
    return _user_dir(os.environ.get("XDG_DATA_HOME"), os.environ.get("HOME"))


@lru_cache(maxsize=8)
def _user_dir(*_follows_from: str | None) -> Path:
    from platformdirs import user_data_path

    return user_data_path("llm-capacity-planner")
