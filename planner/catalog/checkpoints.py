"""Which checkpoint to download for a model in a format, or how to make it where none is known."""

from __future__ import annotations

from functools import lru_cache

from planner.catalog.files import read_json, read_yaml
from planner.catalog.paths import data_dir
from planner.specs.formats import FormatSpec
from planner.specs.model import ModelSpec


def checkpoint(model: ModelSpec, weights: FormatSpec, base: str = "") -> str:
    """A published id of the model in this format, else "quantize <base>: <how>"; blank: the base is the model's id."""
    base = base or model.id
    own = model.quantization.weight_format if model.quantization else model.dtype
    if weights.id == own:
        return base
    known = published(model.id, weights.id)
    if known:
        return known
    table = _tools()
    how = table["at_load"].get(weights.id) or table["tools"].get(weights.family, "")
    return f"{base}, {how}" if weights.id in table["at_load"] else f"quantize {base}: {how}"


def published(model_id: str, format_id: str) -> str | None:
    """The id of a published checkpoint of a bundled model in a format that is not the model's own, if one is known."""
    return _published().get((model_id, format_id))


@lru_cache(maxsize=1)
def _published() -> dict[tuple[str, str], str]:
    """Ids that name their format themselves, by model and format; the publisher's own before others'."""
    entries = read_json(data_dir() / "models" / "checkpoints.json")
    entries |= read_json(data_dir() / "model_aliases.json")["aliases"]
    found: dict[tuple[str, str], str] = {}
    for name, entry in entries.items():
        if isinstance(entry, dict) and "/" in name:
            stated = entry.get("weight_format") or entry["quantization"]["weight_format"]
            key = entry["model"], stated
            if key not in found or name.partition("/")[0] == key[0].partition("/")[0]:
                found[key] = name
    return found


@lru_cache(maxsize=1)
def _tools() -> dict[str, dict[str, str]]:
    table: dict[str, dict[str, str]] = read_yaml(data_dir() / "checkpoint_tools.yaml")
    return table
