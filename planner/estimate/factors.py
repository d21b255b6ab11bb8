"""Factors on the time of an engine's steps on a GPU, and what is known of that engine's kernels."""

from __future__ import annotations

from typing import Any, NamedTuple

from planner.specs.engine import EngineSpec
from planner.specs.model import ModelSpec

LEARNED_ENGINES = ("vllm", "sglang", "tensorrt-llm", "llama.cpp")  # whose kernels' rates come from measured rows
EVERYWHERE = ("llama.cpp",)  # of these, on GPUs of every vendor; the servers' rows are NVIDIA's but for a few
SERVERS_VENDOR = "NVIDIA"


class Refined(NamedTuple):
    """Factors on the time of a step, and how many observations they rest on; scalars of a row or arrays (R,)."""

    decode: Any = 1.0
    prefill: Any = 1.0
    observations: Any = 0


NOT_REFINED = Refined()


def engine_evidence(engine: EngineSpec, model: ModelSpec, vendor: str, refined: Refined = NOT_REFINED) -> str:
    """observed | transferred | assumed: of an engine's kernels and overheads, with this model on GPUs of a vendor."""
    if refined.observations:
        return "observed"
    learned = engine.id in LEARNED_ENGINES and (engine.id in EVERYWHERE or vendor == SERVERS_VENDOR)
    early = model.has_latents and not engine.attention_kernels.latents_measured
    return "transferred" if learned and not early else "assumed"
