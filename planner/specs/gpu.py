"""An accelerator: what it can hold, move and compute. One YAML per profile in `hardware_profiles/`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, field_validator

from planner.specs.base import Count, Kind, Name, Sourced, Spec

Note = Annotated[str, Field(max_length=1000)]
Names = Annotated[tuple[Name, ...], Field(max_length=64)]


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

    usd_per_hour: Annotated[float, Field(gt=0, le=1e5)]
    provider: Name
    date: Name
    source: Note


class GpuSpec(Spec):
    """A GPU in SI units, as the formulas use it; sources live in its profile (`catalog.gpus`)."""

    id: Name
    name: str
    vendor: str
    arch: str  # as the vendor calls it: Ampere, Hopper, Blackwell Ultra, CDNA3, RDNA3, M2 ...
    generation: str  # what efficiencies and kernel support are keyed by: see planner/data/generations.yaml
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
    link_gpus: int | None = None  # how many GPUs that link joins: 2 for a bridge; beyond them PCIe or the network
    link_apart: bool = False  # a bridge sold apart: counted only where a scenario says nvlink
    pcie_bytes_per_s: float | None = None  # one direction
    tdp_w: float | None = None
    unified_memory: bool = False
    inline_ecc: bool = False
    price: Price | None = None
    mig: str | None = None  # the slice, when this is one

    @property
    def runs_cuda(self) -> bool:
        """Whether engines run their CUDA builds on it: CUDA graphs, events between devices, NVIDIA's own kernels."""
        return self.vendor == "NVIDIA"

    @property
    def runs_rocm(self) -> bool:
        """Whether engines run their ROCm builds on it."""
        return self.vendor == "AMD"


class Quantity(Sourced):
    """A positive figure of a profile; a bare number in a user's file has the user as its source."""

    value: Annotated[float, Field(gt=0, le=1e7, strict=True)]
    source: Annotated[str, Field(min_length=1, max_length=500)]


class Conflict(Spec):
    """What another source says of a field, and why it was not taken."""

    field: Name
    value: Annotated[float, Field(ge=0, le=1e7)]
    source: Note
    note: Note = ""


class MigSlice(Spec):
    """One GPU instance profile, e.g. 2g.20gb: what its owner sees."""

    name: Name
    memory_slices: Annotated[int, Field(ge=1, le=8)]
    sm_count: Count
    device_gib: Annotated[float, Field(gt=0, le=1e5)] | None = None  # None: its share of the memory slices


class Mig(Spec):
    """How a GPU divides into instances."""

    source: Note
    memory_slices: Annotated[int, Field(ge=1, le=8)]
    slices: Annotated[tuple[MigSlice, ...], Field(min_length=1, max_length=16)]


class Profile(Spec):
    """An accelerator as its YAML says it: every figure with its source, in the unit that its key names.

    A user's own file needs `label_gb` or `device_gib`, `bandwidth_gb_per_s` and one rate; the rest may be absent.
    """

    id: Name = "custom"
    name: str = Field(default="", max_length=200)
    vendor: str = Field(default="", max_length=200)
    arch: str = Field(default="", max_length=200)
    generation: Name | None = None  # None: follows the compute capability or the architecture
    compute_capability: Annotated[float, Field(ge=1, le=100)] | None = None
    isa: str = Field(default="", max_length=200)  # compiler target where it is not a compute capability: gfx942
    form_factor: str = Field(default="", max_length=200)
    memory_type: str = Field(default="", max_length=200)
    inline_ecc: bool = False  # check bits live in the memory itself, as on data-centre GDDR6
    unified_memory: bool = False
    driver_names: Names = ()
    aliases: Names = ()

    label_gb: Quantity | None = None
    memory_options_gb: Annotated[tuple[Annotated[float, Field(gt=0, le=1e5)], ...], Field(max_length=32)] = ()
    device_gib: Quantity | None = None
    nvml_gib: Quantity | None = None  # what nvidia-smi prints as total
    bandwidth_gb_per_s: Quantity
    fp32_tflops: Quantity | None = None  # vector units
    fp16_tflops: Quantity | None = None  # matrix units from here on: dense, FP32 or INT32 accumulation
    bf16_tflops: Quantity | None = None
    fp8_tflops: Quantity | None = None
    int8_tops: Quantity | None = None
    int4_tops: Quantity | None = None
    fp4_tflops: Quantity | None = None
    sm_count: Quantity | None = None  # compute units on AMD, GPU cores on Apple, Xe cores on Intel
    l2_mib: Quantity | None = None
    link_gb_per_s: Quantity | None = None  # one direction, all links together
    link_gpus: Quantity | None = None
    link_apart: bool = False  # a bridge sold apart: counted only where a scenario says nvlink
    pcie_gb_per_s: Quantity | None = None  # one direction
    tdp_w: Quantity | None = None
    price: Price | None = None
    mig: Mig | None = None
    conflicts: Annotated[tuple[Conflict, ...], Field(max_length=64)] = ()
    notes: Annotated[tuple[Note, ...], Field(max_length=32)] = ()

    @field_validator("*", mode="before")
    @classmethod
    def _bare_number(cls, value: Any, info: Any) -> Any:
        """A bare number stands for {value: number} in a quantity's place."""
        if info.field_name in QUANTITIES and isinstance(value, int | float) and not isinstance(value, bool):
            return {"value": value, "source": "the user's profile", "kind": Kind.ASSUMED}
        return value


def uses_link(apart: bool, interconnect: str | None) -> bool:
    """Whether GPUs that have a link talk over it: unless told pcie; over a bridge sold apart only where told nvlink."""
    return interconnect == "nvlink" or (interconnect is None and not apart)


RATES = {
    MathType.FP32: "fp32_tflops",
    MathType.FP16: "fp16_tflops",
    MathType.BF16: "bf16_tflops",
    MathType.FP8: "fp8_tflops",
    MathType.INT8: "int8_tops",
    MathType.INT4: "int4_tops",
    MathType.FP4: "fp4_tflops",
}
QUANTITIES = frozenset(
    ("label_gb", "device_gib", "nvml_gib", "bandwidth_gb_per_s", *RATES.values())
    + ("sm_count", "l2_mib", "link_gb_per_s", "link_gpus", "pcie_gb_per_s", "tdp_w")
)
