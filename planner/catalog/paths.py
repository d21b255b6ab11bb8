"""Where the files that ship with the planner lie: in a checkout beside the package, in a wheel inside it."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent


def _shipped(folder: str) -> Path:
    checkout = _PACKAGE.parent / folder
    return checkout if checkout.is_dir() else _PACKAGE / folder


def data_dir() -> Path:
    """Models, formats, engines, evidence and name indices."""
    return _PACKAGE / "data"


def profiles_dir() -> Path:
    """One YAML per accelerator."""
    return _shipped("hardware_profiles")


def runs_dir() -> Path:
    """Calibration runs, one folder per accelerator."""
    return _shipped("calibration_runs")
