"""An estimate in the words of the engine's own start-up log, so that both can be held side by side."""

from __future__ import annotations

from string import Formatter
from typing import NamedTuple

from planner.catalog import models
from planner.errors import PlannerError
from planner.estimate.columns import EstimateRow
from planner.explain.words import interval
from planner.units import MIB_PER_GIB

DEVICES = {"metal": "MTL0", "rocm": "ROCm0", "sycl": "SYCL0", "vulkan": "Vulkan0"}  # a back-end's first device
# The lines as engines of 2026 print them, with columns of an estimate in their places ("N": any number).
# llama.cpp prints a line for each device, in MiB; SGLang how far free memory fell while weights and libraries loaded.
LINES: dict[str, tuple[str, ...]] = {
    "vllm": (
        "Model loading took {weights_gib:.2f} GiB",
        "{activation_gib:.2f} GiB for peak activation",
        "{non_torch_gib:.2f} GiB for non-torch memory",
        "Graph capturing finished in N secs, took {cuda_graph_gib:.2f} GiB",
        "Available KV cache memory: {kv_pool_gib:.2f} GiB",
        "GPU KV cache size: {kv_pool_tokens:,} tokens",
        "Maximum concurrency for {max_model_len:,} tokens per request: {max_concurrency_at_max_model_len:.2f}x",
    ),
    "sglang": (
        "Load weight end. mem usage={loaded_gib:.2f} GB",
        "KV Cache is allocated. #tokens: {kv_pool_tokens}, KV size: {kv_pool_gib:.2f} GB",
        "Capture cuda graph end. mem usage={cuda_graph_gib:.2f} GB",
        "max_total_num_tokens={kv_pool_tokens}",
    ),
    "tensorrt-llm": (
        "Memory used after loading model weights (inside torch) in memory usage profiling: {weights_gib:.2f} GiB",
        "Memory dynamically allocated during inference (inside torch) in memory usage profiling: "
        "{activation_gib:.2f} GiB",
        "available KV cache memory when calculating max tokens: {kv_pool_gib:.2f} GiB",
        "Allocated {kv_pool_gib:.2f} GiB for max tokens in paged KV cache ({kv_pool_tokens})",
    ),
    "llama.cpp": (
        "{device} model buffer size = {weights_mib:.2f} MiB",
        "{device} KV buffer size = {kv_pool_mib:.2f} MiB",
        "{device} RS buffer size = {recurrent_state_mib:.2f} MiB",
        "{device} compute buffer size = {activation_mib:.2f} MiB",
    ),
}


class Printed(NamedTuple):
    """A line as the engine prints it with what is predicted, and the interval of its first figure."""

    text: str
    column: str
    span: str


def _with_length(row: EstimateRow) -> EstimateRow:
    """The row with the checkpoint's own longest sequence where none was given, as engines take it."""
    if row["max_model_len"] or row["max_concurrency_at_max_model_len"] is None:
        return dict(row)
    try:
        return row | {"max_model_len": models.resolve(row["model"]).model.max_position}
    except PlannerError:  # a model that its caller brought along
        return dict(row)


def log_lines(row: EstimateRow) -> list[Printed]:
    """The lines of the engine's log that state terms of this row; none for engines that print none."""
    values = _with_length(row)
    values |= {
        f"{name.removesuffix('_gib')}_mib": value * MIB_PER_GIB
        for name, value in row.items()
        if name.endswith("_gib") and value is not None
    }
    values["device"] = DEVICES.get(row["backend"], "CUDA0")
    values["loaded_gib"] = (row["weights_gib"] or 0.0) + (row["non_torch_gib"] or 0.0)
    found = []
    for line in LINES.get(row["engine"], ()):
        fields = [name for _, name, _, _ in Formatter().parse(line) if name]
        if all(values.get(name) for name in fields):
            term = next(name for name in fields if name not in ("max_model_len", "device"))
            term = term.replace("_mib", "_gib").replace("loaded", "weights")
            found.append(Printed(line.format(**values), term, interval(row, term)))
    return found
