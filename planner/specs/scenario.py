"""A scenario: one deployment under one load. Its fields are the columns of docs/nomenclature.md; None means default.

`ge`/`le` are what any deployment could mean; a value outside them is a typing error, not a question.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from planner.specs.base import Spec

GpuCount = Annotated[int, Field(ge=1, le=65536)]
Tokens = Annotated[int, Field(ge=0, le=2**26)]
Number = Annotated[float, Field(ge=0, le=1e9)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Text = Annotated[str, Field(max_length=4096)]
Gib = Annotated[float, Field(ge=0, le=1e6)]


def says(meaning: str) -> Any:
    """A blank column and its line in the help and the schema."""
    return Field(default=None, description=meaning)


class Scenario(Spec):
    """One row of a CSV, one URL of the calculator, one set of CLI flags."""

    # who and what
    name: Text | None = says("a label of your own, repeated in the answer")
    model: Text | None = says("bundled id, one of its aliases, or a path (config.json, checkpoint folder)")
    weight_format: Text | None = says("how the weights are stored, see `planner formats`; blank: as the checkpoint")
    kv_format: Text | None = says("format of the KV cache, or a pair K/V such as q8_0/q4_0; blank: 16 bit")
    engine: Text | None = says(
        "vllm, sglang, tensorrt-llm, llama.cpp, transformers, mlx or none; blank: by format and GPU"
    )
    engine_version: Text | None = says("its version, such as 0.11.0; blank: the newest known")
    task: Literal["generate", "embed", "rerank"] | None = says(
        "generate, embed or rerank; blank: what the model is for"
    )
    # hardware
    gpu: Text | None = says("profile id, name as the driver reports it, MIG slice (h100-sxm:2g.20gb) or a profile file")
    n_gpus: GpuCount | None = says(
        "all GPUs = tp x pp x dp; given alone, the smallest tp that holds the load and replicas of it"
    )
    tp: GpuCount | None = says("GPUs of one tensor-parallel group")
    pp: GpuCount | None = says("pipeline stages")
    ep: GpuCount | None = says("how many of the tp GPUs the experts are divided over, the rest split each expert")
    attention_dp: GpuCount | None = says("attention replicas inside the tp group (a divisor of tp)")
    dp: GpuCount | None = says("independent replicas")
    gpus_per_node: GpuCount | None = says("GPUs that share a node; blank: 8")
    interconnect: Text | None = says("link between the GPUs of a node, where it is not the profile's")
    device_gib: Annotated[float, Field(gt=0, le=1e6)] | None = says(
        "memory that cudaMemGetInfo reports as total, GiB; blank: the profile's"
    )
    power_limit_w: Annotated[float, Field(gt=0, le=1e5)] | None = says("power limit set on the card, W")
    reserved_gib: Gib | None = says("memory that others hold on each card, GiB")
    copies_per_gpu: Annotated[int, Field(ge=1, le=64)] | None = says("instances that share one GPU")
    usd_per_gpu_hour: Annotated[float, Field(ge=0, le=1e5)] | None = says(
        "price of one GPU and hour; blank: the profile's dated example"
    )
    # engine
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] | None = says(
        "the engine's own memory fraction in its own meaning (vLLM: of the total, SGLang: of what was free)"
    )
    max_model_len: Annotated[int, Field(ge=1, le=2**26)] | None = says(
        "longest sequence that the engine must be able to hold, tokens; blank: the checkpoint's, not enforced"
    )
    max_num_seqs: Annotated[int, Field(ge=1, le=2**20)] | None = says(
        "most sequences that the engine runs at once (with attention_dp: each rank of vLLM, SGLang as a whole)"
    )
    max_num_batched_tokens: Annotated[int, Field(ge=1, le=2**26)] | None = says("most tokens of one forward pass")
    scheduler_recv_interval: Annotated[int, Field(ge=1, le=10**6)] | None = says(
        "SGLang: decode steps between looks at new requests; blank: 1"
    )
    block_size: Annotated[int, Field(ge=1, le=65536)] | None = says("tokens of one KV block")
    enforce_eager: bool | None = says("no CUDA graphs")
    max_cudagraph_capture_size: Annotated[int, Field(ge=1, le=2**20)] | None = says(
        "most tokens of a step that a CUDA graph replays; blank: the engine's own limit"
    )
    prefix_caching: bool | None = says("prompts' caches are kept for requests that start alike; blank: yes")
    cpu_offload_gib: Gib | None = says("weights kept in host memory, GiB per GPU")
    max_loras: Annotated[int, Field(ge=0, le=4096)] | None = says("LoRA adapters resident at once")
    lora_rank: Annotated[int, Field(ge=0, le=4096)] | None = says("largest rank of those adapters")
    draft_model: Text | None = says("model that drafts tokens for speculative decoding")
    speculative_tokens: Annotated[int, Field(ge=0, le=64)] | None = says("tokens drafted per step")
    acceptance_rate: Fraction | None = says("share of drafted tokens that are accepted, 0 to 1")
    backend: Literal["cuda", "rocm", "sycl", "metal", "vulkan"] | None = says(
        "llama.cpp: what it was built for; blank: the GPU vendor's own (cuda, rocm, sycl, metal)"
    )
    n_ubatch: Annotated[int, Field(ge=1, le=2**20)] | None = says("llama.cpp: tokens of one physical batch")
    flash_attention: bool | None = says("llama.cpp: fused attention kernels")
    n_gpu_layers: Annotated[int, Field(ge=0, le=4096)] | None = says("llama.cpp: layers on the GPU; blank: all")
    n_cpu_moe: Annotated[int, Field(ge=0, le=4096)] | None = says("llama.cpp: layers whose experts stay on the host")
    split_mode: Literal["none", "layer", "row"] | None = says(
        "llama.cpp: how several GPUs share a model: none, layer or row"
    )
    tensor_split: Text | None = says("llama.cpp: share of each GPU, such as 3,1")
    parallel_slots: Annotated[int, Field(ge=1, le=4096)] | None = says("llama.cpp: sequences served at once")
    host_memory_gib: Gib | None = says("memory of the host, GiB; layers or experts may lie there (llama.cpp)")
    host_bandwidth_gb_s: Annotated[float, Field(gt=0, le=1e5)] | None = says("memory bandwidth of the host, GB/s")
    host_link_gb_s: Annotated[float, Field(gt=0, le=1e5)] | None = says(
        "link over which a GPU gets weights from host memory, GB/s one way, such as 7.9 for four lanes of PCIe 4.0; "
        "blank: the profile's"
    )
    # load
    input_tokens: Tokens | None = says("mean prompt length, tokens; blank: 2000")
    output_tokens: Tokens | None = says("mean answer length, tokens; blank: 500")
    input_tokens_p95: Tokens | None = says("95th percentile of the prompt length, tokens")
    output_tokens_p95: Tokens | None = says("95th percentile of the answer length, tokens")
    concurrency: Annotated[int, Field(ge=1, le=10**7)] | None = says(
        "requests in flight at once; with a rate, the cap; blank: 1"
    )
    request_rate_per_s: Annotated[float, Field(gt=0, le=1e7)] | None = says(
        "requests that arrive per second, whole deployment"
    )
    waves: Annotated[float, Field(ge=0, le=1e6)] | None = says(
        "a load generator offers this many times the concurrency of requests, all at once; 0: a service that goes on; "
        "blank: 10 where a concurrency alone says the load, else 0"
    )
    run_requests: Annotated[int, Field(ge=1, le=10**7)] | None = says(
        "requests that a load generator sends at a rate before it waits for their ends; blank: a service that goes on"
    )
    shortest_fraction: Annotated[float, Field(ge=0.01, le=1)] | None = says(
        "lengths vary evenly between this part of the longest and the longest; 1: all equal; blank: not stated"
    )
    users: Annotated[int, Field(ge=1, le=10**9)] | None = says(
        "people using the service, each with think time between requests"
    )
    think_time_s: Number | None = says("seconds between an answer and the same user's next request")
    turns: Annotated[int, Field(ge=1, le=10**4)] | None = says(
        "requests of one conversation; each carries the history before it"
    )
    shared_prefix_tokens: Tokens | None = says("tokens that all prompts start with: one copy, saves memory and compute")
    cached_input_fraction: Fraction | None = says(
        "share of the prompt that is the request's own cached history: saves compute only"
    )
    images_per_request: Annotated[int, Field(ge=0, le=10**4)] | None = says(
        "images in one prompt; 0: vLLM is started for text alone; blank: none is sent"
    )
    image_pixels: Annotated[int, Field(ge=1, le=10**9)] | None = says("pixels of one image")
    peak_to_mean: Annotated[float, Field(ge=1, le=1000)] | None = says("busiest hour over the mean load; blank: 1")
    # wishes
    ttft_slo_ms: Annotated[float, Field(gt=0, le=1e9)] | None = says("objective: time to first token, ms")
    tpot_slo_ms: Annotated[float, Field(gt=0, le=1e9)] | None = says(
        "objective: time per output token after the first, ms"
    )
    e2e_slo_ms: Annotated[float, Field(gt=0, le=1e9)] | None = says("objective: time of a whole request, ms")
    slo_percentile: Annotated[float, Field(gt=0, lt=100)] | None = says(
        "percentile of requests that must meet the objectives; blank: 95"
    )
    task_family: Text | None = says("what the answers are judged by, for the quality evidence")

    def filled(self, values: Mapping[str, Any]) -> Scenario:
        """The scenario with these values in place of its own, as `model_copy(update=values)` makes it in five times as
        long; what its sender had set stays known.
        """
        made = object.__new__(type(self))
        object.__setattr__(made, "__dict__", {**self.__dict__, **values})
        object.__setattr__(made, "__pydantic_fields_set__", self.__pydantic_fields_set__)
        object.__setattr__(made, "__pydantic_extra__", None)
        object.__setattr__(made, "__pydantic_private__", None)
        return made
