"""How one replica is divided over GPUs, and the bytes that the GPUs then exchange.

Sizes are the bytes of the whole message as one GPU holds it (all-reduce), or of all parts together
(all-gather, all-to-all); wire bytes are what one GPU sends. A collective of one GPU costs nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner.arrays import PerRow
from planner.formats.packing import padded
from planner.params import Shard, Tensor
from planner.specs.model import Role

Array = NDArray[np.float64]

TINY = np.finfo(np.float64).tiny


class Parallel(NamedTuple):
    """How a deployment is divided; every field is an array (R,) or a scalar.

    `ep` (a divisor of tp) shards whole experts, the rest of tp splits each expert; `attention_dp` (a divisor
    of tp) runs attention data-parallel inside the group, so that attention is sharded tp / attention_dp ways.
    """

    tp: PerRow = 1
    pp: PerRow = 1
    ep: PerRow = 1
    attention_dp: PerRow = 1
    dp: PerRow = 1

    @property
    def attention_group(self) -> PerRow:
        """GPUs that share one sequence's attention."""
        return self.tp / self.attention_dp


class Link(NamedTuple):
    """What a group of GPUs attains: start-up seconds, bytes/s of one GPU one way, and sharpness of the bend between."""

    latency_s: PerRow
    bytes_per_s: PerRow
    p: PerRow = 1.0


class LocalShape(NamedTuple):
    """The part of a tensor in one layer that one GPU holds: copies of a matrix [n, k]."""

    copies: PerRow
    n: PerRow
    k: PerRow


def is_by_rank(tensor: Tensor, whole: frozenset[Role]) -> bool:
    """Whether attention data-parallel ranks each hold the tensor and run it on their own tokens, as all that is neither
    mixer nor ffn.
    """
    return tensor.attention or tensor.role is Role.OTHER or tensor.role in whole


def local_shape(
    tensor: Tensor, parallel: Parallel, whole: frozenset[Role] = frozenset(), vocab_multiple: int = 1
) -> LocalShape:
    """What one GPU holds of `tensor`. Past `units` parts a COLUMN or ROW is replicated (KV heads).

    Attention, and the roles in `whole`, are divided inside an attention data-parallel rank only. The vocabulary is
    padded to a multiple before it is split.
    """
    group = parallel.attention_group if is_by_rank(tensor, whole) else parallel.tp
    parts = np.minimum(group, tensor.units)
    if tensor.shard is Shard.COLUMN:
        return LocalShape(tensor.copies, tensor.n / parts, tensor.k)
    if tensor.shard is Shard.ROW:
        return LocalShape(tensor.copies, tensor.n, tensor.k / parts)
    if tensor.shard is Shard.VOCAB:
        return LocalShape(tensor.copies, padded(tensor.n, vocab_multiple) / group, tensor.k)
    if tensor.shard is Shard.EXPERT:
        return LocalShape(tensor.copies / parallel.ep, tensor.n * parallel.ep / parallel.tp, tensor.k)
    return LocalShape(tensor.copies, tensor.n, tensor.k)


def local_fraction(
    tensor: Tensor, parallel: Parallel, whole: frozenset[Role] = frozenset(), vocab_multiple: int = 1
) -> PerRow:
    """Bytes of a tensor that one GPU holds, as a fraction of the whole."""
    local = local_shape(tensor, parallel, whole, vocab_multiple)
    return local.copies * local.n * local.k / (tensor.copies * tensor.n * tensor.k)


def p_norm(x: PerRow, y: PerRow, p: PerRow) -> PerRow:
    """(x^p + y^p)^(1/p), in the units of x and y: p = 1 adds, a large p takes the larger one.

    Scaled by the larger term, so that microseconds raised to a power stay in range.
    """
    large = np.maximum(np.maximum(x, y), TINY)
    return large * (1 + (np.minimum(x, y) / large) ** p) ** (1 / p)


def all_reduce_wire_bytes(size_bytes: PerRow, n: PerRow) -> PerRow:
    """2 S (n-1)/n: a reduce-scatter and an all-gather. Ref: [scaling-book, sharding]

    >>> all_reduce_wire_bytes(8.0, 8)
    14.0
    """
    return 2 * size_bytes * (n - 1) / n


def all_gather_wire_bytes(size_bytes: PerRow, n: PerRow) -> PerRow:
    """S (n-1)/n, S being the gathered whole; a reduce-scatter costs the same. Ref: [scaling-book, sharding]"""
    return size_bytes * (n - 1) / n


def all_to_all_wire_bytes(size_bytes: PerRow, n: PerRow) -> PerRow:
    """S (n-1)/n of the S bytes that one GPU holds: its own share stays at home."""
    return size_bytes * (n - 1) / n


def transfer_s(wire_bytes: PerRow, link: Link) -> PerRow:
    """Seconds until `wire_bytes` have left every GPU: (a^p + (bytes / rate)^p)^(1/p), nothing for nothing.

    Small messages cost the start-up, large ones the rate; measured collectives bend slowly from one to the
    other, p about 0.5 to 1. Source of the form: fits to ai-dynamo/aiconfigurator@095f58a (Apache-2.0).
    """
    return np.where(np.asarray(wire_bytes) > 0, p_norm(wire_bytes / link.bytes_per_s, link.latency_s, link.p), 0.0)


def hierarchical_bytes_per_s(n: PerRow, per_node: PerRow, inside: PerRow, between: PerRow) -> PerRow:
    """Flat rate at which `n` GPUs in nodes of `per_node` exchange as fast as a two-level collective.

    The part inside a node moves (g-1)/g of the message over `inside`, the part between m nodes
    (m-1)/(m g) over `between` (each GPU its own adapter); a flat one would move (n-1)/n.
    """
    g = np.minimum(n, per_node)
    nodes = np.ceil(n / g)
    seconds_per_byte = (g - 1) / g / inside + (nodes - 1) / (nodes * g) / between
    return np.where(np.asarray(n) > 1, (n - 1) / n / np.maximum(seconds_per_byte, TINY), inside)
