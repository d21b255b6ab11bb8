"""A Hugging Face config.json -> ModelSpec.

`model_type` chooses the reader; a type, a layer kind or a quantization method that no reader knows is an
error that names the field and its value, never a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from planner.catalog.files import parse_json
from planner.catalog.hf import attention, hybrid
from planner.catalog.hf.common import Parts
from planner.catalog.hf.config import Config, shown
from planner.errors import BadValue
from planner.specs.model import ModelSpec

READERS: dict[str, Callable[[Config], Parts]] = {
    "llama": attention.llama,
    "mistral": attention.mistral,
    "qwen2": attention.qwen2,
    "qwen3": attention.qwen3,
    **hybrid.READERS,
}


def model_from_config(config: Mapping[str, Any] | bytes, model_id: str, where: str = "config.json") -> ModelSpec:
    """The architecture that a config.json states.

    Raises BadFile or BadValue, one line that names the field, for anything that is malformed, out of
    range or of a kind that is not known.
    """
    data = parse_json(config, where) if isinstance(config, bytes) else dict(config)
    top = Config(data, where)
    parts: Parts = {"id": model_id, **_reader(top)(top)}
    parts.setdefault("model_type", top.text("model_type"))
    parts.setdefault("architecture", next(iter(top.texts("architectures")), ""))
    try:
        return ModelSpec.model_validate(parts)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise BadValue(f"{where}: {field} is {shown(first['input'])}: {first['msg']}") from None


def _reader(config: Config) -> Callable[[Config], Parts]:
    model_type = config.text("model_type")
    if not model_type:
        raise BadValue(f"{config.where}: model_type is missing; it names the architecture")
    if model_type not in READERS:
        raise config.unknown("model_type", f"{len(READERS)} types, listed in docs/models.md")
    return READERS[model_type]
