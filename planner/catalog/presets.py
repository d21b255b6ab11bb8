"""Common loads to start a search from: planner/data/presets.yaml."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from planner.catalog.files import read_yaml
from planner.catalog.paths import data_dir
from planner.errors import UnknownName
from planner.specs.base import Name, Spec
from planner.specs.scenario import Scenario
from planner.specs.wish import Wish


class Preset(Spec):
    """A load with the wishes that usually come with it."""

    id: Name
    says: Name
    source: Name
    load: Scenario
    wish: Wish


@lru_cache(maxsize=1)
def presets() -> dict[str, Preset]:
    """All presets by name, in the order in which pages offer them."""
    records: dict[str, dict[str, Any]] = read_yaml(data_dir() / "presets.yaml")
    return {name: Preset.model_validate({"id": name} | record) for name, record in records.items()}


def preset(name: str) -> Preset:
    """The preset of that name. Raises UnknownName."""
    found = presets().get(name.strip().lower())
    if found is None:
        raise UnknownName("preset", name, presets(), f"known: {', '.join(presets())}")
    return found
