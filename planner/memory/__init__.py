"""Memory of a deployment in closed form: weights, cache, states, activations and overheads against the
engine's budget, what the cache pool holds, and whether the engine starts.

Per GPU on the rank that limits the pool: weights + pool + activation + non-torch + graphs <= budget, where
budget and pool follow the engine's own rule at its version (`specs.engine`).
"""

from __future__ import annotations

from planner.memory.budget import Runs, default_utilization
from planner.memory.concurrency import slots_that_fit, with_slots
from planner.memory.extras import adapted_tensors, adapter_values
from planner.memory.plan import memory_plan
from planner.memory.terms import (
    Device,
    Draft,
    KvCapacity,
    MemoryInputs,
    MemoryPlan,
    ReplicaLoad,
    Settings,
    StartVerdict,
    Terms,
)

__all__ = [
    "Device",
    "Draft",
    "KvCapacity",
    "MemoryInputs",
    "MemoryPlan",
    "ReplicaLoad",
    "Runs",
    "Settings",
    "StartVerdict",
    "Terms",
    "adapted_tensors",
    "adapter_values",
    "default_utilization",
    "memory_plan",
    "slots_that_fit",
    "with_slots",
]
