"""A dense transformer's step time in closed form: the oracle of the operation list.

Written from the textbook formulas alone (no tensors, no operations): all weights once, the cache once, two
FLOPs per parameter and token, attention at half the square. Ref: [scaling-book ch. 4, 7, 8].
"""

from __future__ import annotations

from typing import NamedTuple


class Dense(NamedTuple):
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int


class Machine(NamedTuple):
    bytes_per_s: float
    flops_per_s: float


LLAMA_3_8B = Dense(32, 4096, 32, 8, 128, 14336, 128256)
LLAMA_3_70B = Dense(80, 8192, 64, 8, 128, 28672, 128256)


def layer_parameters(m: Dense) -> int:
    attention = m.hidden * m.head_dim * (2 * m.heads + 2 * m.kv_heads)
    return attention + 3 * m.hidden * m.intermediate


def matrix_parameters(m: Dense) -> int:
    """Everything that multiplies: the stack and the head, not the embedding table."""
    return m.layers * layer_parameters(m) + m.hidden * m.vocabulary


def kv_bytes_per_token(m: Dense, width: float) -> float:
    return 2 * m.layers * m.kv_heads * m.head_dim * width


def decode_bytes(m: Dense, batch: float, context: float, weight_width: float, kv_width: float) -> float:
    return matrix_parameters(m) * weight_width + batch * context * kv_bytes_per_token(m, kv_width)


def decode_flops(m: Dense, batch: float, context: float) -> float:
    return 2 * matrix_parameters(m) * batch + 4 * m.layers * m.heads * m.head_dim * batch * context


def prefill_flops(m: Dense, tokens: float) -> float:
    """One prompt; the head runs on its last token only; causal attention is half the square."""
    stack = 2 * m.layers * layer_parameters(m) * tokens + 2 * m.hidden * m.vocabulary
    return stack + 4 * m.layers * m.heads * m.head_dim * tokens**2 / 2


def decode_s(m: Dense, batch: float, context: float, machine: Machine, width: float = 2.0) -> float:
    """Memory-bound decode: the bytes of weights and cache over the bandwidth."""
    return decode_bytes(m, batch, context, width, width) / machine.bytes_per_s


def prefill_s(m: Dense, tokens: float, machine: Machine) -> float:
    """Compute-bound prefill: the FLOPs over the attained rate."""
    return prefill_flops(m, tokens) / machine.flops_per_s
