"""A scenario: one deployment under one load. Its fields are the columns of CONTRACT; None means default.

`ge`/`le` are what any deployment could mean; a value outside them is a typing error, not a question.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from planner.specs.base import Spec

GpuCount = Annotated[int, Field(ge=1, le=65536)]
Tokens = Annotated[int, Field(ge=0, le=2**26)]
Number = Annotated[float, Field(ge=0, le=1e9)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Text = Annotated[str, Field(max_length=4096)]
Gib = Annotated[float, Field(ge=0, le=1e6)]


class Scenario(Spec):
    """One row of a CSV, one URL of the calculator, one set of CLI flags."""

    # who and what
    name: Text | None = None
    model: Text | None = None
    weight_format: Text | None = None
    kv_format: Text | None = None
    engine: Text | None = None
    engine_version: Text | None = None
    task: Literal["generate", "embed", "rerank"] | None = None
    # hardware
    gpu: Text | None = None
    n_gpus: GpuCount | None = None
    tp: GpuCount | None = None
    pp: GpuCount | None = None
    ep: GpuCount | None = None
    attention_dp: GpuCount | None = None
    dp: GpuCount | None = None
    gpus_per_node: GpuCount | None = None
    interconnect: Text | None = None
    device_gib: Annotated[float, Field(gt=0, le=1e6)] | None = None
    power_limit_w: Annotated[float, Field(gt=0, le=1e5)] | None = None
    reserved_gib: Gib | None = None
    copies_per_gpu: Annotated[int, Field(ge=1, le=64)] | None = None
    usd_per_gpu_hour: Annotated[float, Field(ge=0, le=1e5)] | None = None
    # engine
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] | None = None
    max_model_len: Annotated[int, Field(ge=1, le=2**26)] | None = None
    max_num_seqs: Annotated[int, Field(ge=1, le=2**20)] | None = None
    max_num_batched_tokens: Annotated[int, Field(ge=1, le=2**26)] | None = None
    block_size: Annotated[int, Field(ge=1, le=65536)] | None = None
    enforce_eager: bool | None = None
    cpu_offload_gib: Gib | None = None
    max_loras: Annotated[int, Field(ge=0, le=4096)] | None = None
    lora_rank: Annotated[int, Field(ge=0, le=4096)] | None = None
    draft_model: Text | None = None
    speculative_tokens: Annotated[int, Field(ge=0, le=64)] | None = None
    acceptance_rate: Fraction | None = None
    n_ubatch: Annotated[int, Field(ge=1, le=2**20)] | None = None
    flash_attention: bool | None = None
    n_gpu_layers: Annotated[int, Field(ge=0, le=4096)] | None = None
    n_cpu_moe: Annotated[int, Field(ge=0, le=4096)] | None = None
    split_mode: Literal["none", "layer", "row"] | None = None
    tensor_split: Text | None = None
    parallel_slots: Annotated[int, Field(ge=1, le=4096)] | None = None
    host_memory_gib: Gib | None = None
    host_bandwidth_gb_s: Annotated[float, Field(gt=0, le=1e5)] | None = None
    # load
    input_tokens: Tokens | None = None
    output_tokens: Tokens | None = None
    input_tokens_p95: Tokens | None = None
    output_tokens_p95: Tokens | None = None
    concurrency: Annotated[int, Field(ge=1, le=10**7)] | None = None
    request_rate_per_s: Annotated[float, Field(gt=0, le=1e7)] | None = None
    users: Annotated[int, Field(ge=1, le=10**9)] | None = None
    think_time_s: Number | None = None
    turns: Annotated[int, Field(ge=1, le=10**4)] | None = None
    shared_prefix_tokens: Tokens | None = None
    cached_input_fraction: Fraction | None = None
    images_per_request: Annotated[int, Field(ge=0, le=10**4)] | None = None
    image_pixels: Annotated[int, Field(ge=1, le=10**9)] | None = None
    peak_to_mean: Annotated[float, Field(ge=1, le=1000)] | None = None
    # wishes
    ttft_slo_ms: Annotated[float, Field(gt=0, le=1e9)] | None = None
    tpot_slo_ms: Annotated[float, Field(gt=0, le=1e9)] | None = None
    e2e_slo_ms: Annotated[float, Field(gt=0, le=1e9)] | None = None
    slo_percentile: Annotated[float, Field(gt=0, lt=100)] | None = None
    task_family: Text | None = None
