"""Weight and KV formats: exact bytes per value, what they leave in 16 bit, which arithmetic they use."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from planner.specs.base import Name, Spec
from planner.specs.gpu import MathType
from planner.specs.model import Role

Positive = Annotated[float, Field(gt=0, le=64)]


class Packing(Spec):
    """Bytes of one [n, k] matrix: code bits per value, plus scales and zeros per group along k.

    bytes = n*k*bits/8 + groups*(scale_bits + zero_bits)/8 + n*row_bits/8 + k*column_bits/8 + tensor_bytes,
    groups = ceil(n/group_n) * ceil(k/group_k); a group of 0 spans the whole axis.
    """

    bits: Positive
    group_n: Annotated[int, Field(ge=0)] = 1
    group_k: Annotated[int, Field(ge=0)] = 0
    scale_bits: float = 0
    zero_bits: float = 0
    row_bits: float = 0  # per output feature
    column_bits: float = 0  # per input feature (act-order index)
    tensor_bytes: float = 0  # constants of a tensor


class FormatSpec(Spec):
    """A weight format. `packing` None: a GGUF file type, whose tensors follow llama.cpp's mix."""

    id: Name
    name: str
    family: Literal["float", "fp8", "int8", "int4", "int3", "int2", "fp4", "gguf", "mlx", "exl3", "mixed"]
    packing: Packing | None = None  # as stored in the checkpoint
    resident: Packing | None = None  # as the engine keeps it, where that differs (Marlin)
    gguf_type: str | None = None
    quantized_roles: tuple[Role, ...] = ()
    base_dtype: Literal["bf16", "fp16", "fp32"] = "bf16"  # of everything that is not quantized
    weight_math: MathType | None = None  # operand type of the native kernel; None: weight-only, 16-bit maths
    kernel: Name  # kernel family that the time model prices: see `planner.roofline`
    native_cc: Annotated[float, Field(ge=0)] = 0.0  # compute capability from which it runs natively
    other_names: tuple[str, ...] = ()
    source: str = ""
    note: str = ""


class KvFormatSpec(Spec):
    """A KV cache format: bytes per cached value, `head_bytes` per head and token (per-head scales)."""

    id: Name
    bytes_per_value: Positive
    head_bytes: float = 0
    math: MathType | None = None
    source: str = ""
