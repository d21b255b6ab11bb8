"""Formats worth pricing when nobody names any."""

from __future__ import annotations

from planner.catalog import formats, gpus, models
from planner.specs.formats import Level
from planner.specs.gpu import GpuSpec

SERVER_FORMATS = ("bf16", "fp8", "int8-w8a8", "awq-int4-g128", "nvfp4", "mxfp4")
FP4_FORMATS = ("nvfp4", "mxfp4")
LLAMA_CPP_FORMATS = ("gguf-f16", "gguf-q8_0", "gguf-q6_k", "gguf-q5_k_m", "gguf-q4_k_m", "gguf-iq4_xs", "gguf-q3_k_m")


def default_formats(model_id: str, gpu_id: str, engine: str | None) -> tuple[str, ...]:
    """Formats worth pricing when nobody names any: the checkpoint's own, then what the engine and GPU run.

    A model that is released in 4 or 8 bit is not blown up to 16 again.
    """
    gpu = gpus.gpu(gpu_id)
    if engine == "llama.cpp" or (engine is None and gpu.vendor == "Apple"):
        return LLAMA_CPP_FORMATS
    spec = models.model(model_id)
    own = (spec.quantization.weight_format,) if spec.quantization else ()
    usual = own + tuple(name for name in SERVER_FORMATS if name not in own and not (own and name == "bf16"))
    return tuple(name for name in usual if _worth(name, name in own, engine or "vllm", gpu))


def _worth(name: str, own: bool, engine: str, gpu: GpuSpec) -> bool:
    """Whether the engine runs the format; 4-bit floats, which few publish, only where the GPU has units for them."""
    level = formats.support(formats.weight_format(name), engine, gpu).level
    if name in FP4_FORMATS and not own:
        return level is Level.NATIVE
    return level is not Level.UNSUPPORTED
