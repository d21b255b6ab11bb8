"""Formats worth pricing when nobody names any."""

from __future__ import annotations

from planner.catalog import formats, gpus, models
from planner.estimate.defaults import usual_engine
from planner.specs.formats import Level
from planner.specs.gpu import GpuSpec
from planner.specs.model import ModelSpec

SEARCHED_IN_SERVERS = ("bf16", "fp8", "int8-w8a8", "awq-int4-g128", "nvfp4", "mxfp4")
FP4_FORMATS = ("nvfp4", "mxfp4")
FOUR_BIT = ("int4", "fp4", "nf4")  # families
GGUF_OF_MXFP4 = "gguf-mxfp4_moe"  # which keeps its blocks as they are
SEARCHED_IN = {
    "llama.cpp": ("gguf-f16 gguf-q8_0 gguf-q6_k gguf-q5_k_m gguf-q4_k_m gguf-iq4_xs".split()),
    "mlx": ["bf16", "mlx-8bit-g64", "mlx-4bit-g64"],
    "transformers": ["bf16", "bnb-int8", "bnb-nf4", "awq-int4-g128", "gptq-int4-g128"],
}


def default_formats(model_id: str, gpu_id: str, engine: str | None) -> tuple[str, ...]:
    """`usual_formats` by name; without an engine those of the GPU's usual one."""
    gpu = gpus.gpu(gpu_id)
    return usual_formats(models.model(model_id), engine or usual_engine(gpu), gpu)


def usual_formats(model: ModelSpec, engine: str, gpu: GpuSpec) -> tuple[str, ...]:
    """The checkpoint's own format, then what the engine and GPU run.

    A model that is released in 4 or 8 bit is not blown up to 16 again, nor is one of 4 bit turned into another 4.
    """
    if engine in SEARCHED_IN:
        packed = model.quantization is not None and model.quantization.weight_format == "mxfp4"
        return (GGUF_OF_MXFP4,) if packed and engine == "llama.cpp" else tuple(SEARCHED_IN[engine])
    own = (model.quantization.weight_format,) if model.quantization else ()
    if own and formats.weight_format(own[0]).family in FOUR_BIT:
        return tuple(name for name in own if _worth(name, True, engine, gpu))
    usual = own + tuple(name for name in SEARCHED_IN_SERVERS if name not in own and not (own and name == "bf16"))
    return tuple(name for name in usual if _worth(name, name in own, engine, gpu))


def _worth(name: str, own: bool, engine: str, gpu: GpuSpec) -> bool:
    """Whether the engine runs the format; 4-bit floats, which few publish, only where the GPU has units for them."""
    level = formats.support(formats.weight_format(name), engine, gpu).level
    if name in FP4_FORMATS and not own:
        return level is Level.NATIVE
    return level is not Level.UNSUPPORTED
