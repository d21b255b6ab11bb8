"""A benchmark of a real engine: what was asked, what was measured, with which tool."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from planner.specs.base import Spec
from planner.specs.scenario import Scenario


class Tool(StrEnum):
    """Whose result file it is."""

    LLAMA_BENCH = "llama-bench"
    VLLM_SERVE = "vllm bench serve"
    VLLM_LATENCY = "vllm bench latency"
    VLLM_THROUGHPUT = "vllm bench throughput"
    SGLANG_SERVE = "sglang bench_serving"
    SGLANG_BATCH = "sglang bench_one_batch"
    GUIDELLM = "GuideLLM"
    AIPERF = "AIPerf"
    INFERENCEX = "InferenceX"


Figure = Literal[
    "tpot_ms",
    "ttft_ms",
    "e2e_ms",
    "output_tokens_per_s",
    "output_tokens_per_s_per_request",
    "prefill_tokens_per_s",
    "requests_per_s",
]
Measured = Annotated[float, Field(gt=0, le=1e12)]


class Observation(Spec):
    """One configuration under one load and its measured figures, by estimate column.

    Nothing else of a result file is kept: no host, path, address, key or prompt.
    """

    schema_version: Literal[1] = 1
    tool: Tool
    scenario: Scenario
    measured: Annotated[dict[Figure, Measured], Field(min_length=1)]
