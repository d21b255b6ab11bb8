"""Layers, experts and weights in host memory: from a scenario's columns to placements and to shares of the work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.catalog.host import assumed
from planner.catalog.values import shares_of
from planner.estimate.deployments import Deployment, numbers
from planner.memory import MemoryInputs
from planner.memory.placement import Placement, host_placement
from planner.memory.weights import stage_shares
from planner.ops import HostShare, Slot
from planner.ops.products import LAYER_SLOTS, slot_of
from planner.params import tensors
from planner.specs.model import ModelSpec, MoeFfn

PLACING = ("n_gpu_layers", "n_cpu_moe", "tensor_split")


def placement_of(d: Deployment) -> Placement:
    """Which layers llama.cpp puts on which GPU and in host memory."""
    s, model, pp = d.row.scenario, d.row.model, d.layout.defined.pp
    shares = shares_of(s.tensor_split) if s.tensor_split and not d.layout.invalid else (1.0,) * pp
    on_gpu = model.n_layers + 1 if s.n_gpu_layers is None else s.n_gpu_layers
    return host_placement(model.n_layers, on_gpu, shares, s.n_cpu_moe or 0, d.row.engine.weights.host_roles)


def _places(d: Deployment) -> bool:
    """Whether the scenario says where layers go."""
    return any(getattr(d.row.scenario, name) is not None for name in PLACING)


def placement_column(deployments: Sequence[Deployment]) -> NDArray[np.object_] | None:
    """Placements, (R,); None where no row departs from the engine's own rule."""
    if not deployments[0].row.engine.division.by_layers or not any(map(_places, deployments)):
        return None
    placements = np.empty(len(deployments), dtype=object)
    placements[:] = [placement_of(d) for d in deployments]
    return placements


def host_share(deployments: Sequence[Deployment], inputs: MemoryInputs) -> HostShare | None:
    """Shares of the work whose weights are in host memory, by slot; None where all are on the GPU."""
    model, settings = deployments[0].row.model, inputs.settings
    offload = np.broadcast_to(np.asarray(settings.cpu_offload_bytes, dtype=float), (len(deployments),))
    if settings.placement is None and not offload.any():
        return None
    run, streamed = (np.zeros((len(Slot), len(deployments))) for _ in range(2))
    if settings.placement is not None:
        known = {placement: _run_on_host(model, placement) for placement in set(settings.placement.tolist())}
        run = np.stack([known[placement] for placement in settings.placement.tolist()], axis=-1)
    listed = tensors(model)
    in_layers = np.array([bool(tensor.layers) for tensor in listed])[:, None]
    stack = np.sum(inputs.tensor_bytes * in_layers, axis=0) / (inputs.parallel.tp * inputs.parallel.pp)
    streamed[list(LAYER_SLOTS)] = np.minimum(offload / stack, 1.0)
    copied_from = np.full((len(Slot), 1), assumed("copied_from_tokens").value)
    copied_from[Slot.EXPERT_GEMM] *= max((ffn.top_k for ffn in model.ffns if isinstance(ffn, MoeFfn)), default=1)
    return HostShare(run, streamed, copied_from)


def _run_on_host(model: ModelSpec, placement: Placement) -> NDArray[np.float64]:
    """(slots,): share of each slot's executions in layers on the host, where a layer's cache lies with its weights."""
    layers = placement.host_layers / model.n_layers
    shares = np.zeros(len(Slot))
    parts: dict[Slot, list[tuple[float, float]]] = {}
    for tensor, row in zip(tensors(model), stage_shares(model, placement), strict=True):
        if tensor.layers and tensor.op:
            parts.setdefault(slot_of(tensor), []).append((float(row[-1]) * tensor.numel, float(tensor.numel)))
    for slot, pairs in parts.items():
        shares[slot] = sum(on_host for on_host, _ in pairs) / sum(whole for _, whole in pairs)
    shares[Slot.LM_HEAD_GEMM] = float(placement.host_head)
    shares[[Slot.PREFILL, Slot.DECODE]] = shares[Slot.ATTENTION_GEMM]
    shares[Slot.RECURRENT], shares[Slot.ELEMENTWISE] = shares[Slot.SSM_GEMM], layers
    return shares


def settings_of(deployments: Sequence[Deployment]) -> dict[str, Any]:
    """Settings of the memory plan that concern placements, adapters and drafted tokens, by name."""
    slots, rank = numbers(deployments, "max_loras", np.nan), numbers(deployments, "lora_rank", np.nan)
    adapts = ~(np.isnan(slots) & np.isnan(rank))
    return {
        "placement": placement_column(deployments),
        "lora_slots": np.where(adapts, np.where(np.isnan(slots), 1.0, slots), 0.0),
        "lora_rank": np.where(np.isnan(rank), assumed("lora_rank").value, rank),
        "draft_tokens": numbers(deployments, "speculative_tokens", 0),
    }
