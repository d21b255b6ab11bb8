"""What an engine takes of a device's memory, and how its cache manager divides it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from planner.specs.base import Name, Spec
from planner.specs.engine.ranges import Amount, Share, Tokens
from planner.specs.model import Role


class BudgetRule(StrEnum):
    """Of which memory the engine's fraction is taken."""

    TOTAL = "total"  # vLLM: of the whole device; weights, activations and pool live inside it
    FREE_BEFORE = "free_before"  # SGLang: of what is free before loading; activations live outside it
    FREE_AFTER = "free_after"  # TensorRT-LLM: the pool alone, of what is free after loading
    FREE = "free"  # llama.cpp, transformers, MLX: whatever is free


class CacheLayout(StrEnum):
    """How the cache manager shares its pool among layers of different kinds."""

    GROUPED = "grouped"  # vLLM: equal groups of layers draw pages of one size from one pool
    WINDOWED = "windowed"  # each layer keeps what its window needs
    FULL = "full"  # every layer keeps the whole sequence
    SPLIT = "split"  # SGLang: a pool for full layers and a smaller one for window layers


class Allocation(StrEnum):
    """When the cache is allocated."""

    POOL = "pool"  # all that is left of the budget, at start
    CONTEXT = "context"  # the whole context of every slot, at start
    GROWING = "growing"  # as sequences grow


class StaticReserve(Spec):
    """SGLang's default fraction: 1 - what this reserves / device memory."""

    fixed_bytes: Amount
    per_prefill_token_bytes: Amount
    per_graph_sequence_bytes: Amount
    per_gpu_bytes: Amount  # of the tp x pp group
    per_dp_graph_sequence_bytes: Amount  # with data-parallel attention, for every rank ...
    per_large_dp_graph_sequence_bytes: Amount = 0  # ... and so much more where a rank captures more sequences than ...
    large_graph_from: Amount = 0  # ... these
    floor_bytes: Amount  # at least this much ...
    floor_from_bytes: Amount  # ... on devices larger than this
    per_prompt_graph_bytes: Amount = 0  # of every size at which prompts are captured as CUDA graphs ...
    latent_prompt_graphs_bytes: Amount = 0  # ... with latent attention, all sizes together
    draft_bytes: Amount = 0  # with a model or head that drafts
    encoder_share: Share = 1  # of the fraction where images are read, and less with a large encoder ...
    encoder_depths: tuple[str, ...] = ()  # ... whose layers it does not find: model_type of configs begins so
    aiter_share: Share = 1  # of any fraction, given or not, with AMD's own attention kernels ...
    aiter_on: tuple[Name, ...] = ()  # ... on these generations ...
    aiter_share_from: Tokens = 1  # ... and in longer contexts


class Budget(Spec):
    """How much of a device the engine takes."""

    rule: BudgetRule
    utilization: Annotated[float, Field(gt=0, le=1)]  # the default fraction
    context_bytes: Amount  # taken by the driver before the engine measures what is free
    reserve: StaticReserve | None = None  # not None: the default fraction follows from it


class CacheRules(Spec):
    """How tokens become blocks and blocks become bytes."""

    layout: CacheLayout
    allocation: Allocation
    block_tokens: Tokens
    null_blocks: Amount = 0  # blocks of the pool that no sequence can have
    group_slack: Amount = 1  # below this ratio of layer counts the larger one is the group size
    window_margin: Literal["none", "step", "ubatch"] = "none"  # in-flight tokens a window layer keeps on top
    margin_steps: Amount = 1  # steps in flight at once, where the margin is a step's; stages of a pipeline where more
    own_pages_told: bool = False  # packed blocks count by the pages that their layers fill where it tells what fits
    spare_blocks: Amount = 0  # of a window layer, because windows do not start on a block
    window_share: Annotated[float, Field(gt=0, le=1)] = 1  # SPLIT: window tokens per full token
    pooled_window_share: Share = 0  # SPLIT: the same where vectors are pooled from several tokens; 0: nothing special
    pooled_slots: bool = False  # pools that are open belong to slots, where no indexer picks from them
    keeps_chunk: bool = False  # ... and a prompt's last step stays in the windows' pool while prefixes are cached
    state_in_pool: bool = False  # recurrent states are pages of the pool
    state_slots: Amount = 1  # copies of the state per running sequence ...
    plain_state_slots: Amount | None = None  # ... where prefixes are not cached; None: as many
    conv_value_bytes: Amount = 2  # of the inputs that a recurrent layer's convolution keeps
    draft_state_slots: Amount = 0  # more copies per drafted token ...
    first_state_slots: Amount = 0  # ... and for the token before the first of them
    state_share: Share = 0  # part of the pool that is set aside for states; 0: as needed
    shared_layers: bool = False  # layers that read another layer's cache own pages like all others
    cross_layers: bool = False  # layers that attend to an image own pages like all others
    indexer_value_bytes: Amount = 2  # of the sparse-attention indexer's keys, scales included
    sparse_latent_bytes: Amount = 0  # of a latent in 8 bit, scales and rotary key included, that an indexer picks from
    plain_latents_on: tuple[Name, ...] = ()  # generations on which such a latent is cached without scales
    latent_values: bool = False  # MLA caches the values beside the latent, not only the latent
    latent_prompts: bool = False  # MLA reads the latent for prompts too, instead of expanding keys and values
    windows: bool = True  # false: window layers keep and read whole sequences
    sharded: bool = True  # a group divides heads and results; false: its first GPU holds both, and the cache
    reserves_full: bool = False  # a sequence starts only when the pool holds it to its last token, not by its prompt
    computed_again: Share = 0  # of what a full pool takes from the latest requests; 0: it sets none back
    fp8_kv_with: tuple[str, ...] = ()  # weight formats whose published checkpoints ask this engine for an FP8 cache
    fp8_picked_on: tuple[Name, ...] = ()  # generations on which latents that an indexer picks from are cached in FP8
    fp8_pooled: bool = False  # vectors pooled from several tokens are, everywhere
    tokens_from_concurrency: bool = False  # the printed tokens are concurrency x max_model_len


class WeightRules(Spec):
    """What the engine's process holds of a checkpoint beyond its tensors."""

    host_roles: tuple[Role, ...] = ()  # stay in host memory, unless the head uses them too
    separate_encoder: bool = False  # the image encoder is a file of its own, loaded for images only
    optional_encoder: bool = False  # an engine that is started for text alone does not load it
    rope_cache: bool = False  # a table of cosines and sines for every position of the checkpoint
    rope_value_bytes: Amount = 0  # of its entries; 0: as activations
    rope_longer: Amount = 1  # times as many positions in models of `rope_longer_types`
    rope_longer_types: tuple[str, ...] = ()  # model_type of configs
    image_levels: bool = False  # results of the encoder's inner levels have buffers for every token of a step
    unpacked_latents: Amount = 0  # that packed ones become, per token of max_model_len, in a buffer made first
    latent_copies: Amount = 0  # absorbed copies of MLA's key and value expansion
    block_bytes: Amount = 0  # allocations of at least `block_from_bytes` are rounded up to this ...
    block_from_bytes: Amount = 0
    draft_vocabulary: bool = False  # a prediction head holds an embedding and a head of its own while the pool is sized
    lora_roles: tuple[Role, ...] = ()  # whose matrices have adapters
    block_slack_bytes: Amount = 0  # ... where at most this much is left over, else the rest is reused


class Activation(Spec):
    """Peak of one profiled step: the larger of the sampler's phase and of the widest layer's."""

    logits_bytes: Amount  # per sampled sequence and vocabulary entry, copies of the sampler included
    logit_rows: Literal["sequences", "running", "tokens"]  # rows of logits: max_num_seqs, the load's, or every token
    draft_rows: Amount = 0  # more rows of logits per sequence when tokens are drafted, at most
    hidden_copies: Amount  # activations of hidden_size per token that live beside the logits
    layer_copies: Amount  # the same while a layer runs
    inner_copies: Amount  # activations of the inner width of a gated MLP per token
    flash_copies: Amount = 0  # more of hidden_size beside the logits and the mask, where attention is fused
    stage_copies: Amount  # hidden activations that travel between pipeline stages
    expert_workspace: Amount  # share of the routed experts' intermediate results that is materialised
    expert_sum: bool = False  # gate, up and down of an expert live at once; false: down reuses what gate and up leave
    expert_workspace_stays: bool = False  # it is kept between layers and adds to the sampler's phase
    indexer_keys: Amount = 0  # that a sparse attention's indexer gathers, per token of max_model_len, in that buffer
    indexer_score_bytes: Amount = 0  # of its scores, while a layer runs
    encoder_copies: Amount = 0  # activations of an image encoder's width per patch in the profiled step; 0: not run
    encoder_inner_copies: Amount = 0  # the same of its inner width; one more where its MLP has a gate
    encoder_native_copies: Amount = 0  # as encoder_copies where the resolution is native ...
    encoder_native_split_copies: Amount = 0  # ... with those that tensor parallelism divides: rotated in fp32 ...
    encoder_output_copies: Amount = 0  # of what leaves an encoder that joins the results of several layers
    encoder_tokens: Amount = 0  # of the largest image where the resolution is native
    score_bytes: Amount = 0  # per query, key and head when attention is not fused
    mask_bytes: Amount = 0  # per query and key
    stage_masks: Amount = 1  # copies of the mask when a pipeline overlaps its stages
    whole_prompt: bool = False  # a step takes all prompts at once instead of max_num_batched_tokens


class ProcessMemory(Spec):
    """Memory of one GPU's process outside of weights, cache and activations, bytes."""

    non_torch_bytes: Amount  # context, libraries and workspaces on one GPU
    early_non_torch_bytes: Amount | None = None  # the same before Hopper, where fewer kernels are loaded; None: as much
    unified_bytes: Amount = 0  # more where host and GPU share one memory: pages that the system fills meanwhile
    group_bytes: Amount = 0  # more of it when tp > 1 (NCCL, symmetric memory) ...
    group_doubling_bytes: Amount = 0  # ... and for every doubling of tp ...
    switch_bytes: Amount = 0  # ... and when tp > 2 (multicast buffers)
    plain_group_bytes: Amount | None = None  # instead of these on GPUs without multicast; None: as much
