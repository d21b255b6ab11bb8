"""Prior half-widths of intervals: planner/data/uncertainty.yaml."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from planner.catalog.files import read_yaml
from planner.catalog.paths import data_dir
from planner.errors import BadFile, first_fault
from planner.specs.uncertainty import Uncertainty
from planner.uncertainty import HalfWidths

BY_MEMORY = ("budget", "device", "weights", "activation", "non_torch", "cuda_graph", "sequence")
BY_SPEED = ("decode_operators", "prefill_operators")
BY_ENGINE = ("decode_engine", "prefill_engine", "queue")
ANY = "*"  # vendor
VALIDATED, NOT_VALIDATED = "validated", "not validated"


@lru_cache(maxsize=1)
def uncertainty() -> Uncertainty:
    """The shipped half-widths with their sources. Raises BadFile when the file does not hold them."""
    path = data_dir() / "uncertainty.yaml"
    try:
        return Uncertainty.model_validate(read_yaml(path))
    except ValidationError as error:
        raise BadFile(f"{path.name}: {first_fault(error)}") from None


def validation(engine_id: str, generation: str) -> str:
    """Whether measured runs of the engine on GPUs of the generation ship; of our own runner, users make them."""
    known = uncertainty().validated
    return VALIDATED if engine_id not in known or generation in known[engine_id] else NOT_VALIDATED


def rests_on_rows(engine_id: str, vendor: str) -> bool:
    """Whether the rates of the engine's kernels on GPUs of this vendor come from measured rows of that engine."""
    vendors = uncertainty().kernel_rows.get(engine_id, ())
    return ANY in vendors or vendor in vendors


def widths(memory: Mapping[str, Sequence[str]], speed: Sequence[str], engine: Sequence[str]) -> HalfWidths:
    """Half-widths of rows with these levels of evidence of each part of memory (`BY_MEMORY`), of operators and of
    the engine (`EngineLevels`); arrays (R,).
    """
    levels = dict(memory) | dict.fromkeys(BY_SPEED, speed) | dict.fromkeys(BY_ENGINE, engine)
    return HalfWidths(**{name: _column(name, given) for name, given in levels.items()})


def _column(quantity: str, levels: Sequence[str]) -> NDArray[np.float64]:
    """Half-widths of one quantity at each row's level."""
    known = _known(quantity)
    return np.array([known[level] for level in levels])


@lru_cache(maxsize=64)
def _known(quantity: str) -> Mapping[str, float]:
    spec = getattr(uncertainty(), quantity)
    return {level: getattr(spec, level).value for level in type(spec).model_fields}
