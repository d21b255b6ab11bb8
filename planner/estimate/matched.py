"""Model and engine adapted to each other: what an engine does with a model, and what a model is in an engine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from planner.catalog import models
from planner.catalog.checkpoints import published
from planner.estimate.defaults import own_format
from planner.estimate.library import known_model
from planner.identity import Same
from planner.specs.engine import EngineSpec, Routing
from planner.specs.formats import FormatSpec
from planner.specs.model import Attention, LinearAttention, Mamba, ModelSpec, MoeFfn

ANY = "*"  # model_type of every config


@lru_cache(maxsize=512)
def without_windows(model: Same[ModelSpec]) -> ModelSpec:
    """The model in an engine without sliding windows, whose window layers keep and read whole sequences."""
    mixers = (m.model_copy(update={"window": None}) if isinstance(m, Attention) else m for m in model.value.mixers)
    return model.value.model_copy(update={"mixers": tuple(mixers)})


@lru_cache(maxsize=512)
def with_states(engine: Same[EngineSpec], model: Same[ModelSpec], cached: bool) -> EngineSpec:
    """The engine as it runs recurrent states and pooled windows, with the cost of keeping prefixes where `cached`."""
    cache, host = engine.value.cache, engine.value.host
    if not cached and cache.keeps_chunk and model.value.pools_latents:
        return engine.value.model_copy(update={"cache": cache.model_copy(update={"keeps_chunk": False})})
    if not any(isinstance(mixer, LinearAttention | Mamba) for mixer in model.value.mixers):
        return engine.value
    if not cached:
        slots = cache.state_slots if cache.plain_state_slots is None else cache.plain_state_slots
        return engine.value.model_copy(update={"cache": cache.model_copy(update={"state_slots": slots})})
    later = {
        "step_s": host.step_s + host.state_step_s,
        "sequence_s": host.sequence_s + host.state_sequence_s,
    }
    return engine.value.model_copy(update={"host": host.model_copy(update=later)})


@lru_cache(maxsize=512)
def with_router(engine: Same[EngineSpec], model: Same[ModelSpec]) -> EngineSpec:
    """The engine as it chooses experts: in several kernels where no kernel of its own applies the model's bias."""
    routing = engine.value.routing
    corrected = [f for f in model.value.ffns if isinstance(f, MoeFfn) and f.router_bias == "correction"]
    if not (routing.unfused_router_s and corrected) or _chooses_in_one(routing, model.value.model_type, corrected):
        return engine.value
    later = routing.model_copy(update={"router_s": routing.router_s + routing.unfused_router_s})
    return engine.value.model_copy(update={"routing": later})


def _chooses_in_one(routing: Routing, model_type: str, ffns: Sequence[MoeFfn]) -> bool:
    """Whether one kernel of the engine chooses the experts of a model whose choice a bias corrects."""
    unfused = routing.unfused_router_types
    if ANY not in unfused and model_type not in unfused:
        return True
    if model_type in routing.fused_router_types:
        return True
    powers = routing.fused_router_powers and model_type not in routing.fused_router_never
    return powers and all(_is_fused_power(routing, ffn) for ffn in ffns)


def _is_fused_power(routing: Routing, ffn: MoeFfn) -> bool:
    """Whether the kernel for powers of two takes so many experts, and so many of them for a token."""
    experts, top_k = routing.fused_router_experts, routing.fused_router_top_k
    few = (experts is None or ffn.n_experts <= experts) and (top_k is None or ffn.top_k <= top_k)
    return few and ffn.n_experts.bit_count() == 1


def as_published(resolved: models.Resolved, weights: FormatSpec) -> models.Resolved:
    """The model as its published FP4 checkpoint holds it; that, not the format, says what stays in 16 bit."""
    name = published(resolved.model.id, weights.id) if weights.family == "fp4" else None
    if name is None or own_format(resolved.model) == weights.id:
        return resolved
    stored = known_model(name).model
    return resolved._replace(model=stored) if stored.quantization else resolved
