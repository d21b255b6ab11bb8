"""Factors on the time of an engine's steps on a GPU, and what is known of that engine's kernels."""

from __future__ import annotations

from typing import Any, NamedTuple

LEARNED_ENGINES = ("vllm", "sglang", "tensorrt-llm", "llama.cpp")  # whose kernels' rates come from measured rows
EVERYWHERE = ("llama.cpp",)  # of these, on GPUs of every vendor; the servers' rows are NVIDIA's but for a few
SERVERS_VENDOR = "NVIDIA"


class Refined(NamedTuple):
    """Factors on the time of a step, and how many observations they rest on; scalars of a row or arrays (R,)."""

    decode: Any = 1.0
    prefill: Any = 1.0
    observations: Any = 0


NOT_REFINED = Refined()


def engine_evidence(engine_id: str, vendor: str, refined: Refined = NOT_REFINED) -> str:
    """observed | transferred | assumed."""
    if refined.observations:
        return "observed"
    known = engine_id in LEARNED_ENGINES and (engine_id in EVERYWHERE or vendor == SERVERS_VENDOR)
    return "transferred" if known else "assumed"
