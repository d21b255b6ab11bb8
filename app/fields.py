"""Which scenario columns the page asks for, in which fold, and in which words."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from planner.specs.base import Spec
from planner.specs.scenario import Scenario


class Field(NamedTuple):
    """A column with its label; `step` is that of the input (whole numbers when it is one)."""

    column: str
    label: str
    step: float | int | None = None  # None: not a number
    blank: str = "default"  # what a number left empty says


class Fold(NamedTuple):
    """A folded part of the side bar."""

    title: str
    fields: tuple[Field, ...]
    engines: tuple[str, ...] = ()  # not empty: for these engines only
    of_load: bool = False  # says something of the load or its objectives, not of the deployment


HOST_MEMORY = Field("host_memory_gib", "Memory of the computer, GiB", 16.0, "not used")
MAIN = (
    "model",
    "gpu",
    "n_gpus",
    "engine",
    "weight_format",
    "kv_format",
    "concurrency",
    "input_tokens",
    "output_tokens",
)
FOLDS = (
    Fold(
        "Engine settings",
        (
            Field("engine_version", "Engine version", blank="newest known"),
            Field("tp", "Tensor parallel (tp)", 1),
            Field("pp", "Pipeline stages (pp)", 1),
            Field("ep", "Expert parallel (ep)", 1),
            Field("attention_dp", "Attention data parallel", 1),
            Field("dp", "Replicas (dp)", 1),
            Field("gpu_memory_utilization", "Memory fraction", 0.01),
            Field("max_model_len", "Longest sequence, tokens", 1024),
            Field("max_num_seqs", "Most sequences at once", 16),
            Field("max_num_batched_tokens", "Most tokens per step", 1024),
            Field("block_size", "Tokens per KV block", 16),
            Field("enforce_eager", "Without CUDA graphs (eager)"),
            Field("prefix_caching", "Prefix caching"),
            Field("cpu_offload_gib", "Weights kept in host memory, GiB per GPU", 1.0),
            Field("max_loras", "LoRA adapters at once", 1),
            Field("lora_rank", "Largest rank of those adapters", 8),
        ),
    ),
    Fold(
        "llama.cpp settings",
        (
            Field("backend", "Back-end"),
            Field("n_gpu_layers", "Layers on the GPU", 1),
            Field("n_cpu_moe", "Layers whose experts stay on the host", 1),
            HOST_MEMORY,
            Field("host_bandwidth_gb_s", "Bandwidth of that memory, GB/s", 10.0),
            Field("host_link_gb_s", "Link to that memory, GB/s", 4.0),
            Field("parallel_slots", "Slots", 1),
            Field("n_ubatch", "Physical batch, tokens", 128),
            Field("flash_attention", "Flash attention"),
        ),
        ("llama.cpp",),
    ),
    Fold(
        "Card and price",
        (
            Field("reserved_gib", "Memory held by others, GiB", 0.5),
            Field("device_gib", "Card memory, GiB", 0.5),
            Field("copies_per_gpu", "Instances per GPU", 1),
            Field("gpus_per_node", "GPUs per node", 1),
            Field("usd_per_gpu_hour", "USD per GPU and hour", 0.1),
        ),
    ),
    Fold(
        "Objectives",
        (
            Field("ttft_slo_ms", "First token within, ms", 100.0, "none"),
            Field("tpot_slo_ms", "Each further token within, ms", 5.0, "none"),
            Field("e2e_slo_ms", "Whole answer within, ms", 1000.0, "none"),
            Field("slo_percentile", "For this percentage of requests", 1.0),
            Field("task_family", "Quality is judged by"),
        ),
        of_load=True,
    ),
    Fold(
        "Users, rates and shapes of load",
        (
            Field("users", "Users", 10, "none"),
            Field("think_time_s", "Think time, s", 5.0, "0: asks again at once"),
            Field("turns", "Turns of a conversation", 1, "1"),
            Field("request_rate_per_s", "Requests per second", 0.5, "none"),
            Field("peak_to_mean", "Busiest hour over mean", 0.5, "1"),
            Field("shared_prefix_tokens", "Shared prefix, tokens", 256, "none"),
            Field("cached_input_fraction", "Cached part of the prompt", 0.05, "0"),
            Field("input_tokens_p95", "95 % of prompts below, tokens", 500, "all alike"),
            Field("output_tokens_p95", "95 % of answers below, tokens", 100, "all alike"),
        ),
        of_load=True,
    ),
)
COLUMNS = MAIN + tuple(field.column for fold in FOLDS for field in fold.fields)


class InputLimits(NamedTuple):
    """Smallest and largest value of a numeric column, as an input takes them."""

    least: Any
    most: Any


@lru_cache(maxsize=128)
def limits(column: str, whole: bool, spec: type[Spec] = Scenario) -> InputLimits:
    """Limits of a column from its own definition; an open lower end is left a hair above."""
    schema = spec.model_json_schema()["properties"][column]
    part = next(item for item in schema["anyOf"] if item.get("type") != "null")
    least = part.get("minimum", part.get("exclusiveMinimum", 0))
    if "exclusiveMinimum" in part:
        least = least + (1 if whole else 1e-3)
    most = part.get("maximum", part.get("exclusiveMaximum"))
    if "exclusiveMaximum" in part:
        most = most - 1e-3
    return InputLimits(int(least), int(most)) if whole else InputLimits(float(least), float(most))


@lru_cache(maxsize=128)
def meaning(column: str, spec: type[Spec] = Scenario) -> str:
    """The contract's line for a column, for tooltips."""
    return f"{spec.model_fields[column].description}. Column: {column}"
