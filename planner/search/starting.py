"""What starts only with other settings than the usual ones: layers or experts in host memory, or less of what an engine
sets aside. Of each the least that does is taken."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.estimate.deployments import Deployments
from planner.estimate.memory_plans import planned
from planner.estimate.resolve import ResolvedRow
from planner.explain.changes import FULLER
from planner.search.records import Columns, Replica
from planner.specs.engine import EngineSpec
from planner.units import GIB

LLAMA_CPP, VLLM = "llama.cpp", "vllm"
PLACING = ("cpu_offload_gib", "n_gpu_layers", "n_cpu_moe", "draft_model")  # columns beside which weights are not all
ON_HOST = "host_memory"  # what breaks when too much is on the host already
SETTABLE = (  # columns that a search sets where nothing starts without
    "n_cpu_moe", "n_gpu_layers", "gpu_memory_utilization", "max_num_seqs", "max_num_batched_tokens", "enforce_eager",
)  # fmt: skip
SMALL_CHUNK = 2048  # tokens of a step
LEAST_SEQUENCES = 16
Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


def host_bytes(row: ResolvedRow) -> float:
    """Bytes of host memory that may hold layers: what the load states, where llama.cpp has a card beside it."""
    stated = any(getattr(row.scenario, name) is not None for name in PLACING)
    if row.engine.id != LLAMA_CPP or row.gpu.unified_memory or stated:
        return 0.0
    return (row.scenario.host_memory_gib or 0.0) * GIB


def with_other_settings(engine: EngineSpec, replicas: Sequence[Replica], in_flight: Floats) -> list[Replica | None]:
    """For replicas that do not start, all of one engine and model: themselves with settings that let them start under
    `in_flight` requests each, or None."""
    if engine.id == VLLM and replicas:
        return _with_less_aside(engine, replicas, in_flight)
    found: list[Replica | None] = [None] * len(replicas)
    able = [j for j, replica in enumerate(replicas) if host_bytes(replica.deployment.row)]
    if able:
        for j, hosted in zip(able, _with_host(engine, [replicas[j] for j in able], in_flight[able]), strict=True):
            found[j] = hosted
    return found


def _with_host(engine: EngineSpec, replicas: Sequence[Replica], in_flight: Floats) -> list[Replica | None]:
    """The fewest layers in host memory, of a mixture their experts alone, with which each replica starts."""
    model = replicas[0].deployment.row.model
    low, high = np.zeros(len(replicas), dtype=np.int64), np.full(len(replicas), model.n_layers)
    fits, _ = _fitting(engine, _hosted(replicas, high), in_flight)
    while np.any(fits & (high - low > 1)):
        middle = (low + high) // 2
        enough, _ = _fitting(engine, _hosted(replicas, middle), in_flight)
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    hosted = _hosted(replicas, high)
    _, starts = _fitting(engine, hosted, in_flight)
    return [one if good else None for one, good in zip(hosted, starts.tolist(), strict=True)]


def _hosted(replicas: Sequence[Replica], layers: Counts) -> list[Replica]:
    """The replicas with this many layers, or their experts, in host memory."""
    model = replicas[0].deployment.row.model
    experts = model.has_experts
    columns = ({"n_cpu_moe": n} if experts else {"n_gpu_layers": model.n_layers + 1 - n} for n in layers.tolist())
    return [_changed(replica, update) for replica, update in zip(replicas, columns, strict=True)]


def _fitting(engine: EngineSpec, replicas: Sequence[Replica], in_flight: Floats) -> tuple[Any, Any]:
    """Which fit their GPUs, whatever the host holds, and which start."""
    verdict = planned(engine, Deployments(one.deployment for one in replicas), in_flight).plan.verdict
    return verdict.starts | (np.asarray(verdict.breaks) == ON_HOST), verdict.starts


def _with_less_aside(engine: EngineSpec, replicas: Sequence[Replica], in_flight: Floats) -> list[Replica | None]:
    """Each replica with the first settings of `_tighter` that let it start."""
    found: list[Replica | None] = [None] * len(replicas)
    tighter = [_tighter(one, asked) for one, asked in zip(replicas, in_flight.tolist(), strict=True)]
    for step in range(len(tighter[0])):
        left = [j for j, one in enumerate(found) if one is None]
        tried = [_changed(replicas[j], tighter[j][step]) for j in left]
        if tried:
            _, starts = _fitting(engine, tried, in_flight[left])
            for j, one, good in zip(left, tried, starts.tolist(), strict=True):
                found[j] = one if good else None
    return found


def _tighter(replica: Replica, in_flight: float) -> tuple[Columns, ...]:
    """Settings that leave more to the KV cache, the gentlest first: no more sequences at once than are asked for."""
    limits = replica.deployment.limits
    asked = max(LEAST_SEQUENCES, 2 ** math.ceil(math.log2(max(in_flight, 1))))
    fuller: Columns = {"gpu_memory_utilization": FULLER}
    smaller = fuller | {
        "max_num_seqs": min(asked, limits.max_num_seqs),
        "max_num_batched_tokens": min(SMALL_CHUNK, limits.max_num_batched_tokens),
    }
    return fuller, smaller, smaller | {"enforce_eager": True}


def _changed(replica: Replica, update: Columns) -> Replica:
    """The replica with columns of its scenario set that the load leaves blank."""
    own = replica.deployment.row
    blank = {name: value for name, value in update.items() if getattr(own.scenario, name) is None}
    row = own._replace(scenario=own.scenario.model_copy(update=blank))
    config = replica.config._replace(settings=tuple(blank.items()))
    return Replica(config, replica.deployment._replace(row=row))
