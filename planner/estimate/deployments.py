"""Resolved rows in their layouts, and how a column is read from many of them: what they share is read once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from planner.catalog.engines import default_limits
from planner.catalog.values import columns as column_types
from planner.collectives import Parallel
from planner.estimate.layout import Layout
from planner.estimate.resolve import Row
from planner.formats.identity import Same, distinct
from planner.specs.engine import EngineSpec, Tier
from planner.specs.gpu import GpuSpec
from planner.units import GIB

Floats = NDArray[np.float64]
# Columns that rows of one kind share, and those that are read as numbers.
KIND_COLUMNS = itemgetter(
    "interconnect", "gpus_per_node", "flash_attention", "enforce_eager", "images_per_request", "kv_format",
    "device_gib", "copies_per_gpu", "host_bandwidth_gb_s",
)  # fmt: skip
NUMERIC = tuple(name for name, kind in column_types().items() if kind in (int, float))
T = TypeVar("T")


class Deployment(NamedTuple):
    """A resolved row in one of its layouts, with the engine's limits on that device."""

    row: Row
    layout: Layout
    limits: Tier


def deployment(row: Row, layout: Layout) -> Deployment:
    """A row in a layout; the engine's default limits follow from the device, and in old ones from the length."""
    length = row.scenario.max_model_len or row.model.max_position
    device_bytes = (row.scenario.device_gib or 0) * GIB
    limits = _limits(Same(row.engine), Same(row.gpu), device_bytes, length, row.model.vision is not None)
    return Deployment(row, layout, limits)


@lru_cache(maxsize=4096)
def _limits(engine: Same[EngineSpec], gpu: Same[GpuSpec], device_bytes: float, length: int, sees: bool) -> Tier:
    limits = default_limits(engine.value, gpu.value, device_bytes)
    whole = np.inf if sees and limits.whole_prompts_to > 1 else limits.whole_prompts_to
    if limits.max_num_batched_tokens < length <= whole:
        limits = limits.model_copy(update={"max_num_batched_tokens": length})
    return limits


class Deployments(tuple[Deployment, ...]):
    """Deployments, of which many share a scenario, or differ in numbers only: what is the same is read once."""

    @cached_property
    def by_scenario(self) -> tuple[list[Deployment], NDArray[np.intp]]:
        """One deployment for each scenario, and which of them every deployment is like."""
        return distinct(self, [id(d.row.scenario) for d in self])

    @cached_property
    def by_kind(self) -> tuple[list[Deployment], NDArray[np.intp]]:
        """The same by everything that is not a number."""
        return distinct(self, [_kind(d) for d in self])

    @cached_property
    def columns(self) -> dict[str, Floats]:
        """Every numeric scenario column of `by_scenario`, None as nan."""
        scenarios = (vars(d.row.scenario) for d in self.by_scenario[0])
        cells = zip(*map(itemgetter(*NUMERIC), scenarios), strict=True)
        return {name: np.array(column, dtype=np.float64) for name, column in zip(NUMERIC, cells, strict=True)}

    @classmethod
    def of(cls, deployments: Sequence[Deployment]) -> Deployments:
        """The same deployments, with what was already read of them."""
        return deployments if isinstance(deployments, Deployments) else cls(deployments)

    def taken(self, at: NDArray[np.intp]) -> Deployments:
        """Those at these places, with what was already read of all."""
        found = Deployments(self[index] for index in at.tolist())
        (scenarios, like), (kinds, kind) = self.by_scenario, self.by_kind
        vars(found).update(by_scenario=(scenarios, like[at]), by_kind=(kinds, kind[at]), columns=self.columns)
        return found


def _kind(d: Deployment) -> tuple[object, ...]:
    """What deployments that differ in numbers only share; specs by identity."""
    row = d.row
    specs = (*row.kv, row.weights, row.gpu, row.support, row.source, row.refined, row.family, d.layout, d.limits)
    return (*map(id, specs), row.checkpoint, *KIND_COLUMNS(vars(row.scenario)))


def each(deployments: Sequence[Deployment], value: Callable[[Deployment], T]) -> list[T]:
    """A value of every deployment that those of one kind share."""
    kinds, at = Deployments.of(deployments).by_kind
    found = [value(d) for d in kinds]
    return [found[index] for index in at.tolist()]


def column(deployments: Sequence[Deployment], value: Callable[[Deployment], Any], dtype: Any = np.float64) -> Any:
    """The same as an array (R,)."""
    kinds, at = Deployments.of(deployments).by_kind
    return np.array([value(d) for d in kinds], dtype=dtype)[at]


def numbers(deployments: Sequence[Deployment], name: str, default: float | None = None) -> Floats:
    """A scenario column as floats; None becomes `default`, or the engine's limit of that name."""
    read = Deployments.of(deployments)
    values = read.columns[name][read.by_scenario[1]]
    blank = np.isnan(values)
    if not blank.any():
        return values
    return np.where(blank, column(read, attrgetter(f"limits.{name}")) if default is None else default, values)


def parallel(deployments: Sequence[Deployment]) -> Parallel:
    """The layouts as arrays."""
    kinds, at = Deployments.of(deployments).by_kind
    columns = zip(*(d.layout.defined[:5] for d in kinds), strict=True)
    return Parallel(*(np.array(values, dtype=np.float64)[at] for values in columns))


def replicas(deployments: Sequence[Deployment]) -> Floats:
    """Independent copies of the model that share the load."""
    return np.asarray(column(deployments, lambda d: d.layout.dp * (d.row.scenario.copies_per_gpu or 1)))
