"""Other names of the bundled models: repositories of base, instruct and quantized checkpoints."""

from __future__ import annotations

from functools import lru_cache

from planner.catalog.files import read_json
from planner.catalog.paths import data_dir


@lru_cache(maxsize=1)
def repositories() -> tuple[str, ...]:
    """Repositories that stand for a bundled architecture without being its id, in alphabetical order."""
    named = read_json(data_dir() / "model_aliases.json")["aliases"]
    named |= read_json(data_dir() / "models" / "checkpoints.json")
    return tuple(sorted((name for name in named if "/" in name), key=str.lower))
