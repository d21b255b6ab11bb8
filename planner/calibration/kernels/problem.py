"""What a bundled kernel is and what it computes: one description for the GPU, the emulator and the references.

    kernel  = kernel_named("w4a16")                        # planner.calibration.kernels.catalogue
    choice  = kernel.choices(Gemm(1, 4096, 4096), limits)[0]
    problem = kernel.problem(choice, Gemm(1, 4096, 4096))   # grid, operands, bytes, FLOPs, reference

A problem is launched as `entry<<<grid, tile.threads, tile.shared_bytes>>>(*arguments)`; strings among the
arguments name operands, the rest are scalars with the width that the kernel expects.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

TURING = 75  # compute capability; fp16 alone, and 64 KiB of shared memory
SPLITS_TRIED = 3

Array = NDArray[Any]
Fill = Callable[[np.random.Generator, int], Array]  # that many values of the operand's type


class Fixed:
    """A fill that is not random: page tables, offsets."""

    def __init__(self, values: Array) -> None:
        self.values = values

    def __call__(self, rng: np.random.Generator, count: int) -> Array:
        """The values themselves."""
        return self.values.ravel()


@dataclass(frozen=True)
class InBlocks:
    """Random values that mean something only in whole blocks of `unit`: quantized blocks with their scales."""

    unit: int
    make: Fill

    def __call__(self, rng: np.random.Generator, count: int) -> Array:
        """That many values, from the start of a block."""
        return self.make(rng, count)


class Nothing(NamedTuple):
    """An empty kernel."""


class Stream(NamedTuple):
    """One pass over an array; `size_bytes` is a multiple of 16."""

    size_bytes: int


class Gemm(NamedTuple):
    """Y[m, n] = X[m, k] W[n, k]^T."""

    m: int
    n: int
    k: int


class Grouped(NamedTuple):
    """`tokens` rows, each through `top_k` of `experts` matrices [n, k]; `counts`: rows per expert, even when empty."""

    tokens: int
    n: int
    k: int
    experts: int
    top_k: int
    counts: tuple[int, ...] = ()

    @property
    def rows(self) -> int:
        return self.tokens * self.top_k

    @property
    def counts_used(self) -> tuple[int, ...]:
        """As given, or as even as they can be, the same experts first."""
        whole, rest = divmod(self.rows, self.experts)
        return self.counts or tuple(whole + (expert < rest) for expert in range(self.experts))


class Decode(NamedTuple):
    """One query token for each of `seqs` sequences over `context` cached tokens."""

    seqs: int
    context: int
    q_heads: int
    kv_heads: int
    head_dim: int


class Latent(NamedTuple):
    """As Decode, over a latent cache that all `heads` share (MLA)."""

    seqs: int
    context: int
    heads: int


Shape = Nothing | Stream | Gemm | Grouped | Decode | Latent


class DeviceLimits(NamedTuple):
    """What a device allows and what tile choices depend on."""

    cc: int  # compute capability, 90 for 9.0
    multiprocessors: int
    shared_bytes: int  # per block, opt-in
    l2_bytes: int = 0


@dataclass(frozen=True)
class Tile:
    """One compiled variant of a kernel; `tile["STAGES"]` is a macro's value."""

    macros: tuple[tuple[str, int], ...]
    threads: int = 256
    shared_bytes: int = 0  # dynamic
    blocks: int = 1  # per multiprocessor, which the compiler allows registers for
    most_rows: int = 0  # tokens that one block serves; 0: any
    targets: tuple[int, ...] = ()  # compute capabilities it is for; empty: all

    @property
    def name(self) -> str:
        return "-".join(f"{key.lower()}{value}" for key, value in self.macros if key != "SHARED_BYTES") or "only"

    def __getitem__(self, macro: str) -> int:
        return dict(self.macros)[macro]


class Choice(NamedTuple):
    """How to run a kernel at a shape: which tile, and into how many parts each reduction is split."""

    tile: Tile
    splits: int = 1


def nearest_splits(possible: Iterable[int], blocks: int, wanted: float) -> tuple[int, ...]:
    """The SPLITS_TRIED of the `possible` numbers of parts that bring `blocks` nearest to as many as are wanted."""
    return tuple(sorted(possible, key=lambda parts: abs(math.log(blocks * parts / wanted)))[:SPLITS_TRIED])


class Role(StrEnum):
    """What an operand is to a measurement."""

    COLD = "cold"  # read from memory in a real forward pass (weights, cache): one buffer per repetition
    WARM = "warm"  # produced by the operation before (activations): one buffer
    OUTPUT = "output"  # poisoned before a check
    SCRATCH = "scratch"  # poisoned too; no result may depend on what it holds
    ZERO = "zero"  # starts at zero and returns to it (semaphores)


class Operand(NamedTuple):
    """A buffer of the kernel; `fill` makes its values, for roles that are read."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: Role
    fill: Fill | None = None

    @property
    def length(self) -> int:
        return int(np.prod(self.shape))

    @property
    def size_bytes(self) -> int:
        return self.length * np.dtype(self.dtype).itemsize


Pair = tuple[Array, Array]
Compare = Callable[[Mapping[str, Any], int], Pair]


@dataclass(frozen=True)
class Problem:
    """One launch. `size_bytes` is the least that memory must move, `flops` the arithmetic (2 per multiply-add).

    `compare(arrays, part)` gives what the kernel wrote in one of `parts` pieces of its output and what it should
    have written, both float64; `arrays[name][index]` must give NumPy arrays. A result is right when no difference
    exceeds `tolerance` times the largest value expected.
    """

    grid: tuple[int, int, int]
    arguments: tuple[str | np.generic, ...]
    operands: tuple[Operand, ...]
    size_bytes: int
    flops: int
    parts: int
    compare: Compare
    tolerance: float

    def operand(self, name: str) -> Operand:
        return next(operand for operand in self.operands if operand.name == name)

    @property
    def cold_bytes(self) -> int:
        return sum(operand.size_bytes for operand in self.operands if operand.role is Role.COLD)


def error_of(problem: Problem, arrays: Mapping[str, Any], parts: Iterable[int] | None = None) -> float:
    """Largest difference over the largest value expected; infinite when anything is not a number."""
    pairs = [problem.compare(arrays, part) for part in (range(problem.parts) if parts is None else parts)]
    worst = max((float(np.max(np.abs(got - want), initial=0.0)) for got, want in pairs), default=0.0)
    scale = max((float(np.max(np.abs(want), initial=0.0)) for _, want in pairs), default=0.0)
    finite = all(np.isfinite(got).all() for got, _ in pairs)
    return worst / max(scale, np.finfo(np.float64).tiny) if finite and np.isfinite(worst) else float("inf")


@dataclass(frozen=True)
class Kernel:
    """A bundled kernel: its source, its variants and how a problem of some shape is put to it."""

    name: str
    family: str  # of the time model: gemm-16, wo-4, attention-decode-16, copy, launch, ...
    source: str  # file in src/
    entry: str  # extern "C" name
    min_cc: int
    shape: type[Any]  # which of the shapes above it takes
    tiles: tuple[Tile, ...]
    problem: Callable[[Choice, Any], Problem]
    macros: tuple[tuple[str, int], ...] = ()  # the same in every tile
    splits: Callable[[Tile, Any, DeviceLimits], Iterable[int]] = field(default=lambda tile, shape, limits: (1,))
    supports: Callable[[Tile, Any], bool] = field(default=lambda tile, shape: True)

    def tiles_for(self, cc: int) -> tuple[Tile, ...]:
        """Variants that compile and run well on this compute capability."""
        return tuple(tile for tile in self.tiles if cc >= self.min_cc and (not tile.targets or cc in tile.targets))

    def choices(self, shape: Shape, limits: DeviceLimits) -> tuple[Choice, ...]:
        """Every way to run the shape on this device, likely best first; empty when there is none."""
        tiles = (tile for tile in self.tiles_for(limits.cc) if tile.shared_bytes <= limits.shared_bytes)
        able = (tile for tile in tiles if self.supports(tile, shape))
        return tuple(Choice(tile, splits) for tile in able for splits in self.splits(tile, shape, limits))
