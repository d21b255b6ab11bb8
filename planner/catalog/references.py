"""Reference calibrations that ship: curves fitted to published operator measurements of a GPU."""

from __future__ import annotations

from functools import lru_cache

from pydantic import ValidationError

from planner.catalog.files import read_json
from planner.catalog.paths import data_dir
from planner.errors import BadFile, first_fault
from planner.specs.calibration import Calibration


@lru_cache(maxsize=1)
def reference_ids() -> frozenset[str]:
    """GPUs that have one."""
    return frozenset(path.stem for path in (data_dir() / "reference").glob("*.json"))


@lru_cache(maxsize=64)
def reference(gpu_id: str) -> Calibration | None:
    """The GPU's reference calibration, if one ships. Raises BadFile when its file is none."""
    if gpu_id not in reference_ids():
        return None
    path = data_dir() / "reference" / f"{gpu_id}.json"
    try:
        return Calibration.model_validate(read_json(path))
    except ValidationError as error:
        raise BadFile(f"{path.name}: {first_fault(error)}") from None
