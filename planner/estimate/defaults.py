"""What a blank column means: the format, engine, lengths and load that most people would expect."""

from __future__ import annotations

from typing import Any

from planner.catalog import engines, formats
from planner.catalog import support as supports
from planner.specs.engine import EngineSpec
from planner.specs.formats import FormatSpec, Level
from planner.specs.gpu import GpuSpec
from planner.specs.model import ModelSpec, Task
from planner.specs.scenario import Scenario

GENERATOR_WAVES = 10.0  # requests over concurrency that load generators offer by custom
DEFAULT_INPUT_TOKENS = 2000
DEFAULT_OUTPUT_TOKENS = 500


def own_format(model: ModelSpec) -> str:
    """The weight format of the checkpoint as published."""
    return model.quantization.weight_format if model.quantization else model.dtype


def loaded_format(own: str, model: ModelSpec, engine: EngineSpec) -> str:
    """The format in which an engine loads a checkpoint of format `own` by default: servers load fp32 as 16 bit.

    Ref: vLLM's dtype auto takes fp16 for pooling models and bf16 for others; both have the same bytes.
    """
    if own != "fp32" or engine.id not in engines.SERVERS:
        return own
    return "bf16" if model.task == Task.GENERATE else "fp16"


def usual_engine(gpu: GpuSpec) -> str:
    """The engine that most would start on this GPU: vLLM, which Apple's GPUs do not have."""
    return "llama.cpp" if gpu.vendor == "Apple" else "vllm"


def default_engine(weights: FormatSpec, gpu: GpuSpec) -> str:
    """The engine of a scenario that names none: the one that the weight format belongs to, else the GPU's usual one."""
    return {"mlx": "mlx", "gguf": "llama.cpp"}.get(weights.family) or usual_engine(gpu)


def default_kv_format(model: ModelSpec, weights: FormatSpec, engine: EngineSpec, gpu: GpuSpec) -> str:
    """The KV format of a scenario that states none: FP8 where the checkpoint, the weight format or the engine asks for
    it and the engine supports it, else 16 bit. Engines ask for it where latents are picked or pooled.
    """
    checkpoint, rules = model.quantization.kv_format if model.quantization else None, engine.cache
    picked = model.picks_latents and gpu.generation in rules.fp8_picked_on
    pooled = model.pools_latents and rules.fp8_pooled
    own = checkpoint or ("fp8" if picked or pooled or weights.id in rules.fp8_kv_with else None)
    if own and all(
        supports.support(one, engine.id, gpu).level is not Level.UNSUPPORTED for one in formats.kv_format(own)
    ):
        return own
    return "fp16" if engine.id == "llama.cpp" or model.dtype == "fp16" else "bf16"


def default_load(scenario: Scenario, task: str, model: ModelSpec) -> dict[str, Any]:
    """Lengths and load of a scenario that leaves them blank; a model without a head generates nothing."""
    output = DEFAULT_OUTPUT_TOKENS if task == Task.GENERATE else 0
    output = output if scenario.output_tokens is None else scenario.output_tokens
    filled: dict[str, Any] = {
        "input_tokens": DEFAULT_INPUT_TOKENS if scenario.input_tokens is None else scenario.input_tokens,
        "output_tokens": output if model.lm_head else 0,
    }
    service = scenario.request_rate_per_s is not None or scenario.users is not None
    if scenario.concurrency is None and not service:
        filled["concurrency"] = 1
    if scenario.waves is None:
        filled["waves"] = 0.0 if service else GENERATOR_WAVES
    return filled
