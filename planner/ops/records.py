"""The records of a forward pass: what runs (Op), on which tokens (Batch), in which widths (Widths).

Arrays have shape (R,), one entry per scenario, or are scalars; all counts are floats.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum, auto
from typing import NamedTuple

import numpy as np

from planner.arrays import PerRow
from planner.specs.model import Role


class OpKind(StrEnum):
    """What an operation does: the groups of the breakdown."""

    GEMM = "gemm"
    MOE = "moe"
    ATTENTION = "attention"
    RECURRENT = "recurrent"
    ELEMENTWISE = "elementwise"
    COMMUNICATION = "communication"


class Slot(IntEnum):
    """Which of a scenario's rates prices an operation: the row of `roofline.Rates`.

    Weights have one slot per class of tensor, because formats quantize some classes and leave others in
    16 bit; the catalogue puts the kernel family that serves the class into its slot.
    """

    ATTENTION_GEMM = 0
    ATTENTION_OUT_GEMM = auto()  # which FP4 checkpoints may quantize alone
    SSM_GEMM = auto()
    MLP_GEMM = auto()
    SHARED_GEMM = auto()
    EXPERT_GEMM = auto()
    ROUTER_GEMM = auto()
    FEW_ROUTER = auto()  # routers in a kernel made for few tokens
    LM_HEAD_GEMM = auto()
    OTHER_GEMM = auto()  # vision tower, projectors, poolers, adapters, absorbed products of latents
    PREFILL = auto()
    DECODE = auto()
    GATHER = auto()  # prompts whose every token reads keys of its own choice
    GENERAL_PREFILL = auto()  # attention of prompts in a kernel that takes any head
    GENERAL_DECODE = auto()
    RECURRENT = auto()
    ELEMENTWISE = auto()
    ALL_REDUCE = auto()
    ALL_GATHER = auto()
    ALL_TO_ALL = auto()
    SEND = auto()
    HOST = auto()  # whatever the CPU runs
    HOST_COPY = auto()  # weights from host memory over PCIe


class Op(NamedTuple):
    """`count` executions in one step of an operation that costs `flops` and moves `bytes` each, on one GPU.

    m, n, k: tokens, outputs and inputs of a matrix product on one GPU; of attention, k is the mean number of
    tokens attended. For communication `bytes` are those that one GPU sends. An operation without work in a
    row has count 0 there.
    """

    name: str
    kind: OpKind
    rate: int  # a Slot; a draft model's operations use the slots behind it
    count: PerRow
    flops: PerRow
    bytes: PerRow
    m: PerRow
    n: PerRow
    k: PerRow
    matrices: PerRow = 1.0  # over which the m rows are spread: the experts that they reach


class Batch(NamedTuple):
    """What one step works on, for one replica (all its attention-DP ranks together).

    `decode_seqs` sequences produce one token each with `decode_context` tokens cached on average;
    `prefill_tokens` prompt tokens of `prefill_seqs` sequences run, each sequence with `prefill_context`
    tokens cached before. Logits are computed once for every sequence. A scalar 0 drops the part altogether.
    Under pipeline parallelism a batch is one micro-batch: its step lasts from the first stage to the last,
    and with pp batches in flight no stage idles. `beyond_share`: share of such steps that have more tokens than any
    CUDA graph holds, where the batch is the mean of several; nan: all have as many as it says.
    """

    decode_seqs: PerRow = 0.0
    decode_context: PerRow = 0.0
    prefill_tokens: PerRow = 0.0
    prefill_context: PerRow = 0.0
    prefill_seqs: PerRow = 0.0
    image_patches: PerRow = 0.0  # of all images that this step encodes
    patches_per_image: PerRow = 1.0
    beyond_share: PerRow = np.nan


class Scores(NamedTuple):
    """Memory traffic of attention scores where no kernel fuses the products around them."""

    traffic: PerRow = 0.0  # bytes moved per query, key and head
    cache: PerRow = 0.0  # bytes of the GPU's cache, which keeps what fits


FUSED_SCORES = Scores()


class GeneralKernel(NamedTuple):
    """A kernel for attention heads of any width, for those that fused kernels do not take; it reads in 16 bit."""

    wide: PerRow = False  # rows whose wide heads run in it ...
    narrow: PerRow = False  # ... and whose narrow heads do
    segments: PerRow = 1.0  # blocks that read one sequence of one key-value head side by side
    blocks: PerRow = 1.0  # that the GPU runs at once
    window_cost: PerRow = 1.0  # FLOPs of a (query, key) pair of a prompt inside a window, in those without one ...
    masked_cost: PerRow = 0.0  # ... and of a pair behind it
    fused_cost: PerRow = 1.0  # FLOPs of a prompt's wide heads where a fused kernel takes them, in those of narrow heads


FUSED_ONLY = GeneralKernel()


class Widths(NamedTuple):
    """Bytes: of every tensor of `params.tensors(model)` in all layers (T, R), and per value elsewhere."""

    tensor_bytes: PerRow
    kv_k: PerRow = 2.0  # key (or latent) cache, per value
    kv_v: PerRow = 2.0
    activation: PerRow = 2.0
    scores: Scores = FUSED_SCORES
    general: GeneralKernel = FUSED_ONLY
    sink_cost: PerRow = 1.0  # FLOPs of prompts in layers with attention sinks, in those of layers without
    dispatch: PerRow = 2.0  # of tokens on their way to experts: 8 or 4 bit where the experts multiply in it
    index: PerRow = 1.03125  # key cache of a sparse indexer: FP8 and one FP32 scale per 128 (DeepSeek DSA)


class Product(NamedTuple):
    """Weight matrices of one operation, summed over what runs together, per layer and GPU."""

    name: str
    kind: OpKind
    rate: Slot
    layers: int
    weight_bytes: PerRow
    n: PerRow
    k: PerRow
    copies: float  # experts in one layer; 1 for a dense product
    active: float  # of them, those one token uses
    experts_local: PerRow  # fraction of the experts' assignments that this GPU computes
    sampled: bool  # runs on one token per sequence only
    by_rank: bool  # runs on the tokens of one attention-DP rank
    shards: PerRow = 1.0  # GPUs among which whole experts are dealt out


class GroupRules(NamedTuple):
    """How an engine divides a model over a tensor-parallel group and its attention data-parallel ranks."""

    whole: frozenset[Role] = frozenset()  # weights beside attention that each rank holds, for its own tokens
    gathered: bool = False  # experts see the tokens of all by an all-gather; false: each is sent where it is routed
    summed: bool = False  # ... unquantized, and by all-reduces there and back where a step has prompts
    vocab_multiple: int = 1  # to which the vocabulary is padded before it is split


class Work(NamedTuple):
    """Tokens that one GPU sees in a step, derived from a Batch."""

    decode: PerRow  # sequences on one attention-DP rank
    decode_context: PerRow
    prefill: PerRow  # prompt tokens on one rank
    prefill_seqs: PerRow
    prefill_context: PerRow
    rank_tokens: PerRow  # decode + prefill of one rank
    tokens: PerRow  # of the whole replica
    sampled: PerRow  # logits rows of the whole replica
    rank_sampled: PerRow  # of one rank
    decode_tokens: PerRow = 1.0  # of each decoding sequence in this step
