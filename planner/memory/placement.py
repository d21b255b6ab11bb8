"""Which layers stand on which GPU, and which in host memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner.memory.terms import Floats, MemoryInputs
from planner.specs.engine import EngineSpec
from planner.specs.model import ModelSpec, Role


class Placement(NamedTuple):
    """Where the layers of one row stand. Rows with equal placements share their tables."""

    stages: tuple[int, ...]  # layers of each GPU, in order, those in host memory left out
    host_layers: int = 0  # the first ones, in host memory with their cache
    host_expert_layers: int = 0  # the first ones whose routed experts stay in host memory
    host_head: bool = False  # the head too
    host_roles: tuple[Role, ...] = ()  # tables that are looked up in host memory

    def first_layers(self) -> tuple[int, ...]:
        """Index of the first layer of each GPU, and one past the last."""
        return tuple(accumulate(self.stages, initial=self.host_layers))


class Placements(NamedTuple):
    """The distinct placements of R rows, and which of them each row has."""

    distinct: tuple[Placement, ...]
    rows: NDArray[np.intp]

    @property
    def n_stages(self) -> int:
        """S: GPUs of the longest pipeline."""
        return max(len(one.stages) for one in self.distinct)

    def numbers(self, of_placement: Sequence[float]) -> Floats:
        """(R,) from one number per distinct placement."""
        return np.asarray(of_placement, dtype=np.float64)[self.rows]


@lru_cache(maxsize=1024)
def stage_layers(n_layers: int, pp: int) -> tuple[int, ...]:
    """Layers of each pipeline stage; those left over go to the stages before the last, which holds the head."""
    counts = [n_layers // pp] * pp
    for extra in range(n_layers % pp):
        counts[-2 - extra] += 1
    return tuple(counts)


@lru_cache(maxsize=4096)
def shared_layers(layers: int, shares: tuple[float, ...], head: bool = True) -> tuple[int, ...]:
    """llama.cpp: layers of each GPU in proportion to `shares`, the head counted as one layer more.

    Unit i of n goes to the first GPU whose cumulative share exceeds i / n, in single precision.
    """
    total = np.float32(0)
    ends = []
    for share in shares:
        total = total + np.float32(share)
        ends.append(total)
    units = layers + int(head)
    at = np.arange(units, dtype=np.float32) / np.float32(max(units, 1))
    owner = np.searchsorted(np.asarray(ends, dtype=np.float32) / total, at, side="right")
    return tuple(np.bincount(np.minimum(owner, len(shares) - 1)[:layers], minlength=len(shares)).tolist())


@lru_cache(maxsize=4096)
def host_placement(
    n_layers: int, gpu_layers: int, shares: tuple[float, ...], cpu_moe: int, host_roles: tuple[Role, ...] = ()
) -> Placement:
    """llama.cpp: the last `gpu_layers` of n_layers + 1, of which the head is one, on GPUs by `shares`.

    The rest with its cache, and the experts of the first `cpu_moe` layers, stay in host memory.
    """
    units = min(gpu_layers, n_layers + 1)
    on_gpu = max(units - 1, 0)
    stages = shared_layers(on_gpu, shares, units > 0)
    return Placement(stages, n_layers - on_gpu, min(cpu_moe, n_layers), units == 0, host_roles)


@lru_cache(maxsize=1024)
def _even(n_layers: int, pp: int, head_is_layer: bool, host_roles: tuple[Role, ...]) -> Placement:
    stages = shared_layers(n_layers, (1.0,) * pp) if head_is_layer else stage_layers(n_layers, pp)
    return Placement(stages, host_roles=host_roles)


def placements(model: ModelSpec, engine: EngineSpec, inputs: MemoryInputs, rows: int) -> Placements:
    """Where the layers of every row stand: as its inputs say, else spread evenly over its pipeline stages."""
    given = inputs.settings.placement
    if given is not None:
        known: dict[Placement, int] = {}
        at = [known.setdefault(one, len(known)) for one in np.broadcast_to(given, (rows,)).tolist()]
        return Placements(tuple(known), np.asarray(at, dtype=np.intp))
    sizes, at_size = np.unique(np.asarray(inputs.parallel.pp, dtype=int), return_inverse=True)
    spread = partial(_even, model.n_layers, head_is_layer=engine.division.head_is_layer)
    spreads = tuple(spread(int(pp), host_roles=engine.weights.host_roles) for pp in sizes)
    return Placements(spreads, np.broadcast_to(np.ravel(at_size), (rows,)))


def stage_of_layer(placement: Placement, n_layers: int) -> NDArray[np.intp]:
    """(L,): stage of each layer, -1 in host memory."""
    owner = np.full(n_layers, -1, dtype=np.intp)
    for stage, (start, end) in enumerate(pairwise(placement.first_layers())):
        owner[start:end] = stage
    return owner
