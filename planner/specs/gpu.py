"""An accelerator: what it can hold, move and compute. One YAML per profile in `hardware_profiles/`."""

from __future__ import annotations

from enum import StrEnum

from planner.specs.base import Name, Spec


class MathType(StrEnum):
    """Operand type of a matrix unit."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    FP8 = "fp8"
    INT8 = "int8"
    INT4 = "int4"
    FP4 = "fp4"


class Price(Spec):
    """An hourly price somebody published, an example and never a quotation."""

    usd_per_hour: float
    provider: str
    date: str
    source: str


class GpuSpec(Spec):
    """A GPU in SI units, as the formulas use it; sources live in its profile (`catalog.gpus`)."""

    id: Name
    name: str
    vendor: str
    arch: str  # generation: Volta, Turing, Ampere, Ada, Hopper, Blackwell, CDNA3, RDNA3, Apple ...
    compute_capability: float | None = None
    form_factor: str = ""
    memory_type: str
    label_bytes: float  # what the vendor prints on the box, GB = 1e9
    device_bytes: float  # what cudaMemGetInfo reports as total
    device_bytes_kind: str  # measured (a log) or derived (the rule of its memory type)
    bandwidth_bytes_per_s: float
    flops_per_s: dict[MathType, float]  # dense matrix rates; a type without units is absent
    sm_count: int | None = None
    l2_bytes: float | None = None
    link_bytes_per_s: float | None = None  # NVLink and the like, one direction; None: PCIe only
    pcie_bytes_per_s: float | None = None  # one direction
    tdp_w: float | None = None
    unified_memory: bool = False
    price: Price | None = None
    mig: str | None = None  # the slice, when this is one
