"""A weight tensor: what bytes, sharding and time need to know of it."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from planner.specs.model import Role


class Shard(StrEnum):
    """How tensor parallelism divides a tensor."""

    COLUMN = "column"  # n is split; at most into `units` parts, past which it is replicated (KV heads)
    ROW = "row"  # k is split, the result is summed over the group
    VOCAB = "vocab"  # n is split, padded to a multiple before where an engine says so
    EXPERT = "expert"  # copies over ep, then n or k over tp / ep
    REPLICATED = "replicated"
    FIRST = "replicated on the first stage"


class Tensor(NamedTuple):
    """A weight tensor: a matrix [n, k] (n output features, k input features; a vector has k = 1) that
    stands in `layers` layers, `copies` times in each (experts), of which one token uses `active`.
    """

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

    @property
    def active_numel(self) -> float:
        """Parameters that one token uses."""
        return self.n * self.k * self.active * max(len(self.layers), 1)


def bias_of(tensor: Tensor) -> Tensor:
    """The bias vector beside a weight matrix, divided as its output features are."""
    shard = tensor.shard if tensor.shard in (Shard.COLUMN, Shard.EXPERT) else Shard.REPLICATED
    role = tensor.role if tensor.role in (Role.VISION, Role.MTP) else Role.BIAS
    return tensor._replace(name=f"{tensor.name}.bias", role=role, op="", k=1, shard=shard)


def with_bias(tensors: list[Tensor], bias: bool) -> list[Tensor]:
    """The matrices, each followed by its bias where `bias` is set."""
    return [part for tensor in tensors for part in ((tensor, bias_of(tensor)) if bias else (tensor,))]
