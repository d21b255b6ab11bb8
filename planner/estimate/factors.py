"""Factors on the time of an engine's steps on a GPU, and what is known of that engine's kernels."""

from __future__ import annotations

from typing import Any, NamedTuple

LEARNED_ENGINES = ("vllm", "sglang", "tensorrt-llm", "llama.cpp")  # whose kernels' rates come from measured rows


class Refined(NamedTuple):
    """Factors on the time of a step, and how many observations they rest on; scalars of a row or arrays (R,)."""

    decode: Any = 1.0
    prefill: Any = 1.0
    observations: Any = 0


NOT_REFINED = Refined()


def engine_evidence(engine_id: str, refined: Refined = NOT_REFINED) -> str:
    """observed | transferred | assumed."""
    if refined.observations:
        return "observed"
    return "transferred" if engine_id in LEARNED_ENGINES else "assumed"
