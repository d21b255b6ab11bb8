"""A serving engine at one version: how it divides memory, which kernels it runs, what its host adds, how it schedules.

Values are SI and already resolved for the version; where each comes from stands in `planner/data/engines`, whose
sections are the fields of `EngineSpec`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from planner.specs.base import Kind, Name, Spec
from planner.specs.engine.division import Division
from planner.specs.engine.graphs import Graphs, PromptPieces
from planner.specs.engine.kernels import (
    Attained,
    AttentionKernels,
    ExpertKernels,
    MergedKernels,
    Routers,
    UnfusedState,
    UntunedProducts,
)
from planner.specs.engine.memory import (
    Activation,
    Allocation,
    Budget,
    BudgetRule,
    CacheLayout,
    CacheRules,
    ProcessMemory,
    StaticReserve,
    WeightRules,
)
from planner.specs.engine.settings import Defaults, Scheduler, Tier
from planner.specs.engine.times import FrontEnd, HostTimes, LaunchTimes, Routing

__all__ = [
    "Activation",
    "Allocation",
    "Attained",
    "AttentionKernels",
    "Budget",
    "BudgetRule",
    "CacheLayout",
    "CacheRules",
    "Constant",
    "Defaults",
    "Division",
    "EngineSpec",
    "ExpertKernels",
    "FrontEnd",
    "Graphs",
    "HostTimes",
    "LaunchTimes",
    "MergedKernels",
    "ProcessMemory",
    "PromptPieces",
    "Routers",
    "Routing",
    "Scheduler",
    "StaticReserve",
    "Tier",
    "UnfusedState",
    "UntunedProducts",
    "WeightRules",
]


class EngineSpec(Spec):
    """One engine, constants resolved for `version`."""

    id: Name
    name: str
    version: str  # as resolved
    note: str = ""  # what was assumed to resolve it
    kernels: str = ""  # whose figures price its kernels: its id, with a back-end that has kernels of its own behind a /
    budget: Budget
    weights: WeightRules
    division: Division
    cache: CacheRules
    activation: Activation
    process: ProcessMemory
    graphs: Graphs
    pieces: PromptPieces
    host: HostTimes
    launches: LaunchTimes
    routing: Routing
    expert_kernels: ExpertKernels
    routers: Routers
    untuned_products: UntunedProducts
    merged_kernels: MergedKernels
    attention_kernels: AttentionKernels
    unfused_state: UnfusedState
    attained: Attained
    scheduler: Scheduler
    front_end: FrontEnd
    defaults: Defaults


class Constant(Spec):
    """A constant of an engine's file: the value, where it was read, how it is known."""

    value: float | bool | str | list[str]
    source: Annotated[str, Field(min_length=1, max_length=500)]
    kind: Kind
