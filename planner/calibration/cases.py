"""What can be measured: a kernel at a shape, with the bytes and FLOPs that it needs at least."""

from __future__ import annotations

from typing import Any, NamedTuple

from planner.formats import HALF_BYTES
from planner.specs.run import AttentionShape, ExpertShape, GemmShape, Shape, StreamShape

SMALLEST_STREAM = 4096


class Case(NamedTuple):
    """A point to be measured. `cold_bytes` of its operands come from memory in a real forward pass."""

    family: str
    kernel: str
    dtype: str
    shape: Shape
    bytes: float
    flops: float
    cold_bytes: float
    anchor: bool = False

    @property
    def key(self) -> tuple[str, str, Shape]:
        """What makes two points the same."""
        return self.kernel, self.dtype, self.shape


class Widths(NamedTuple):
    """Bytes per value of a product's weights, inputs and outputs."""

    weights: float = HALF_BYTES
    inputs: float = HALF_BYTES
    outputs: float = HALF_BYTES


HALVES = Widths()


class Named(NamedTuple):
    """Which kernel: the family of the time model, its own name, its data type."""

    family: str
    kernel: str
    dtype: str


def product(name: Named, shape: GemmShape, widths: Widths = HALVES) -> Case:
    """2 m n k FLOPs; weights, inputs and outputs move once; the weights are cold."""
    m, n, k = float(shape.m), float(shape.n), float(shape.k)
    weights = widths.weights * n * k
    moved = weights + widths.inputs * m * k + widths.outputs * m * n
    return Case(*name, shape, moved, 2 * m * n * k, weights)


def attention(name: Named, shape: AttentionShape, kv_bytes: float = HALF_BYTES) -> Case:
    """Every sequence reads its cache once; 4 FLOPs per query head, dimension and attended pair."""
    new, cached = float(shape.new), float(shape.cached)
    length = max(cached, 1.0) if shape.new == 1 else cached + new
    pairs = length if shape.new == 1 else new * (cached + (new + 1) / 2)
    cache = shape.sequences * length * 2 * shape.kv_heads * shape.head_dim * kv_bytes
    queries = shape.sequences * new * shape.query_heads * shape.head_dim
    flops = shape.sequences * pairs * 4 * shape.query_heads * shape.head_dim
    return Case(*name, shape, cache + 2 * HALF_BYTES * queries, flops, cache if shape.new == 1 else 0.0)


def experts(name: Named, shape: ExpertShape, widths: Widths = HALVES) -> Case:
    """Gate, up and down of every expert that some token is routed to: balanced, no expert twice before all once."""
    touched = float(min(shape.experts, shape.tokens * shape.active))
    values, rows = 3.0 * shape.hidden * shape.inner, float(shape.tokens * shape.active)
    weights = touched * values * widths.weights
    moved = weights + rows * (shape.hidden * widths.inputs + 3 * shape.inner * widths.outputs)
    return Case(*name, shape, moved, 2 * rows * values, weights)


def stream(name: Named, size_bytes: int, passes: int = 1) -> Case:
    """`passes` times over `size_bytes`: 1 for a read, 2 for a copy."""
    return Case(*name, StreamShape(size_bytes=size_bytes), float(passes * size_bytes), 0.0, float(size_bytes))


def _half(value: int) -> int:
    return max(1, value // 2)


def halved(case: Case) -> Case | None:
    """The same kernel at half of its largest free dimension; None when nothing is left to halve."""
    shape: Any = case.shape
    if isinstance(shape, GemmShape):
        name = "m" if shape.m > 1 else "n"
    elif isinstance(shape, AttentionShape):
        name = "sequences" if shape.sequences > 1 else "cached" if shape.cached > 1 else "new"
    elif isinstance(shape, ExpertShape):
        name = "tokens"
    else:
        name = "size_bytes"
    smaller = shape.model_copy(update={name: _half(getattr(shape, name))})
    if smaller == shape or getattr(smaller, name) < (SMALLEST_STREAM if name == "size_bytes" else 1):
        return None
    return _like(case, smaller)


def _like(case: Case, shape: Any) -> Case:
    """The case at another shape of its kind: bytes and FLOPs follow from what the case had per unit."""
    name = Named(case.family, case.kernel, case.dtype)
    old: Any = case.shape
    if isinstance(shape, GemmShape):
        per_weight = case.cold_bytes / (old.n * old.k)
        rest = (case.bytes - case.cold_bytes) / (old.m * (old.n + old.k))
        return product(name, shape, Widths(per_weight, rest, rest))
    if isinstance(shape, AttentionShape):
        plain = attention(name, old)
        ratio = case.cold_bytes / plain.cold_bytes if plain.cold_bytes else 1.0
        return attention(name, shape, HALF_BYTES * ratio)
    if isinstance(shape, ExpertShape):
        plain = experts(name, old)
        return experts(name, shape, Widths(HALF_BYTES * case.cold_bytes / plain.cold_bytes))
    return stream(name, shape.size_bytes, round(case.bytes / max(old.size_bytes, 1)))
