"""Which points a calibration measures: grids by kernel family, fuller for the formats that most people run.

The sizes follow from studies on public operator tables: with 112 to 208 products per format the form and its
table predict unseen shapes as well as ten times as many do; what remains is which kernel the library picks.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from planner.calibration.cases import Case, Named, Widths, attention, experts, product, stream
from planner.calibration.kernels import problem as bundled
from planner.calibration.kernels.catalogue import KERNELS
from planner.calibration.kernels.latent import LATENT, ROPE
from planner.calibration.kernels.problem import DeviceLimits, Kernel
from planner.specs.run import AttentionShape, ExpertShape, GemmShape, Mode, StreamShape

Pairs = Sequence[tuple[int, int]]

ANCHOR = GemmShape(m=8192, n=8192, k=8192)
ANCHOR_EVERY = 50  # points between two measurements of the anchor
ANCHOR_QUICK = GemmShape(m=4096, n=4096, k=4096)
AMPERE, ADA, HOPPER = 80, 89, 90  # compute capabilities from which bf16, FP8 units exist

SIDES = (512, 2048, 6144, 16384)
SIDES_QUICK = (512, 3072, 16384)
TOKENS = {
    "torch.mm": (1, 4, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384),
    "torch.scaled-mm": (1, 16, 64, 128, 256, 512, 1024, 2048, 4096, 16384),
    "w4a16": (1, 4, 8, 16, 32, 64, 256, 1024, 4096),  # where weight-only kernels change their way of working
}
TOKENS_QUICK = (1, 16, 64, 256, 4096)
HEADS = tuple((n, k) for n in (32768, 131072) for k in (2048, 4096, 8192))
HEAD_TOKENS = (1, 64, 256)
FEW = ((2048, 2048), (6144, 4096), (4096, 14336), (57344, 8192))
WIDE = {"w4a16": (FEW[-1], (1, 4, 8, 16))}  # where starting and ending a kernel hardly count
FEW_TOKENS = (1, 8, 64, 1024)
FEW_QUICK, FEW_TOKENS_QUICK = FEW[1:3], (1, 16, 256)
SKINNY_MOST = 64  # tokens beyond which a bundled 16-bit kernel is no comparison to the library
INT_MM_TOKENS = (32, 64, 256, 1024, 4096)  # torch takes no fewer than 17

DECODE_SEQUENCES, DECODE_CONTEXTS = (1, 4, 16, 64, 256), (128, 512, 2048, 8192, 32768)
DECODE_QUICK = (1, 16, 64), (512, 2048, 8192)
FULL_DECODE = frozenset({"decode-bf16", "decode-fp8"})
GROUPS = ((32, 8), (8, 1), (8, 8))
LATENT_HEADS = (16, 128)  # of DeepSeek-V3 on eight GPUs and on one
LATENT_SEQUENCES, LATENT_CONTEXTS = (1, 16, 64), (512, 4096, 32768)
LATENT_QUICK = (1, 16), (512, 8192)
PREFILL_SEQUENCES, PREFILL_TOKENS = (1, 4, 16), (64, 256, 1024, 4096, 16384, 32768)
PREFILL_QUICK = (1, 4), (256, 1024, 4096)
PREFILL_GROUPS = ((4, 1), (8, 8), (32, 8))
CHUNKS = tuple(itertools.product((512, 2048), (8192, 32768, 131072)))  # new tokens on cached ones
HEAD_DIM, LATENT_DIM = 128, LATENT + ROPE
MOST_CACHE_BYTES, MOST_PROMPT_TOKENS = 8 * 2**30, 65536
CACHE_SHARE = 0.3  # of the device's memory that one attention point may fill

EXPERT_TOKENS, EXPERT_TOKENS_QUICK = (1, 2, 4, 8, 32, 128, 512, 4096), (1, 32, 512)
GEOMETRIES = ((4096, 14336, 8, 2), (2048, 768, 128, 8), (4096, 1536, 128, 8))  # hidden, inner, experts, active
STREAMS, STREAMS_QUICK = tuple(2**e for e in range(18, 33)), tuple(2**e for e in range(18, 33, 3))
ELEMENTWISE = tuple(2**e for e in range(12, 31, 2))
ELEMENTWISE_KERNELS = ("torch.add", "torch.rms-norm", "torch.silu-mul")
EAGER, EAGER_BYTES = "torch.eager-add", 4096  # an operation so small that the host takes longer than the GPU


class Ability(NamedTuple):
    """What decides which points make sense on a device."""

    limits: DeviceLimits
    total_bytes: int
    scaled_mm: bool
    int_mm: bool
    grouped_mm: bool = False
    library: bool = True  # torch is there; else the bundled kernels alone are measured

    @property
    def half(self) -> str:
        return "bf16" if self.limits.cc >= AMPERE else "fp16"


def _pairs(sides: Sequence[int]) -> Pairs:
    return tuple(itertools.product(sides, sides))


def _gemm_shapes(kernel: str, quick: bool) -> list[GemmShape]:
    """Full grid for 16 bit, FP8 and W4A16; a dozen points for every other format."""
    if kernel in TOKENS:
        pairs, tokens = (_pairs(SIDES_QUICK), TOKENS_QUICK) if quick else (_pairs(SIDES), TOKENS[kernel])
    else:
        pairs, tokens = (FEW_QUICK, FEW_TOKENS_QUICK) if quick else (FEW, FEW_TOKENS)
    found = [GemmShape(m=m, n=n, k=k) for (n, k), m in itertools.product(pairs, tokens)]
    if kernel in WIDE and not quick:
        (n, k), few = WIDE[kernel]
        found += [GemmShape(m=m, n=n, k=k) for m in few]
    return found


def _library_products(able: Ability, quick: bool) -> Iterator[Case]:
    name = Named("gemm-16", "torch.mm", able.half)
    yield from (product(name, shape) for shape in _gemm_shapes(name.kernel, quick))
    if not quick:
        heads = (GemmShape(m=m, n=n, k=k) for (n, k), m in itertools.product(HEADS, HEAD_TOKENS))
        yield from (product(name, shape) for shape in heads)
    if able.scaled_mm:
        name = Named("gemm-fp8", "torch.scaled-mm", "fp8")
        yield from (product(name, shape, Widths(1.0, 1.0)) for shape in _gemm_shapes(name.kernel, quick))
    if able.int_mm:
        name = Named("gemm-int8", "torch.int-mm", "int8")
        tokens = INT_MM_TOKENS[1::2] if quick else INT_MM_TOKENS
        shapes = [GemmShape(m=m, n=n, k=k) for (n, k), m in itertools.product(FEW_QUICK if quick else FEW, tokens)]
        yield from (product(name, shape, Widths(1.0, 1.0, 4.0)) for shape in shapes)


def _prefill(able: Ability, quick: bool) -> Iterator[Case]:
    name = Named("attention-prefill-16", "torch.sdpa", able.half)
    sequences, lengths = PREFILL_QUICK if quick else (PREFILL_SEQUENCES, PREFILL_TOKENS)
    points = [(b, s, 0) for b, s in itertools.product(sequences, lengths)]
    points += [] if quick else [(1, new, cached) for new, cached in CHUNKS]
    for (b, new, cached), (queries, keys) in itertools.product(points, PREFILL_GROUPS):
        if cached or b * new <= MOST_PROMPT_TOKENS:
            shape = AttentionShape(
                sequences=b, new=new, cached=cached, query_heads=queries, kv_heads=keys, head_dim=HEAD_DIM
            )
            yield attention(name, shape)


def _elementwise(able: Ability, quick: bool) -> Iterator[Case]:
    for kernel in ELEMENTWISE_KERNELS[: 1 if quick else None]:
        passes = 3 if kernel != "torch.rms-norm" else 2  # two arrays in and one out, or one in and one out
        for size in ELEMENTWISE[:: 2 if quick else 1]:
            yield stream(Named("elementwise", kernel, able.half), size, passes)


def _grouped(able: Ability, quick: bool) -> Iterator[Case]:
    """Experts in torch's grouped product, a family of its own: the bundled kernels are those that validate runs."""
    if able.grouped_mm:
        name = Named("moe-grouped-16", "torch.grouped-mm", able.half)
        yield from (experts(name, shape) for shape in _expert_shapes(quick))


def _eager(able: Ability) -> Case:
    """Starting an operation from the host, beside the launch that a graph replays; it counts as moving nothing."""
    return Case("launch", EAGER, able.half, StreamShape(size_bytes=EAGER_BYTES), 0.0, 0.0, 0.0)


# Bundled kernels: the catalogue says which shapes they take, and what these need.


def _decode_shapes(able: Ability, quick: bool, few: bool) -> Iterator[AttentionShape]:
    sequences, contexts = DECODE_QUICK if quick else (DECODE_SEQUENCES, DECODE_CONTEXTS)
    most = min(MOST_CACHE_BYTES, CACHE_SHARE * able.total_bytes)
    for b, context, (queries, keys) in itertools.product(sequences, contexts, GROUPS[:1] if few else GROUPS):
        if b * context * 2 * keys * HEAD_DIM * 2 <= most:
            yield AttentionShape(
                sequences=b, new=1, cached=context, query_heads=queries, kv_heads=keys, head_dim=HEAD_DIM
            )


def _latent_shapes(able: Ability, quick: bool) -> Iterator[AttentionShape]:
    """One latent of keys and values for all heads: as grouped heads with a single cached one, as wide as the latent."""
    sequences, contexts = LATENT_QUICK if quick else (LATENT_SEQUENCES, LATENT_CONTEXTS)
    for heads, b, context in itertools.product(LATENT_HEADS[quick:], sequences, contexts):
        if b * context * LATENT_DIM * 2 <= CACHE_SHARE * able.total_bytes:
            yield AttentionShape(sequences=b, new=1, cached=context, query_heads=heads, kv_heads=1, head_dim=LATENT_DIM)


def _expert_shapes(quick: bool) -> Iterator[ExpertShape]:
    tokens = EXPERT_TOKENS_QUICK if quick else EXPERT_TOKENS
    for (hidden, inner, count, active), rows in itertools.product(GEOMETRIES[1:2] if quick else GEOMETRIES, tokens):
        yield ExpertShape(tokens=rows, hidden=hidden, inner=inner, experts=count, active=active)


def grouped_parts(shape: ExpertShape) -> tuple[bundled.Grouped, bundled.Grouped]:
    """The two launches of a block of experts: gate and up together, then down."""
    common = (shape.experts, shape.active)
    up = bundled.Grouped(shape.tokens, 2 * shape.inner, shape.hidden, *common)
    return up, bundled.Grouped(shape.tokens, shape.hidden, shape.inner, *common)


def as_bundled(shape: GemmShape | AttentionShape) -> bundled.Gemm | bundled.Decode | bundled.Latent:
    """A run's shape as the kernels' own."""
    if isinstance(shape, GemmShape):
        return bundled.Gemm(shape.m, shape.n, shape.k)
    if shape.head_dim == LATENT_DIM:
        return bundled.Latent(shape.sequences, shape.cached, shape.query_heads)
    return bundled.Decode(shape.sequences, shape.cached, shape.query_heads, shape.kv_heads, shape.head_dim)


def _problem_case(kernel: Kernel, shape: GemmShape | AttentionShape, able: Ability) -> Case | None:
    """A case with the kernel's own bytes and FLOPs; None when it does not take the shape here."""
    asked = as_bundled(shape)
    choices = kernel.choices(asked, able.limits)
    if not choices:
        return None
    found = kernel.problem(choices[0], asked)
    return Case(
        kernel.family, kernel.name, kernel.name, shape, float(found.size_bytes), float(found.flops), found.cold_bytes
    )


def _expert_case(kernel: Kernel, shape: ExpertShape, able: Ability) -> Case | None:
    parts = grouped_parts(shape)
    choices = [kernel.choices(part, able.limits) for part in parts]
    if not all(choices):
        return None
    held = [kernel.problem(found[0], part).cold_bytes for found, part in zip(choices, parts, strict=True)]
    width = sum(held) / (3.0 * shape.hidden * shape.inner * shape.experts)
    return experts(Named(kernel.family, kernel.name, kernel.name), shape, Widths(width))


def _bundled(kernel: Kernel, able: Ability, quick: bool) -> Iterator[Case | None]:
    name = Named(kernel.family, kernel.name, kernel.name)
    if kernel.shape is bundled.Gemm:
        skinny = kernel.family == "gemm-16" and not kernel.name.startswith("mma")
        shapes = [shape for shape in _gemm_shapes(kernel.name, quick) if not skinny or shape.m <= SKINNY_MOST]
        yield from (_problem_case(kernel, shape, able) for shape in shapes)
    elif kernel.shape is bundled.Decode:
        few = kernel.name not in FULL_DECODE
        yield from (_problem_case(kernel, shape, able) for shape in _decode_shapes(able, quick, few))
    elif kernel.shape is bundled.Latent:
        yield from (_problem_case(kernel, shape, able) for shape in _latent_shapes(able, quick))
    elif kernel.shape is bundled.Grouped:
        yield from (_expert_case(kernel, shape, able) for shape in _expert_shapes(quick))
    elif kernel.shape is bundled.Stream and able.limits.cc >= kernel.min_cc:
        sizes = [size for size in (STREAMS_QUICK if quick else STREAMS) if size <= able.total_bytes / 8]
        yield from (stream(name, size, 2 if kernel.family == "copy" else 1) for size in sizes)
    elif kernel.shape is bundled.Nothing and able.limits.cc >= kernel.min_cc:
        yield stream(name, 0)


def cases(able: Ability, mode: Mode = Mode.FULL, kernels: Iterable[Kernel] = KERNELS) -> list[Case]:
    """Every point of the suite on this device, each once."""
    quick = mode is Mode.QUICK
    found: list[Case | None] = []
    if able.library:
        found += [*_library_products(able, quick), *_prefill(able, quick), *_elementwise(able, quick)]
        found += [*_grouped(able, quick), _eager(able)]
    for kernel in kernels:
        found += _bundled(kernel, able, quick)
    return list({case.key: case for case in found if case is not None}.values())


def anchor(able: Ability, mode: Mode) -> Case:
    """The product that is measured again and again."""
    shape = ANCHOR_QUICK if mode is Mode.QUICK else ANCHOR
    kernel = "torch.mm" if able.library else f"mma-{able.half}"
    return product(Named("gemm-16", kernel, able.half), shape)._replace(anchor=True)


def ordered(found: Sequence[Case], repeated: Case, seed: int) -> list[Case]:
    """Random order, so that no family meets one temperature only; the anchor first, last and every ANCHOR_EVERY."""
    shuffled = list(found)
    random.Random(seed).shuffle(shuffled)
    order: list[Case] = []
    for start in range(0, len(shuffled), ANCHOR_EVERY):
        order += [repeated, *shuffled[start : start + ANCHOR_EVERY]]
    return [*order, repeated]
