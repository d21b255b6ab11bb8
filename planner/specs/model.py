"""A model's architecture: what its layers compute and what they cache, without its weights.

A layer is a pair (mixer, ffn): the mixer moves information between tokens and owns the cache or the
recurrent state, the ffn works on each token alone. Hybrids list several mixers and several ffns, and
`layers` says which of them each layer holds (-1: none, as in Nemotron-H, whose layers hold only one).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from planner.specs.base import Count, Name, Size, Spec


class Task(StrEnum):
    """What a model is served for."""

    GENERATE = "generate"
    EMBED = "embed"
    RERANK = "rerank"


class Indexer(Spec):
    """The small scoring attention that picks what a sparse attention reads, and caches its own keys."""

    n_heads: Count
    head_dim: Count
    top_k: Count  # tokens that are picked
    block: Count = 1  # tokens of one pick (MiniMax-M3 picks blocks, DeepSeek single tokens)
    learned_weights: bool = True  # a weight per head and token, and a norm with bias (DeepSeek)
    shared: bool = False  # takes the picks of an earlier layer: no weights and no keys of its own
    pooled: bool = False  # one key for each block of tokens, pooled by a gate (GLM-5.3)


class Attention(Spec):
    """Softmax attention: MHA, GQA or MQA with explicit head dimensions."""

    kind: Literal["attention"] = "attention"
    n_heads: Count
    n_kv_heads: Count
    head_dim: Count
    v_head_dim: Count | None = None  # None: the same as head_dim
    window: Count | None = None  # sliding window, tokens
    chunk: Count | None = None  # block-local attention (Llama 4), tokens
    qkv_bias: bool = False
    o_bias: bool = False
    qk_norm: Literal["none", "head", "heads", "full"] = "none"  # each head by one vector, by its own; all heads at once
    output_gate: Literal["none", "head", "full"] = "none"  # gate per head, or per channel (Qwen3-Next)
    sinks: bool = False  # one learned sink logit per head (gpt-oss)
    shares_kv: bool = False  # reads an earlier layer's cache: no K and V projections, no cache of its own
    cross: bool = False  # reads an image's keys and values, not the text's (Llama 3.2 Vision)
    k_is_v: bool = False  # one projection gives keys and values; engines cache both
    indexer: Indexer | None = None  # None: reads every token in reach


class LatentAttention(Spec):
    """Multi-head latent attention: one compressed vector and one rotary key cached per token."""

    kind: Literal["mla"] = "mla"
    n_heads: Count
    q_lora_rank: Count | None = None  # None: a full query projection
    kv_lora_rank: Count
    qk_nope_head_dim: Size
    qk_rope_head_dim: Size
    v_head_dim: Count
    bias: bool = False
    output_gate: Literal["none", "head", "full"] = "none"  # a projection of its own, per head or per channel
    sinks: bool = False
    small: Size = 0  # learned scales beyond these, values in one layer
    indexer: Indexer | None = None  # None: reads every token


class CompressedAttention(Spec):
    """DeepSeek V4: every head reads one cached vector per token as key and value, in a short window; beyond it
    one vector per `ratio` tokens, pooled from them. With an indexer pools overlap by half and a query reads
    only the picked ones (CSA), without one it reads all (HCA).
    """

    kind: Literal["compressed"] = "compressed"
    n_heads: Count
    head_dim: Count  # rotary part included
    q_lora_rank: Count
    o_groups: Count  # of heads, each with an output projection of its own
    o_lora_rank: Count  # output features of one group
    window: Count  # tokens
    ratio: Size = 0  # tokens of one pooled vector; 0: nothing beyond the window
    indexer: Indexer | None = None  # its keys are pooled too; top_k counts tokens, block is the ratio


class LinearAttention(Spec):
    """Linear attention with a matrix state per head: gated delta rule, KDA, lightning attention.

    A gated short convolution (LFM2) is the same without the state: its two gates and its input stand for queries,
    keys and values, of which the input alone is convolved.
    """

    kind: Literal["linear"] = "linear"
    rule: Literal["gated_delta", "kda", "lightning", "short_conv"]
    n_k_heads: Count
    n_v_heads: Count
    k_head_dim: Count
    v_head_dim: Count
    conv_width: Size = 0  # taps of the causal convolution over q, k and v; 0: none
    gate_rank: Size = 0  # rank of the output gate's projection (KDA); 0: full
    full_decay: bool = False  # KDA: one projection gives the decay, not two through v_head_dim (Ling 3)
    state_dtype: Literal["fp32", "bf16"] = "fp32"

    @property
    def is_delta_rule(self) -> bool:
        """Whether the state decays by what the token says and is read before it is updated."""
        return self.rule in ("gated_delta", "kda")


class Mamba(Spec):
    """Selective state space: version 1 (one state row per channel) or 2 (one per head)."""

    kind: Literal["mamba"] = "mamba"
    version: Literal[1, 2]
    inner: Count  # width of x after the input projection
    state: Count  # state size per channel
    n_heads: Count = 1  # version 2
    head_dim: Count = 1  # version 2
    n_groups: Count = 1  # version 2: groups that share B and C
    dt_rank: Size = 0  # version 1
    conv_width: Count
    conv_bias: bool = True
    proj_bias: bool = False
    inner_norms: bool = False  # Jamba: norms on dt, B and C
    gated_norm: bool = True  # version 2: a norm behind the gate
    state_dtype: Literal["fp32", "bf16"] = "fp32"


Mixer = Annotated[
    Attention | LatentAttention | CompressedAttention | LinearAttention | Mamba, Field(discriminator="kind")
]


class DenseFfn(Spec):
    """A feed-forward block: gated (SwiGLU, three matrices) or plain (two)."""

    kind: Literal["dense"] = "dense"
    intermediate: Count
    gated: bool = True
    bias: bool = False


class MoeFfn(Spec):
    """Routed experts, with shared experts beside them."""

    kind: Literal["moe"] = "moe"
    n_experts: Count
    top_k: Count
    intermediate: Count  # of one expert
    gated: bool = True
    bias: bool = False
    router_bias: Literal["none", "correction", "linear"] = "none"
    shared_intermediate: Size = 0  # all shared experts together
    shared_gate: bool = False  # a sigmoid gate on the shared expert (Qwen2-MoE)
    dense_intermediate: Size = 0  # a dense MLP that runs beside the experts in the same layer (Gemma 4)
    latent: Count | None = None  # experts work in this width between two shared projections (Nemotron 3)
    latent_norm: bool = False  # a norm of that width before the second projection (Kimi K3)
    zero_experts: Size = 0  # identity experts that cost nothing (LongCat)


Ffn = Annotated[DenseFfn | MoeFfn, Field(discriminator="kind")]


class Layer(Spec):
    """One layer: indices into the model's mixers and ffns (-1: none) and how many layers in a row."""

    mixer: Annotated[int, Field(ge=-1, le=63)]
    ffn: Annotated[int, Field(ge=-1, le=63)]
    count: Count = 1


class Role(StrEnum):
    """Class of a tensor; formats decide by role what they quantize."""

    EMBEDDING = "embedding"
    POSITION = "position"
    LM_HEAD = "lm_head"
    ATTENTION = "attention"
    SSM = "ssm"  # projections of Mamba and linear attention
    MLP = "mlp"
    EXPERT = "expert"
    SHARED_EXPERT = "shared_expert"
    ROUTER = "router"
    NORM = "norm"
    BIAS = "bias"
    SMALL = "small"  # convolutions, decay and time-step vectors, sinks
    VISION = "vision"
    MTP = "mtp"
    OTHER = "other"


class ExtraTensor(Spec):
    """A tensor that no mixer or ffn implies: vision tower, projector, per-layer embeddings, poolers."""

    name: Name
    role: Role
    n: Count  # output features; for a vector its length
    k: Count = 1  # input features
    copies: Count = 1
    bias: bool = False
    per_layer: bool = False  # stands in every layer of the stack, `copies` times
    matmul: bool = False  # runs as a matrix product for every token (not: lookups, image encoders)


class Vision(Spec):
    """The image encoder, as far as its memory and time depend on it; its weights are extra tensors."""

    hidden: Count
    n_layers: Count
    n_heads: Count
    intermediate: Count
    patch: Count  # pixels
    merge: Count = 1  # patches per image token along one side
    image_size: Size = 0  # pixels; 0: native resolution
    tokens_per_image: Size = 0  # 0: follows the image's pixels
    tiles: Count = 1  # pieces of image_size that the largest image is cut into
    output: Size = 0  # width that leaves the encoder, where results of several layers are joined; 0: its hidden width


class Quantization(Spec):
    """The checkpoint's own quantization: a format id and what it leaves in 16 bit."""

    weight_format: Name
    roles_16bit: tuple[Role, ...] = ()  # roles that the checkpoint excludes beyond the format's defaults
    tensors_16bit: tuple[Name, ...] = ()  # the same for tensors, by their name in `params.tensors`
    layers_16bit: tuple[int, ...] = ()  # whole layers left in 16 bit
    mixed: tuple[tuple[Role, Name], ...] = ()  # roles in another format than `weight_format`
    kv_format: str | None = None
    quantized: tuple[Role, ...] = ()  # not empty: only these roles are quantized
    method: str = ""  # quant_method as the config says


Bytes = Annotated[int, Field(ge=0, le=2**53)]


class ExactWeights(Spec):
    """Bytes that the headers of a checkpoint's files state, in place of the closed form's."""

    weight_format: Name  # the format that they hold for: the checkpoint's own
    stored: tuple[tuple[Name, Annotated[int, Field(ge=-1, le=4096)], Bytes], ...]
    # ^ (name in `params.tensors`, its first layer or -1 outside the stack, bytes of all its copies)
    mtp_bytes: Bytes = 0  # multi-token prediction: in the files, not loaded without speculation
    unloaded_bytes: Bytes = 0  # in the files, never loaded: a tied head stored twice, buffers that engines compute

    @property
    def total_bytes(self) -> int:
        """What an engine loads."""
        return sum(entry[2] for entry in self.stored)


class ModelSpec(Spec):
    """An architecture. `params.tensors(model)` lists every weight tensor that it implies."""

    id: Name
    architecture: str = ""
    model_type: str = ""
    task: Task = Task.GENERATE
    source: str = ""  # where the config came from
    verbatim: bool = True  # False: partly library defaults, not the publisher's own file
    hidden_size: Count
    vocab_size: Count
    max_position: Count
    tie_embeddings: bool = False
    embedding_size: Count | None = None  # None: hidden_size
    mixers: tuple[Mixer, ...]
    ffns: tuple[Ffn, ...]
    layers: tuple[Layer, ...]
    norm: Literal["rms", "layer", "layer_no_bias", "none"] = "rms"
    norms_per_layer: Size = 2  # of hidden_size each
    residual_streams: Annotated[int, Field(ge=1, le=64)] = 1  # hyper-connections: as wide as a layer's input, each
    final_norm: bool = True
    embedding_norm: bool = False
    joined_reduce: bool = False  # mixer and ffn side by side, summed before one all-reduce
    lm_head: bool = True  # False: an encoder, which has no logits over the vocabulary
    lm_head_bias: bool = False
    causal: bool = True
    extras: tuple[ExtraTensor, ...] = ()
    vision: Vision | None = None
    mtp_layers: Size = 0  # multi-token-prediction layers in the checkpoint, not loaded without speculation
    mtp_params: Annotated[int, Field(ge=0, le=2**45)] = 0  # their parameters
    dtype: Literal["bf16", "fp16", "fp32"] = "bf16"
    quantization: Quantization | None = None
    exact: ExactWeights | None = None  # None: bytes follow from the format

    @property
    def n_layers(self) -> int:
        """Layers of the stack."""
        return sum(layer.count for layer in self.layers)

    def mixer_layers(self, index: int) -> int:
        """How many layers hold mixer `index`."""
        return sum(layer.count for layer in self.layers if layer.mixer == index)

    def layers_of(self, *kinds: type[Spec]) -> int:
        """How many layers hold a mixer of these kinds."""
        return sum(self.mixer_layers(index) for index, mixer in enumerate(self.mixers) if isinstance(mixer, kinds))

    @property
    def has_experts(self) -> bool:
        """Whether any ffn is one of routed experts."""
        return any(isinstance(ffn, MoeFfn) for ffn in self.ffns)

    @property
    def has_latents(self) -> bool:
        """Whether any mixer is latent attention."""
        return any(isinstance(mixer, LatentAttention) for mixer in self.mixers)

    @property
    def caches_latents(self) -> bool:
        """Whether any layer caches a latent instead of keys and values."""
        return any(isinstance(mixer, LatentAttention | CompressedAttention) for mixer in self.mixers)

    @property
    def pools_latents(self) -> bool:
        """Whether any attention reads vectors pooled from several tokens."""
        return any(isinstance(mixer, CompressedAttention) for mixer in self.mixers)

    @property
    def picks_latents(self) -> bool:
        """Whether any latent attention reads only the tokens that an indexer picks."""
        return any(isinstance(mixer, LatentAttention) and mixer.indexer is not None for mixer in self.mixers)

    def ffn_layers(self, index: int) -> int:
        """How many layers hold ffn `index`."""
        return sum(layer.count for layer in self.layers if layer.ffn == index)
