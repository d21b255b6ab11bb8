"""Weight and KV formats: exact bytes per value, what they leave in 16 bit, which arithmetic they use."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from planner.specs.base import Name, Spec
from planner.specs.gpu import MathType
from planner.specs.model import Role

Positive = Annotated[float, Field(gt=0, le=64)]
Bits = Annotated[float, Field(ge=0, le=64)]
Span = Annotated[int, Field(ge=0, le=2**20)]
Block = Annotated[int, Field(ge=1, le=2**20)]


class Level(StrEnum):
    """How a GPU generation runs a format in an engine."""

    NATIVE = "native"  # matrix units take the format's own operands
    WEIGHT_ONLY = "weight_only"  # weights are stored packed, the arithmetic is 16 bit
    EMULATED = "emulated"  # unpacked to 16 bit before use: no memory saved while it runs
    UNSUPPORTED = "unsupported"
    UNKNOWN = "unknown"  # no source read; never a guess


class Support(NamedTuple):
    """Whether an engine runs a format on a GPU, why, and who says so."""

    level: Level
    reason: str
    source: str


class Packing(Spec):
    """Bytes of one [n, k] matrix: code bits per value, plus scales and zeros per group along k.

    bytes = n*k*bits/8 + groups*(scale_bits + zero_bits)/8 + n*row_bits/8 + k*column_bits/8 + tensor_bytes,
    groups = ceil(n/group_n) * ceil(k/group_k), a group of 0 spans the whole axis; with `flat` the groups of
    group_k values run through the flattened matrix. Each `nested_group` scales share nested_bits more.
    """

    bits: Positive
    group_n: Span = 1
    group_k: Span = 0
    flat: bool = False
    scale_bits: Bits = 0
    zero_bits: Bits = 0
    nested_group: Span = 0  # 0: scales are not quantized themselves
    nested_bits: Bits = 0
    row_bits: Bits = 0  # per output feature
    column_bits: Bits = 0  # per input feature (act-order index)
    tensor_bytes: Annotated[float, Field(ge=0)] = 0  # constants of a tensor


class MixedPacking(Spec):
    """Another format's packing, for checkpoints that hold some roles in it (`Quantization.mixed`)."""

    id: Name
    packing: Packing
    resident: Packing | None = None


class GgmlType(Spec):
    """A block type of ggml: `elements` values of one row in `block_bytes` bytes.

    A row whose length is no multiple of `elements` takes `fallback`.
    """

    id: Name
    elements: Block
    block_bytes: Block
    fallback: GgmlType | None = None


class MixRule(Spec):
    """One line of a GGUF file type: which tensors, in which layers of which models, take which block type."""

    tensors: tuple[Literal["v", "k", "q", "o", "up", "gate", "down", "expert"], ...]
    type: GgmlType
    layers: Literal["all", "first_2", "first_4", "first_16th", "first_8th", "middle", "more"] = "all"
    when: tuple[Literal["gqa_4", "gqa_below_4", "moe_4", "moe_below_4", "moe_8", "not_moe_8", "layers_80"], ...] = ()


class GgufMix(Spec):
    """A GGUF file type: the block type of each tensor, by the rules of llama-quantize; the first rule wins."""

    base: GgmlType
    output: GgmlType
    embedding: GgmlType  # of an untied embedding; a tied one takes `output`
    odd_output: GgmlType  # of an output whose rows `base` does not divide
    plain: GgmlType  # vectors, norms, routers
    half: GgmlType  # matrices that are never quantized
    rules: tuple[MixRule, ...] = ()


class FormatSpec(Spec):
    """A weight format: either one `packing` for the quantized roles, or a GGUF file type's mix."""

    id: Name
    name: str
    family: Literal["float", "fp8", "int8", "int4", "int3", "int2", "fp4", "nf4", "gguf", "mlx", "exl3", "mixed"]
    packing: Packing | None = None  # as stored in the checkpoint
    resident: Packing | None = None  # as the engine keeps it, where that differs (Marlin)
    pad_hidden: Block = 1  # kernels pad the experts' model width to this multiple when they load,
    pad_inner: Block = 1  # and their inner width to this one
    head: Packing | None = None  # of lm_head, where it is quantized otherwise than the rest
    gguf: GgufMix | None = None
    mixes: tuple[MixedPacking, ...] = ()  # what a checkpoint of this format may hold beside it
    quantized_roles: tuple[Role, ...] = ()
    quantizes_vectors: bool = False  # a mean over the whole file
    base_dtype: Literal["auto", "fp32"] = "auto"  # of everything that is not quantized; auto: two bytes
    weight_math: MathType | None = None  # operand type of the native kernel; None: weight-only, 16-bit maths
    kernel: Name  # kernel family that the time model prices: see `planner.roofline`
    weight_only_kernel: Name  # the family where the GPU or the engine has no native kernel
    other_names: tuple[str, ...] = ()
    source: str = ""
    note: str = ""


class KvFormatSpec(Spec):
    """A KV cache format: bytes per cached value, `head_bytes` per head and token (per-head scales)."""

    id: Name
    name: str = ""
    bytes_per_value: Positive
    head_bytes: Annotated[float, Field(ge=0)] = 0
    math: MathType | None = None
    other_names: tuple[str, ...] = ()
    source: str = ""
    note: str = ""
