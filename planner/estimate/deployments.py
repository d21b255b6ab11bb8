"""Resolved rows in their layouts, and how a column is read from many of them: what they share is read once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from enum import StrEnum
from functools import cached_property, lru_cache
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from planner.catalog.engines import default_limits
from planner.catalog.values import columns as column_types
from planner.collectives import Parallel
from planner.estimate.layout import Layout
from planner.estimate.resolve import ResolvedRow
from planner.identity import Same, distinct
from planner.specs.engine import EngineSpec, Tier
from planner.specs.gpu import GpuSpec
from planner.units import GIB

Floats = NDArray[np.float64]
Places = NDArray[np.intp]
NUMERIC = tuple(name for name, kind in column_types().items() if kind in (int, float))
NUMBERED = {name: at for at, name in enumerate(NUMERIC)}
T = TypeVar("T")


class Deployment(NamedTuple):
    """A resolved row in one of its layouts, with the engine's limits on that device."""

    row: ResolvedRow
    layout: Layout
    limits: Tier


def limits_of(row: ResolvedRow) -> Tier:
    """The engine's default limits, which follow from the device, and in some versions from the length or the prompt."""
    length = row.scenario.max_model_len or row.model.max_position
    device_bytes = (row.scenario.device_gib or 0) * GIB
    limits = _limits(Same(row.engine), Same(row.gpu), device_bytes, length, row.model.vision is not None)
    return _with_prompt(Same(limits), row.scenario.input_tokens or 0) if row.engine.defaults.whole_prompts else limits


@lru_cache(maxsize=4096)
def _with_prompt(limits: Same[Tier], prompt: int) -> Tier:
    least = prompt + limits.value.max_num_seqs
    if limits.value.max_num_batched_tokens >= least:
        return limits.value
    return limits.value.model_copy(update={"max_num_batched_tokens": least})


@lru_cache(maxsize=4096)
def _limits(engine: Same[EngineSpec], gpu: Same[GpuSpec], device_bytes: float, length: int, sees: bool) -> Tier:
    limits = default_limits(engine.value, gpu.value, device_bytes)
    rocm = engine.value.defaults.rocm_whole_prompts and gpu.value.runs_rocm
    whole = np.inf if rocm or (sees and limits.whole_prompts_to > 1) else limits.whole_prompts_to
    if limits.max_num_batched_tokens < length <= whole:
        limits = limits.model_copy(update={"max_num_batched_tokens": length})
    return limits


class Part(StrEnum):
    """A part of a deployment that a value may depend on; the text is the attribute that holds it.

    Whoever computes a value names its parts, and it is computed once for all deployments that share these.
    """

    GPU = "row.gpu"
    WEIGHTS = "row.weights"
    CACHE = "row.kv"
    SUPPORT = "row.support"
    CHECKPOINT = "row.checkpoint"
    FAMILY = "row.family"
    SOURCE = "row.source"
    REFINED = "row.refined"
    LAYOUT = "layout"
    LIMITS = "limits"
    SCENARIO = "row.scenario"
    WORDS = "words"  # columns of the scenario that are choices, not sizes


WORDS = itemgetter(
    "interconnect", "gpus_per_node", "flash_attention", "enforce_eager", "images_per_request", "kv_format",
    "device_gib", "copies_per_gpu", "host_bandwidth_gb_s",
)  # fmt: skip


class Deployments(tuple[Deployment, ...]):
    """A sequence of deployments that remembers which of them share which parts, and their numeric columns."""

    @cached_property
    def _numbers(self) -> dict[Part, Places]:
        return {}

    @cached_property
    def _alike(self) -> dict[tuple[Part, ...], tuple[list[Deployment], Places]]:
        return {}

    def numbered(self, part: Part) -> Places:
        """A number for each of the distinct parts, of every deployment; all but layouts are told apart by identity."""
        if part not in self._numbers:
            self._numbers[part] = self._numbered(part)
        return self._numbers[part]

    def _numbered(self, part: Part) -> Places:
        if part is Part.WORDS:
            scenarios, at = self.alike(Part.SCENARIO)
            return number_of_each(WORDS(vars(d.row.scenario)) for d in scenarios)[at]
        if part is Part.LAYOUT:
            return number_of_each(d.layout for d in self)
        if part in (Part.SCENARIO, Part.LIMITS):
            return number_of_each(map(id, map(attrgetter(part), self)))
        kinds, at = self._kinds
        return number_of_each(map(id, map(attrgetter(part), kinds)))[at]

    @cached_property
    def _kinds(self) -> tuple[list[Deployment], Places]:
        """A deployment for each set of specs behind names, and which of them every deployment is like."""
        return distinct(self, [tuple(map(id, d.row[1:])) for d in self])

    def alike(self, *parts: Part) -> tuple[list[Deployment], Places]:
        """A deployment for each combination of parts, and which of them every deployment is like."""
        if parts not in self._alike:
            self._alike[parts] = self._distinct(parts) if len(self) > 1 else (list(self), np.zeros(1, dtype=np.intp))
        return self._alike[parts]

    def _distinct(self, parts: Sequence[Part]) -> tuple[list[Deployment], Places]:
        first, at = combinations([self.numbered(part) for part in parts])
        return [self[index] for index in first.tolist()], at

    @cached_property
    def cells(self) -> Floats:
        """(columns, R): every numeric scenario column in the order of NUMERIC, None as nan."""
        scenarios, at = self.alike(Part.SCENARIO)
        rows = (vars(d.row.scenario) for d in scenarios)
        cells = np.full((len(NUMERIC), len(scenarios)), np.nan)
        for cell, values in zip(cells, zip(*map(itemgetter(*NUMERIC), rows), strict=True), strict=True):
            if values.count(None) < len(values):
                cell[:] = values
        return cells[:, at]

    @cached_property
    def blanks(self) -> list[bool]:
        """Whether any row leaves a numeric column blank."""
        return [bool(blank) for blank in np.asarray(np.isnan(self.cells).any(axis=1))]

    @classmethod
    def of(cls, deployments: Sequence[Deployment]) -> Deployments:
        """The same deployments, with what was already read of them."""
        return deployments if isinstance(deployments, Deployments) else cls(deployments)

    def taken(self, at: Places) -> Deployments:
        """Those at these places, with what was already read of all."""
        chosen = Deployments(self[index] for index in at.tolist())
        scenarios, like = self.alike(Part.SCENARIO)
        numbers = {part: number[at] for part, number in self._numbers.items()}
        vars(chosen).update(_numbers=numbers, cells=self.cells[:, at])
        chosen._alike[Part.SCENARIO,] = scenarios, like[at]
        return chosen


def number_of_each(keys: Iterable[Hashable]) -> Places:
    """Equal keys get equal numbers from 0."""
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(key, len(known)) for key in keys])


def combinations(numbers: Sequence[Places]) -> tuple[Places, Places]:
    """Where each combination of numbers stands first, and which of the combinations every place has."""
    both = np.zeros_like(numbers[0])
    for number in numbers:
        if number.any():
            both = _without_gaps(both * (number.max() + 1) + number)
    first = np.empty(both.max() + 1, dtype=np.intp)
    first[both[::-1]] = np.arange(len(both))[::-1]  # of equal places the last one assigned stays
    return first, both


def _without_gaps(numbers: Places) -> Places:
    """The same numbers counted from 0 in their order, as few as there are different ones."""
    present = np.zeros(numbers.max() + 1, dtype=bool)
    present[numbers] = True
    return (np.cumsum(present) - 1)[numbers]


def each(deployments: Sequence[Deployment], value: Callable[[Deployment], T], *parts: Part) -> list[T]:
    """`value` of every deployment, in their order. It may look at `parts` alone: it is asked once for equal ones."""
    kinds, at = Deployments.of(deployments).alike(*parts)
    values = [value(d) for d in kinds]
    return [values[index] for index in at.tolist()]


def column(
    deployments: Sequence[Deployment], value: Callable[[Deployment], Any], *parts: Part, dtype: Any = np.float64
) -> Any:
    """The same as `each`, as an array (R,) of `dtype`."""
    kinds, at = Deployments.of(deployments).alike(*parts)
    return np.array([value(d) for d in kinds], dtype=dtype)[at]


def numbers(deployments: Sequence[Deployment], name: str, default: float | None = None) -> Floats:
    """A scenario column as floats; None becomes `default`, or the engine's limit of that name."""
    read, at = Deployments.of(deployments), NUMBERED[name]
    values: Floats = read.cells[at]
    if not read.blanks[at]:
        return values
    limit = column(read, attrgetter(f"limits.{name}"), Part.LIMITS) if default is None else default
    return np.where(np.isnan(values), limit, values)


def parallel(deployments: Sequence[Deployment]) -> Parallel:
    """The layouts as arrays."""
    kinds, at = Deployments.of(deployments).alike(Part.LAYOUT)
    columns = zip(*(d.layout.defined[:5] for d in kinds), strict=True)
    return Parallel(*(np.array(values, dtype=np.float64)[at] for values in columns))


def replicas(deployments: Sequence[Deployment]) -> Floats:
    """Independent copies of the model that share the load."""
    copies = numbers(deployments, "copies_per_gpu", 1)
    return np.asarray(column(deployments, attrgetter("layout.dp"), Part.LAYOUT) * copies)


def only(values: Any) -> float:
    """The figure of a group of one deployment: the single entry of an array (1,), or a scalar that stands for it."""
    return float(np.ravel(values)[0])
