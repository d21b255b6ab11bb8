"""What a caller brings along to an estimate, beside the catalogue and the stored runs."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from planner.estimate.evidence import Stamp
from planner.specs.calibration import Calibration
from planner.specs.gpu import GpuSpec
from planner.specs.model import ModelSpec
from planner.specs.observation import Observation
from planner.specs.quality import QualityResult
from planner.specs.run import Run


class Library(NamedTuple):
    """Models, GPUs and runs that a caller brings along, by the name that scenarios use; the catalogue has the rest."""

    models: Mapping[str, ModelSpec] = MappingProxyType({})
    gpus: Mapping[str, GpuSpec] = MappingProxyType({})
    runs: tuple[Run | Calibration, ...] = ()  # or what was fitted to them; they come before the stored ones
    checks: tuple[QualityResult, ...] = ()  # quality checks of the user's own, before the stored ones
    stamp: Stamp | None = None  # the folders of stored runs as this call found them; None: look at every row
    observations: tuple[Observation, ...] | None = None  # that refine engines; None: the stored ones


NO_LIBRARY = Library()
