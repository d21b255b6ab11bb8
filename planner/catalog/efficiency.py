"""What kernels attain of the datasheet, by generation, engine and family: planner/data/efficiency.yaml."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from planner.catalog.files import read_yaml
from planner.catalog.paths import data_dir
from planner.identity import Same
from planner.specs.base import Kind, Spec
from planner.specs.gpu import GpuSpec, MathType

MICRO, NANO = 1e-6, 1e-9
K_STEP = 1024.0  # input features that `k_ns` counts
GENERAL_PROMPTS = "attention-prefill-general"  # family of the kernel that takes heads of any width


class Figures(Spec):
    """What one kernel family attains on one generation, as fractions of the datasheet."""

    t0_us: Annotated[float, Field(ge=0, le=1e5)]  # launch and tail
    k_ns: Annotated[float, Field(ge=0, le=1e5)] = 0  # per K_STEP input features
    memory: Annotated[float, Field(gt=0, le=1)]  # of the bandwidth
    math: Annotated[float, Field(gt=0, le=1.2)]  # of the dense rate of the family's operands
    p: Annotated[float, Field(ge=0.3, le=10)] = 1  # sharpness of the turn from memory to arithmetic
    of: MathType | None = None  # what `math` is a fraction of, where it is not the family's operand type
    k0: Annotated[float, Field(ge=0, le=1e4)] = 0  # inner length at which half of the arithmetic is start-up
    quantize: Annotated[float, Field(ge=0, le=8)] = 0  # bytes moved per input value to quantize it first
    few: Annotated[float, Field(ge=0, le=256)] = 0  # rows per matrix up to which a kernel of vectors runs ...
    few_math: Annotated[float, Field(gt=0, le=1.2)] = 1  # ... and what that attains of the dense rate
    tile: Annotated[float, Field(ge=1, le=256)] = 1  # rows in which the other kernel does its arithmetic
    spare: Annotated[float, Field(ge=1, le=16)] = 1  # most waste of half-empty tiles, times what they hold
    windowed: Annotated[float, Field(ge=0, le=16)] = 1  # FLOPs of a pair inside a window, in those without one ...
    masked: Annotated[float, Field(ge=0, le=16)] = 0  # ... and of a pair behind it
    kind: Kind = Kind.ASSUMED
    source: str = "guess"


class KernelRate(NamedTuple):
    """The fields of `roofline.Rates` for one slot of one scenario."""

    t0_s: float
    k_s: float
    bytes_per_s: float
    flops_per_s: float
    p: float
    k0: float = 0.0
    quantize_bytes: float = 0.0
    latency_s: float = 0.0
    few_rows: float = 0.0
    few_flops_per_s: float = 1.0
    tile_rows: float = 1.0
    tile_spare: float = 1.0


class SourcedRate(NamedTuple):
    """A rate, how it is known, and who says so."""

    rate: KernelRate
    kind: Kind
    source: str


@lru_cache(maxsize=1)
def efficiency() -> dict[str, Any]:
    """What kernels attain, as `efficiency.yaml` has it: by generation, engine and family, with the sources."""
    return dict(read_yaml(data_dir() / "efficiency.yaml"))


def family_ids() -> tuple[str, ...]:
    """Kernel families that can be priced."""
    data = efficiency()
    return tuple({**data["generations"]["custom"], **data["substitutes"]})


def _engine_places(names: Sequence[str], engine_id: str) -> Iterator[dict[str, Any]]:
    """Figures of a back-end (`llama.cpp/vulkan`) come before those of its engine."""
    for built in dict.fromkeys((engine_id, engine_id.partition("/")[0])):
        kernels = efficiency()["engines"].get(built, {})
        for name in (*names, "default"):
            while name in kernels:
                yield kernels[name]
                name = kernels[name].get("like", "")


def _generation_places(name: str) -> Iterator[dict[str, Any]]:
    generations = efficiency()["generations"]
    while name:
        yield generations.get(name, {"like": "custom"})
        name = generations.get(name, {"like": "custom"}).get("like", "")


@lru_cache(maxsize=8192)
def figures(generation: str, geforce: bool, engine_id: str, family: str) -> Figures:
    """What `family` attains on a generation in an engine; inherited or substituted figures are assumed."""
    half = f"{generation}-geforce"
    names = [half, generation] if geforce and half in efficiency()["generations"] else [generation]
    while True:
        for place in _engine_places(names, engine_id):
            if family in place:
                return Figures(**place[family])
        for depth, place in enumerate(_generation_places(names[0])):
            if family in place:
                found = Figures(**place[family])
                return found if depth == 0 else found.model_copy(update={"kind": Kind.ASSUMED})
        family = efficiency()["substitutes"][family]


def _peak(gpu: GpuSpec, math_type: str) -> tuple[float, bool]:
    """Dense rate of an operand type, and whether the profile states it; else derived from one that it states."""
    known: Mapping[Any, float] = gpu.flops_per_s
    if math_type in known:
        return known[math_type], True
    for other, factor in efficiency()["rate_rules"][math_type]:
        if other in known:
            return known[other] * factor, False
    return gpu.bandwidth_bytes_per_s * efficiency()["flops_per_byte"]["value"], False


def is_half_rate(gpu: GpuSpec) -> bool:
    """Whether the card's matrix units accumulate in FP32 at half their rate, as GeForce cards do."""
    known = gpu.flops_per_s
    matrix = known.get(MathType.BF16) or known.get(MathType.FP16)
    vector = known.get(MathType.FP32)
    return bool(matrix and vector and matrix < efficiency()["half_rate"]["ratio"] * vector)


def usable_bandwidth_bytes_per_s(gpu: GpuSpec) -> float:
    """The datasheet's bandwidth, less what a card of half the usual power does not use of it."""
    return float(gpu.bandwidth_bytes_per_s * efficiency()["low_power"].get(gpu.id, 1))


def peak_rates(gpu: GpuSpec, family: str) -> tuple[float, float]:
    """Datasheet bandwidth in bytes/s and dense rate in FLOP/s that bound a kernel family on a GPU."""
    return gpu.bandwidth_bytes_per_s, _peak(gpu, efficiency()["peaks"].get(family, efficiency()["other_peak"]))[0]


def window_costs(gpu: GpuSpec, engine_id: str) -> tuple[float, float]:
    """FLOPs that the general kernel takes for a pair inside a prompt's window and behind it, in those without one."""
    found = figures(gpu.generation, is_half_rate(gpu), engine_id, GENERAL_PROMPTS)
    return found.windowed, found.masked


class TileFigures(Spec):
    """`vector_tiles`: outputs of a product in FP32 that one multiprocessor computes before it is done, by rows."""

    lone: float  # of one row
    few: float  # of at most `few_rows`
    few_rows: float
    many: dict[str, float]  # of more, by generation
    kind: Kind
    source: str


@lru_cache(maxsize=1)
def vector_tiles() -> TileFigures:
    """Tiles of products that no matrix unit multiplies."""
    return TileFigures(**efficiency()["vector_tiles"])


def tiles_of_many(generation: str) -> float:
    """Outputs of a tile of more than a few rows on a generation."""
    many = vector_tiles().many
    return many.get(generation, many["default"])


def has_own_figures(gpu: GpuSpec, engine_id: str, family: str) -> bool:
    """Whether an engine runs this family with kernels of its own."""
    place = gpu.generation, is_half_rate(gpu)
    return figures(*place, engine_id, family) != figures(*place, "", family)


@lru_cache(maxsize=8192)
def sourced_rate(same: Same[GpuSpec], engine_id: str, family: str) -> SourcedRate:
    """The datasheet-level rate of one kernel family on a GPU in an engine; assumed where the profile states no peak."""
    gpu = same.value
    own = figures(gpu.generation, is_half_rate(gpu), engine_id, family)
    peak, stated = _peak(gpu, efficiency()["peaks"].get(family, efficiency()["other_peak"]))
    full, stated = _peak(gpu, own.of) if own.of else (peak, stated)
    checked = efficiency()["inline_ecc"].get(engine_id.partition("/")[0], 1) if gpu.inline_ecc else 1
    rate = KernelRate(
        own.t0_us * MICRO,
        own.k_ns * NANO / K_STEP,
        own.memory * checked * usable_bandwidth_bytes_per_s(gpu),
        own.math * full,
        own.p,
        own.k0,
        own.quantize,
        few_rows=own.few,
        few_flops_per_s=own.few_math * peak,
        tile_rows=own.tile,
        tile_spare=own.spare,
    )
    kind = own.kind if stated else Kind.ASSUMED
    return SourcedRate(rate, kind, efficiency()["sources"].get(own.source, own.source))


def kernel_rate(gpu: GpuSpec, engine_id: str, family: str) -> KernelRate:
    """The same without its source."""
    return sourced_rate(Same(gpu), engine_id, family).rate
