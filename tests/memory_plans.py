"""Memory plans of small and of named models, as tests ask for them."""

from __future__ import annotations

from typing import Any

import numpy as np

from planner.catalog.engines import engine
from planner.collectives import Parallel
from planner.memory import Device, MemoryInputs, MemoryPlan, ReplicaLoad, Settings, memory_plan
from planner.memory.cache import cache_table
from planner.memory.placement import placements
from planner.memory.table import CacheTable
from planner.params import tensors
from planner.specs.engine import EngineSpec
from planner.specs.model import ModelSpec
from planner.units import GIB

VLLM, NONE = engine("vllm", "0.19.0"), engine("none")
H100 = 79.19 * GIB


def inputs(model: ModelSpec, parallel: Parallel | None = None, **changes: Any) -> MemoryInputs:
    """A 16-bit model on an H100, one thousand tokens in and out; `changes` go to whichever record has the field."""
    settings = Settings(0.9, 256.0, 8192.0, 8192.0)
    device, load = Device(H100), ReplicaLoad(1000.0, 1000.0)
    weights = np.array([tensor.numel * 2.0 for tensor in tensors(model)])
    base = MemoryInputs(weights, 2.0, 2.0, device, settings, load, parallel or Parallel())
    for name, value in changes.items():
        holder = next((part for part in ("device", "settings", "load") if name in getattr(base, part)._fields), None)
        base = base._replace(**({holder: getattr(base, holder)._replace(**{name: value})} if holder else {name: value}))
    return base


def plan(model: ModelSpec, spec: EngineSpec = VLLM, parallel: Parallel | None = None, **changes: Any) -> MemoryPlan:
    return memory_plan(model, spec, inputs(model, parallel, **changes))


def table(model: ModelSpec, spec: EngineSpec, parallel: Parallel | None = None, **changes: Any) -> CacheTable:
    asked = inputs(model, parallel, **changes)
    return cache_table(model, spec, asked, placements(model, spec, asked, 1))
