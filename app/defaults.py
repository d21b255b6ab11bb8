"""What a page starts with: by class of GPU, because nobody serves a laptop as one serves a data centre."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple

from planner.catalog import engines, formats, gpus, models
from planner.catalog.support import support
from planner.estimate.defaults import default_kv_format
from planner.specs.formats import Level
from planner.specs.gpu import GpuSpec
from planner.specs.model import ModelSpec, Task
from planner.specs.scenario import Scenario

FIRST_MODEL = "meta-llama/Llama-3.3-70B-Instruct"
FIRST_GPU = "h100-sxm"
FIRST_GPUS = 2

SERVER_MEMORY = ("HBM", "NVL")  # what only accelerators of servers carry
SERVER_NAMES = ("L4", "L20", "L40", "A10", "A40", "T4", "RTX PRO 6000 Blackwell Server")


class GpuClass(StrEnum):
    """Who buys such a GPU, as far as defaults depend on it."""

    DESK = "desktop, workstation or Mac"
    NEW_SERVER = "Hopper, Ada or Blackwell server"
    AMPERE_SERVER = "Ampere or older server"
    OTHER_SERVER = "AMD or Intel server"


class Defaults(NamedTuple):
    """Engine, formats and load that are usual for a class of GPU."""

    engine: str
    weight_formats: tuple[str, ...]  # in order of preference
    concurrency: int
    input_tokens: int
    output_tokens: int


BY_CLASS = {
    GpuClass.DESK: Defaults("llama.cpp", ("gguf-q4_k_m",), 1, 7168, 1024),
    GpuClass.NEW_SERVER: Defaults("vllm", ("fp8", "awq-int4-g128", "bf16"), 32, 2000, 500),
    GpuClass.AMPERE_SERVER: Defaults("vllm", ("awq-int4-g128", "int8-w8a8", "bf16", "fp16"), 32, 2000, 500),
    GpuClass.OTHER_SERVER: Defaults("vllm", ("fp8", "bf16"), 32, 2000, 500),
}
LOAD = ("concurrency", "input_tokens", "output_tokens")

# What each engine is worth asking for, the usual first; what it cannot run on a GPU is left out there.
OFFERED_IN_SERVERS = tuple(
    "bf16 fp16 fp8 fp8-block128 mxfp8 int8-w8a8 int8-w8a16 awq-int4-g128 gptq-int4-g128 w4a16-g128 int4-g32 "
    "nvfp4 mxfp4 gptq-int3-g128 bnb-int8 bnb-nf4 hqq-4bit-g64 torchao-int4-g128".split()
)
OFFERED_IN = {
    "llama.cpp": tuple(
        "gguf-q4_k_m gguf-q4_k_s gguf-q5_k_m gguf-q6_k gguf-q8_0 gguf-f16 gguf-bf16 gguf-iq4_xs gguf-q3_k_m gguf-q2_k "
        "gguf-iq3_m gguf-iq2_m gguf-mxfp4_moe".split()
    ),
    "mlx": ("mlx-4bit-g64", "mlx-8bit-g64", "bf16", "fp16"),
    "transformers": ("bf16", "fp16", "bnb-nf4", "bnb-nf4-dq", "bnb-int8", "awq-int4-g128", "gptq-int4-g128"),
}
ELSEWHERE = {  # what people ask for by name, and the engine that runs it
    "vllm": ("awq-int4-g128", "gptq-int4-g128", "fp8"),
    "llama.cpp": ("gguf-q4_k_m", "gguf-q8_0"),
    "mlx": ("mlx-4bit-g64", "mlx-8bit-g64"),
}
KV_FORMATS = {"llama.cpp": ("fp16", "q8_0", "q5_1", "q4_0", "iq4_nl", "q8_0/q4_0")}
SERVER_KV_FORMATS = ("bf16", "fp16", "fp8", "int8", "nvfp4")


def gpu_class(gpu: GpuSpec) -> GpuClass:
    """Class of a GPU by its memory, its maker and, for cards that look alike, its name."""
    server = gpu.memory_type.startswith(SERVER_MEMORY) or gpu.name.removeprefix("Tesla ").startswith(SERVER_NAMES)
    if gpu.unified_memory or not server:
        return GpuClass.DESK
    if gpu.vendor != "NVIDIA":
        return GpuClass.OTHER_SERVER
    return GpuClass.AMPERE_SERVER if (gpu.compute_capability or 9) < 8.9 else GpuClass.NEW_SERVER


def level(weight_format: str, engine: str, gpu: GpuSpec) -> Level:
    """How the engine runs the format on this GPU."""
    return support(formats.weight_format(weight_format), engine, gpu).level


def default_format(own: str | None, engine: str, gpu: GpuSpec) -> str:
    """The checkpoint's own quantization where the engine runs it, else the usual format of engine and GPU."""
    if own and level(own, engine, gpu) is not Level.UNSUPPORTED:
        return own
    usual = BY_CLASS[gpu_class(gpu)]
    wanted = usual.weight_formats if engine == usual.engine else ()
    runs = (name for name in wanted + format_choices(engine) if level(name, engine, gpu) is not Level.UNSUPPORTED)
    return next(runs, "bf16")


def format_choices(engine: str) -> tuple[str, ...]:
    """Weight formats worth offering for an engine."""
    return OFFERED_IN.get(engine, OFFERED_IN_SERVERS)


def offered_formats(engine: str, gpu: GpuSpec, own: str | None) -> tuple[str, ...]:
    """Formats that the engine runs on this GPU, the checkpoint's own first."""
    names = ((own,) if own else ()) + tuple(name for name in format_choices(engine) if name != own)
    return tuple(name for name in names if level(name, engine, gpu) is not Level.UNSUPPORTED)


def elsewhere(engine: str, gpu: GpuSpec) -> dict[str, str]:
    """Common formats that this engine is not offered with, each with another that runs it on this GPU."""
    return {
        name: other
        for other, names in ELSEWHERE.items()
        for name in names
        if name not in format_choices(engine) and level(name, other, gpu) not in (Level.UNSUPPORTED, Level.UNKNOWN)
    }


def kv_choices(engine: str) -> tuple[str, ...]:
    """KV formats worth offering for an engine."""
    return KV_FORMATS.get(engine, SERVER_KV_FORMATS)


def kv_default(model: ModelSpec, weight_format: str, engine: str, gpu: GpuSpec) -> str:
    """As the planner fills the blank."""
    return default_kv_format(model, formats.weight_format(weight_format), engines.engine(engine), gpu)


def usual(model: ModelSpec, own: str | None, gpu: GpuSpec, engine: str | None = None) -> dict[str, Any]:
    """Columns of the scenario that is usual for this model on this class of GPU, in `engine` when it is given."""
    found = BY_CLASS[gpu_class(gpu)]
    runs = engine or found.engine
    weights = default_format(own, runs, gpu)
    generates = model.task is Task.GENERATE
    return {
        "engine": runs,
        "weight_format": weights,
        "kv_format": kv_default(model, weights, runs, gpu),
        "concurrency": found.concurrency,
        "input_tokens": found.input_tokens if generates else min(found.input_tokens, model.max_position),
        "output_tokens": found.output_tokens if generates else 0,
    }


def first_scenario() -> Scenario:
    """What a newcomer sees."""
    where: dict[str, Any] = {"model": FIRST_MODEL, "gpu": FIRST_GPU, "n_gpus": FIRST_GPUS}
    return Scenario(**(where | usual(models.model(FIRST_MODEL), None, gpus.gpu(FIRST_GPU))))
