"""Small architectures written by hand, and rates without overheads, for tests of the time model."""

from __future__ import annotations

import numpy as np

from planner.collectives import Parallel
from planner.ops import Batch, Op, Slot, Widths, forward_ops
from planner.params import tensors
from planner.roofline import Rates
from planner.specs.model import (
    Attention,
    CompressedAttention,
    DenseFfn,
    Ffn,
    Indexer,
    LatentAttention,
    Layer,
    LinearAttention,
    Mamba,
    Mixer,
    ModelSpec,
    MoeFfn,
)
from tests.oracle.closed_form import LLAMA_3_8B, LLAMA_3_70B, Dense

GQA = Attention(n_heads=16, n_kv_heads=4, head_dim=64)
MLA = LatentAttention(
    n_heads=16, q_lora_rank=768, kv_lora_rank=512, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128
)
DSA = MLA.model_copy(update={"indexer": Indexer(n_heads=8, head_dim=128, top_k=256)})
GDN = LinearAttention(rule="gated_delta", n_k_heads=8, n_v_heads=16, k_head_dim=128, v_head_dim=128, conv_width=4)
MAMBA2 = Mamba(version=2, inner=2048, state=128, n_heads=32, head_dim=64, n_groups=8, conv_width=4)
MAMBA1 = Mamba(version=1, inner=2048, state=16, dt_rank=64, conv_width=4)
DENSE = DenseFfn(intermediate=4096)
MOE = MoeFfn(n_experts=64, top_k=4, intermediate=512, shared_intermediate=512)

MIXERS: dict[str, Mixer] = {
    "gqa": GQA,
    "window": GQA.model_copy(update={"window": 128}),
    "chunk": GQA.model_copy(update={"chunk": 256}),
    "mla": MLA,
    "dsa": DSA,
    "pooled": CompressedAttention(
        n_heads=16, head_dim=128, q_lora_rank=256, o_groups=4, o_lora_rank=128, window=128, ratio=4
    ),
    "linear": GDN,
    "mamba2": MAMBA2,
    "mamba1": MAMBA1,
}


def build(mixer: Mixer = GQA, ffn: Ffn = DENSE, layers: int = 4, **changes: object) -> ModelSpec:
    """A uniform stack of `layers` layers."""
    fields = {
        "id": "test",
        "hidden_size": 1024,
        "vocab_size": 32000,
        "max_position": 32768,
        "mixers": (mixer,),
        "ffns": (ffn,),
        "layers": (Layer(mixer=0, ffn=0, count=layers),),
    }
    return ModelSpec.model_validate({**fields, **changes})


def dense(m: Dense) -> ModelSpec:
    """The architecture of a closed form."""
    attention = Attention(n_heads=m.heads, n_kv_heads=m.kv_heads, head_dim=m.head_dim)
    sizes = {"hidden_size": m.hidden, "vocab_size": m.vocabulary}
    return build(attention, DenseFfn(intermediate=m.intermediate), m.layers, **sizes)


LLAMA_8B, LLAMA_70B = dense(LLAMA_3_8B), dense(LLAMA_3_70B)


def widths(model: ModelSpec, width: float = 2.0) -> Widths:
    """Every weight and every cached value at `width` bytes."""
    return Widths(np.array([tensor.numel * width for tensor in tensors(model)]), width, width)


def plain_rates(bytes_per_s: float = 1e12, flops_per_s: float = 1e15, p: float = 4.0, t0_s: float = 0.0) -> Rates:
    """The same rates for every kernel, nothing but bandwidth and arithmetic."""

    def every(value: float) -> np.ndarray:
        return np.full((len(Slot), 1), value)

    zero, one = every(0), every(1)
    return Rates(
        every(t0_s), zero, every(bytes_per_s), every(flops_per_s), every(p), zero, zero, zero, zero, one, one, one
    )


def listed(model: ModelSpec, batch: Batch, parallel: Parallel | None = None) -> list[Op]:
    return forward_ops(model, batch, widths(model), parallel or Parallel())


def by_name(ops: list[Op], name: str) -> Op:
    return next(op for op in ops if op.name == name)
