"""The engine's budget: how much of the device it may take, and what is left of it for the cache."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from planner.collectives import Parallel
from planner.memory.terms import Array, Device, Floats, Settings, floats
from planner.specs.engine import BudgetRule, EngineSpec, StaticReserve
from planner.specs.model import ModelSpec

_SMALLEST_FRACTION = 0.01
_PROMPT_GRAPHS = ((32, 4), (256, 16), (512, 32), (1024, 64), (4096, 256))  # up to, step; ref: sglang cuda_graph_hook
_PROMPT_GRAPHS_BEYOND = 512
FRACTION_DIGITS = 4  # of a derived fraction, so that what an answer and a start line state is what was meant
_USUAL_ENCODER = (24, 1024)  # layers and width of CLIP ViT-L; ref: sglang adjust_mem_fraction_for_vlm
_PER_ENCODER, _LEAST, _MOST = 0.1, 0.8, 1.05


class Spent(NamedTuple):
    """(S, R) bytes that are spent before the cache is sized."""

    weights: Floats
    activation: Floats
    non_torch: Floats
    graphs: Floats

    def total(self) -> Floats:
        """All four."""
        return self.weights + self.activation + self.non_torch + self.graphs


def free_bytes(engine: EngineSpec, device: Device) -> Floats:
    """What an idle process sees as free, the contexts of all copies taken off."""
    return floats(device.total_bytes) - device.reserved_bytes - engine.budget.context_bytes * floats(device.copies)


def prompt_graphs(tokens: Array) -> Floats:
    """How many sizes of prompts SGLang captures as CUDA graphs up to `tokens`."""
    left, count, start = floats(tokens), floats(0.0), 0
    for end, step in _PROMPT_GRAPHS:
        count = count + np.floor(np.clip(left - start, 0, end - start) / step)
        start = end
    return floats(count + np.floor(np.maximum(left - start, 0) / _PROMPT_GRAPHS_BEYOND))


class Runs(NamedTuple):
    """The properties of a model and its run that a default fraction depends on."""

    model: ModelSpec
    drafts: bool = False  # a model or a head drafts
    replayed: Array = 0.0  # most tokens of a step with prompts that graphs replay


def default_utilization(
    engine: EngineSpec, device: Device, settings: Settings, parallel: Parallel, runs: Runs | None = None
) -> Floats:
    """The engine's default fraction; SGLang derives it from the device and the model.

    Where others share the card and the fraction is one of the total, it is lowered to whole hundredths of
    what is free, as a user would: the engine refuses to start otherwise.
    """
    total, default = floats(device.total_bytes), engine.budget.utilization
    if engine.budget.reserve is not None:
        return _reserved_fraction(engine.budget.reserve, device, settings, parallel, runs)
    if engine.budget.rule is not BudgetRule.TOTAL:
        return np.full_like(total, default)
    beside = 0.0 if engine.graphs.in_budget else _SMALLEST_FRACTION
    attainable = np.floor(free_bytes(engine, device) / total * 100) / 100 - beside
    lowered = np.clip(attainable, _SMALLEST_FRACTION, default)
    return np.where(floats(device.reserved_bytes) > 0, lowered, default) + np.zeros_like(total)


def _reserved_fraction(
    reserve: StaticReserve, device: Device, settings: Settings, parallel: Parallel, runs: Runs | None
) -> Floats:
    """1 - what is reserved / device memory, less where an image encoder runs. Ref: sglang arg_groups/memory_hook.py."""
    total = floats(device.total_bytes)
    kept = _static_reserve_bytes(reserve, total, settings, parallel)
    if runs is not None:
        sizes = prompt_graphs(np.minimum(runs.replayed, settings.max_num_batched_tokens))
        prompts = sizes * reserve.per_prompt_graph_bytes
        if runs.model.caches_latents:
            prompts = floats(reserve.latent_prompt_graphs_bytes)
        kept = kept + np.where((floats(runs.replayed) > 0) & ~np.asarray(settings.enforce_eager), prompts, 0.0)
        kept = kept + (reserve.draft_bytes if runs.drafts else 0.0)
    fraction = np.round(1 - _floored(reserve, total, kept) / total, 3)
    fraction = np.maximum(fraction * (_encoder_factor(reserve, runs.model) if runs else 1.0), _SMALLEST_FRACTION)
    return np.round(fraction, FRACTION_DIGITS)


def _encoder_factor(reserve: StaticReserve, model: ModelSpec) -> float:
    """Share x (1.05 to 0.8: a tenth less for every encoder of the size of CLIP ViT-L beyond the first)."""
    vision, (usual_layers, usual_width) = model.vision, _USUAL_ENCODER
    if vision is None or reserve.encoder_share == 1:
        return 1.0
    unread = any(model.model_type.startswith(kind) for kind in reserve.encoder_depths)
    layers = usual_layers if unread else vision.n_layers
    size = layers * vision.hidden**2 / (usual_layers * usual_width**2)
    return float(reserve.encoder_share * np.clip(1 - _PER_ENCODER * (size - 1), _LEAST, _MOST))


def effective_utilization(
    model: ModelSpec, engine: EngineSpec, device: Device, settings: Settings, utilization: Array
) -> Floats:
    """The fraction that applies: with AITER's attention kernels SGLang lowers any fraction for long contexts."""
    reserve = engine.budget.reserve
    if reserve is None or reserve.aiter_share == 1 or model.caches_latents:
        return floats(utilization)
    long = floats(settings.max_model_len) > reserve.aiter_share_from
    return floats(utilization * np.where(long & np.asarray(device.aiter), reserve.aiter_share, 1.0))


def _static_reserve_bytes(reserve: StaticReserve, total: Floats, settings: Settings, parallel: Parallel) -> Floats:
    """SGLang: 512 MiB + 1.5 MiB per prefill token + 2 MiB per captured sequence + 128 MiB per GPU.

    Data-parallel attention: for every captured sequence 3 MiB per rank, 4.5 where more than 300 are captured.
    """
    ranks = np.where(floats(parallel.attention_dp) > 1, floats(parallel.attention_dp), 0)
    large = np.where(settings.graph_batch > reserve.large_graph_from, reserve.per_large_dp_graph_sequence_bytes, 0)
    per_sequence = reserve.per_graph_sequence_bytes + (reserve.per_dp_graph_sequence_bytes + large) * ranks
    return floats(
        reserve.fixed_bytes
        + reserve.per_prefill_token_bytes * floats(settings.max_num_batched_tokens)
        + per_sequence * settings.graph_batch
        + reserve.per_gpu_bytes * floats(parallel.tp) * parallel.pp
        + np.zeros_like(total)
    )


def _floored(reserve: StaticReserve, total: Floats, wanted: Floats) -> Floats:
    return floats(np.where(total > reserve.floor_from_bytes, np.maximum(wanted, reserve.floor_bytes), wanted))


def budget_bytes(engine: EngineSpec, device: Device, utilization: Array) -> Floats:
    """What one deployment may take of the device, copies sharing it equally.

    vLLM: fraction x total. SGLang: fraction x free before loading, for weights and pool. TensorRT-LLM: all
    that is free; its fraction applies to what is left after loading. Others: fraction x free.
    """
    rule = engine.budget.rule
    free = np.maximum(free_bytes(engine, device), 0)
    base = floats(device.total_bytes) if rule is BudgetRule.TOTAL else free
    fraction = 1.0 if rule is BudgetRule.FREE_AFTER else utilization
    return floats(base * fraction / device.copies)


def available_bytes(engine: EngineSpec, budget: Floats, utilization: Array, spent: Spent) -> Floats:
    """(S, R): what is left of the budget for the cache; negative when nothing is."""
    rule = engine.budget.rule
    if rule is BudgetRule.FREE_BEFORE:
        return budget - spent.weights - spent.non_torch
    if rule is BudgetRule.FREE_AFTER:
        return floats((budget - spent.total()) * utilization)
    graphs = spent.graphs if engine.graphs.in_budget or rule is BudgetRule.FREE else 0.0
    return floats(budget - spent.weights - spent.activation - spent.non_torch - graphs)


def outside_bytes(engine: EngineSpec, spent: Spent) -> Floats:
    """(S, R): what the engine takes beside its budget."""
    if engine.budget.rule is BudgetRule.FREE_BEFORE:
        return spent.activation + spent.graphs
    if engine.budget.rule is BudgetRule.TOTAL and not engine.graphs.in_budget:
        return spent.graphs
    return np.zeros_like(spent.graphs)
