"""Which family of kernels multiplies a model's experts, where an engine chooses among several."""

from __future__ import annotations

from planner.catalog.kernel_families import PLAIN
from planner.specs.engine import EngineSpec
from planner.specs.formats import FormatSpec
from planner.specs.gpu import GpuSpec
from planner.specs.model import ModelSpec

HALF = f"moe-{PLAIN}"
# Triton's counterparts of the families whose figures on data-centre Blackwell are those of TensorRT-LLM's kernels.
TRITON = {HALF: "moe-triton-16", "moe-gemm-fp8": "moe-triton-fp8", "moe-gemm-fp8-block": "moe-triton-fp8-block"}
TYPES = {triton: family for family, triton in TRITON.items()}
ANY = "*"  # model_type of every config
MX4, QUANTIZED_MX4 = "moe-mx4", "moe-gemm-fp4"  # MXFP4 weights, inputs in 16 bit or MXFP4 too
PACKED = "moe-wo-4"  # any 4-bit weights, inputs in 16 bit


def experts_family(engine: EngineSpec, model: ModelSpec, gpu: GpuSpec, family: str) -> str:
    """The family of a model's experts, `family` by its format.

    MXFP4: with inputs in MXFP4 too, or in 16 bit, in a kernel of its own or in that of any packed weights. Others on
    data-centre Blackwell: their own where the engine runs TensorRT-LLM's kernels for the model, else Triton's.
    """
    if family == MX4:
        own = engine.expert_kernels
        quantizes = gpu.generation in own.mx4_inputs_on and model.model_type not in own.mx4_inputs_except
        packed = gpu.generation in own.mx4_packed_on and model.model_type not in own.mx4_packed_except
        return QUANTIZED_MX4 if quantizes else PACKED if packed else MX4
    if gpu.generation not in engine.expert_kernels.listed_on or _is_listed(engine, model, family == HALF):
        return family
    return TRITON.get(family, family)


def product_family(experts: str) -> str:
    """The family of plain products with the operand types of this family of experts, whichever kernel runs it."""
    return TYPES.get(experts, experts).removeprefix("moe-")


def routes_inside(engine: EngineSpec, model: ModelSpec, gpu: GpuSpec, weights: FormatSpec) -> bool:
    """Whether the kernel of the experts also chooses them, as TensorRT-LLM's does where SGLang calls it."""
    if gpu.generation not in engine.expert_kernels.listed_on:
        return False
    experts = model.has_experts
    return experts and _is_listed(engine, model, weights.kernel == PLAIN)


def _is_listed(engine: EngineSpec, model: ModelSpec, half: bool) -> bool:
    """Whether the engine's arguments name the model for TensorRT-LLM's experts, those in 16 bit apart."""
    own = engine.expert_kernels
    names = own.listed_half_types if half else own.listed_types
    return ANY in names or model.model_type in names
