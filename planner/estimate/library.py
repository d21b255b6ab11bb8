"""What a caller brings along to an estimate, in addition to the catalogue and the stored runs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from planner.catalog import gpus
from planner.catalog.models import Resolved
from planner.catalog.models import resolve as resolve_model
from planner.estimate.evidence import Stamp
from planner.specs.calibration import Calibration
from planner.specs.gpu import GpuSpec
from planner.specs.model import ModelSpec
from planner.specs.observation import Observation
from planner.specs.quality import QualityResult
from planner.specs.run import Run

known_model = lru_cache(maxsize=1024)(resolve_model)
known_gpu = lru_cache(maxsize=1024)(gpus.gpu)


class Library(NamedTuple):
    """Models, GPUs and runs that a caller brings along, by the name that scenarios use; the catalogue has the rest."""

    models: Mapping[str, ModelSpec] = {}  # a plain dict, never changed: a search sends libraries to other processes
    gpus: Mapping[str, GpuSpec] = {}
    runs: tuple[Run | Calibration, ...] = ()  # or what was fitted to them; they come before the stored ones
    checks: tuple[QualityResult, ...] = ()  # quality checks of the user's own, before the stored ones
    stamp: Stamp | None = None  # the folders of stored runs as this call found them; None: look at every row
    observations: tuple[Observation, ...] | None = None  # that refine engines; None: the stored ones

    def resolved(self, name: str) -> Resolved:
        """The model of a name, brought along or of the catalogue, with the format that the name states.

        Raises UnknownName, BadFile or BadValue.
        """
        given = self.models.get(name)
        return Resolved(given, None, "") if given else known_model(name)

    def model(self, name: str) -> ModelSpec:
        """The architecture of a name. Raises as `resolved` does."""
        return self.resolved(name).model

    def gpu(self, name: str) -> GpuSpec:
        """The accelerator of a name, brought along or of the catalogue. Raises as `resolved` does."""
        return self.gpus.get(name) or known_gpu(name)


NO_LIBRARY = Library()
NOTHING_OBSERVED = Library(observations=())  # the estimate as it ships
