"""Every weight tensor that an architecture implies: the one list from which parameter counts, bytes in a
format, bytes per GPU and the matrix products of a forward pass are all derived.

A tensor is a matrix [n, k] (n output features, k input features; a vector has k = 1) that stands in
`layers` layers, `copies` times in each (experts), of which one token uses `active`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from planner.specs.model import Role


class Shard(StrEnum):
    """How tensor parallelism divides a tensor."""

    COLUMN = "column"  # n is split; at most into `units` parts, past which it is replicated (KV heads)
    ROW = "row"  # k is split, the result is summed over the group
    VOCAB = "vocab"  # n is padded to a multiple of 64 x tp, then split
    EXPERT = "expert"  # copies over ep, then n or k over tp / ep
    REPLICATED = "replicated"
    FIRST = "replicated on the first stage"


class Tensor(NamedTuple):
    """A weight tensor and everything that bytes and time need to know of it."""

    name: str  # attention.q, mlp.down, experts.gate ... unique within a mixer or ffn
    role: Role
    op: str  # tensors of one op in one layer run as one matrix product (q, k, v -> attention.qkv); "": none
    n: int
    k: int
    layers: tuple[int, ...]  # indices of the layers that hold it; () outside the stack
    copies: int = 1  # per layer
    active: float = 1  # copies that one token uses
    shard: Shard = Shard.REPLICATED
    units: int = 1  # the most parts that COLUMN or ROW can make
    attention: bool = False  # sharded by the attention group (tp / attention_dp), not the whole of tp

    @property
    def matrices(self) -> int:
        """Matrices of this shape in the whole model."""
        return self.copies * max(len(self.layers), 1)

    @property
    def numel(self) -> int:
        """Parameters in all of them."""
        return self.n * self.k * self.matrices
