"""A serving engine at one version: its budget, its cache manager, its defaults and its fixed costs.

Values are SI and already resolved for the version; where each comes from stands in `planner/data/engines`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from planner.specs.base import Kind, Name, Spec
from planner.specs.model import Role

Amount = Annotated[float, Field(ge=0, le=1e15)]
Share = Annotated[float, Field(ge=0, le=1)]
Tokens = Annotated[int, Field(ge=1, le=2**26)]


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
    per_dp_graph_sequence_bytes: Amount  # with data-parallel attention
    floor_bytes: Amount  # at least this much ...
    floor_from_bytes: Amount  # ... on devices larger than this
    per_prompt_graph_bytes: Amount = 0  # of every size at which prompts are captured as CUDA graphs ...
    latent_prompt_graphs_bytes: Amount = 0  # ... with latent attention, all sizes together
    draft_bytes: Amount = 0  # with a model or head that drafts
    encoder_share: Share = 1  # of the fraction where images are read, and less with a large encoder ...
    encoder_depths: tuple[str, ...] = ()  # ... whose layers it does not find: model_type of configs begins so
    aiter_share: Share = 1  # of any fraction, given or not, with AMD's attention kernels for Instinct ...
    aiter_share_from: Tokens = 1  # ... and longer contexts


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
    spare_blocks: Amount = 0  # of a window layer, because windows do not start on a block
    window_share: Annotated[float, Field(gt=0, le=1)] = 1  # SPLIT: window tokens per full token
    state_in_pool: bool = False  # recurrent states are pages of the pool
    state_slots: Amount = 1  # copies of the state per running sequence ...
    plain_state_slots: Amount | None = None  # ... where prefixes are not cached; None: as many
    conv_value_bytes: Amount = 2  # of the inputs that a recurrent layer's convolution keeps
    draft_state_slots: Amount = 0  # more copies per drafted token
    state_share: Share = 0  # part of the pool that is set aside for states; 0: as needed
    shared_layers: bool = False  # layers that read another layer's cache own pages like all others
    cross_layers: bool = False  # layers that attend to an image own pages like all others
    indexer_value_bytes: Amount = 2  # of the sparse-attention indexer's keys, scales included
    sparse_latent_bytes: Amount = 0  # of a latent in 8 bit, scales and rotary key included, that an indexer picks from
    latent_values: bool = False  # MLA caches the values beside the latent, not only the latent
    latent_prompts: bool = False  # MLA reads the latent for prompts too, instead of expanding keys and values
    windows: bool = True  # false: window layers keep and read whole sequences
    sharded: bool = True  # a group divides heads and results; false: its first GPU holds both, and the cache
    reserves_full: bool = False  # a sequence starts only when the pool holds it to its last token, not by its prompt
    computed_again: Share = 0  # of what a full pool takes from the latest requests; 0: it sets none back
    fp8_kv_with: tuple[str, ...] = ()  # weight formats whose published checkpoints ask this engine for an FP8 cache
    tokens_from_concurrency: bool = False  # the printed tokens are concurrency x max_model_len


class WeightRules(Spec):
    """What the engine's process holds of a checkpoint beyond its tensors."""

    vocab_multiple: Tokens = 1  # to which the vocabulary is padded before it is split
    host_roles: tuple[Role, ...] = ()  # stay in host memory, unless the head uses them too
    encoder_split: bool = False  # the image encoder's matrices are divided over the tensor-parallel group
    separate_encoder: bool = False  # the image encoder is a file of its own, loaded for images only
    rope_cache: bool = False  # a table of cosines and sines for every position of the checkpoint
    rope_value_bytes: Amount = 0  # of its entries; 0: as activations
    rope_longer: Amount = 1  # times as many positions in models of `rope_longer_types`
    rope_longer_types: tuple[str, ...] = ()  # model_type of configs
    image_levels: bool = False  # results of the encoder's inner levels have buffers for every token of a step
    head_is_layer: bool = False  # layers are spread over GPUs in proportion, the head counted as one more
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


Reason = Literal["vendor", "images", "types", "picks", "latent", "ranks", "stages", "adapters", "drafts", "routing"]


class Overheads(Spec):
    """Fixed memory of a process and fixed times of a step.

    The times start the time model; memory formulas do not read them.
    """

    non_torch_bytes: Amount  # context, libraries and workspaces on one GPU
    early_non_torch_bytes: Amount | None = None  # the same before Hopper, where fewer kernels are loaded; None: as much
    unified_bytes: Amount = 0  # more where host and GPU share one memory: pages that the system fills meanwhile
    group_bytes: Amount = 0  # more of it when tp > 1 (NCCL, symmetric memory) ...
    group_doubling_bytes: Amount = 0  # ... and for every doubling of tp ...
    switch_bytes: Amount = 0  # ... and when tp > 2 (multicast buffers)
    plain_group_bytes: Amount | None = None  # instead of these on GPUs without multicast; None: as much
    graph_bytes: Amount = 0  # CUDA graphs: their pool ...
    unified_graph_bytes: Amount = 0  # more while they are captured where host and GPU share one memory
    graph_layer_bytes: Amount = 0  # ... and per layer and captured batch size
    graph_fine_step: Tokens = 8  # captured sizes: 1, 2, 4, then every this many ...
    graph_fine_to: Tokens = 256  # ... up to here ...
    graph_coarse_step: Tokens = 16  # ... and every this many beyond
    graph_in_budget: bool = False  # the engine subtracts its graphs before sizing the pool
    step_s: Amount = 0  # per forward step, not overlapped with the GPU
    rank_s: Amount = 0  # ... and per further GPU of a tensor-parallel group, in steps of ...
    rank_sequences: Annotated[float, Field(ge=1)] = 1  # ... at least so many sequences, in smaller ones by their share
    per_sequence_s: Amount = 0  # per running sequence and step
    start_factor: Annotated[float, Field(ge=1)] = 1  # start-up of launched kernels over that of replayed ones
    state_step_s: Amount = 0  # more per step where prefixes of recurrent states are cached ...
    state_sequence_s: Amount = 0  # ... and per running sequence of it
    host_sequence_s: Amount = 0  # the host's work per running sequence and step while the GPU works
    # the same per stage of a pipeline, whose micro-batches one process plans, and whose results each stage waits for
    stage_sequence_s: Amount = 0
    per_expert_s: Amount = 0  # per expert and layer where CUDA hosts start them one after another
    router_s: Amount = 0  # per layer of experts for choosing them in kernels of its own, where CUDA runs
    unfused_router_s: Amount = 0  # ... the same of models that correct the choice by a bias, but for ...
    fused_router_types: tuple[str, ...] = ()  # ... these, whose choice is one kernel ...
    fused_router_powers: bool = False  # ... and those with a power of two of experts
    routed_row_s: Amount = 0  # per layer, token and expert chosen, where CUDA hosts sort them
    host_expert_s: Amount = 0  # per product of experts that the CPU runs: the GPU's graph ends before and starts after
    launch_s: Amount = 0  # to prepare a step that no CUDA graph replays ...
    per_layer_s: Amount = 0  # ... to launch a layer's kernels of it ...
    decode_layer_s: Amount | None = None  # ... the same of any layer without prompts, None: as with ...
    recurrent_layer_s: Amount = 0  # ... more for a layer with a recurrent state ...
    picking_layer_s: Amount = 0  # ... and for one whose tokens pick the keys that they attend to
    quantized_layer_s: Amount = 0  # ... with prompts, for one whose products quantize their inputs
    expert_layer_s: Amount = 0  # ... and for one whose experts take several kernels ...
    one_kernel_experts: tuple[str, ...] = ()  # ... but for these kernel families ...
    one_kernel_on: tuple[Name, ...] = ()  # ... on these generations
    # how far a prompt's launches hide behind its kernels, an exponent: some layers last longer on the host; 0: wholly
    prompts_hide: Amount = 0
    pieces: bool = False  # graphs replay prompts in pieces, between which the host launches attention ...
    piece_layer_s: Amount = 0  # ... which takes so long for a layer ...
    latent_piece_tokens: Amount | None = None  # ... to so many tokens in a step of models with latent attention ...
    pieces_except: tuple[Reason, ...] = ()  # ... but not here
    pieces_except_types: tuple[str, ...] = ()  # model_type of configs, for `types`
    pieces_types: tuple[str, ...] = ()  # whose prompts they replay although they take images
    # models whose experts run in TensorRT-LLM's kernels (16 bit apart) on these generations; all others' in Triton's
    routed_types: tuple[str, ...] = ()
    routed_half_types: tuple[str, ...] = ()
    routed_on: tuple[Name, ...] = ()
    # generations on which inputs of MXFP4 experts are quantized too, but for these models
    mx4_inputs_on: tuple[Name, ...] = ()
    mx4_inputs_except: tuple[str, ...] = ()
    # steps that graphs replay: none, those of one token, those without prefill, all
    graphs: Literal["none", "single", "decode", "mixed"] = "mixed"
    shared_beside_types: tuple[str, ...] = ()  # whose shared experts run beside the routed ones where graphs replay
    shared_routed_types: tuple[str, ...] = ()  # whose shared experts are routed experts of every token ...
    shared_routed_on: tuple[Name, ...] = ()  # ... on these generations
    norms_within_types: tuple[str, ...] = ()  # whose norms run in the kernels of all-reduces ...
    norms_within_on: tuple[Name, ...] = ()  # ... on these generations ...
    norms_within_tokens: Amount = 0  # ... in steps of at most so many tokens
    # of the arithmetic that expert kernels attain alone, what they attain in a model that serves
    expert_arithmetic: Annotated[float, Field(gt=0, le=1)] = 1
    # the same of products of packed weights, on generations where they are unpacked to 16 bit first
    packed_arithmetic: Annotated[float, Field(gt=0, le=1)] = 1
    unpacks: tuple[Name, ...] = ()
    # of the rate at which pinned memory is copied, that of weights in host memory
    copied_weights: Annotated[float, Field(gt=0, le=1)] = 1
    shared_heads: Amount = 0  # query heads per cached head that decode attention takes together; 0: any number
    slow_fused: tuple[Name, ...] = ()  # generations whose fused attention does without matrix units
    graphless: tuple[Name, ...] = ()  # generations for which the engine captures no CUDA graphs
    score_traffic: Amount = 0  # bytes that attention moves per query, key and head where it is not fused
    # parts of a sequence that are read side by side where heads are wider than fused kernels take; 0: no such kernel
    wide_segments: Amount = 0
    wide_prompt_cost: Amount = 1  # FLOPs of prompts with such heads, in those of narrow ones
    state_kernels: Amount = 0  # more that update a delta rule's state for a generated token where it is not fused ...
    state_passes: Amount = 0  # ... and more times that they read or write the state
    chunk_overlap: Annotated[float, Field(ge=0, le=1)] = 0  # of a prompt's chunks in pipeline stages, an exponent
    late_steps: Amount = 0  # that pass between a request's arrival and its first, beyond the one that runs ...
    balance_steps: Amount = 0  # ... and for which ranks of attention data-parallel wait at most until each has a prompt
    request_s: Amount = 0  # per request: HTTP, tokenizer, detokenizer ...
    latent_layer_s: Amount = 0  # ... for a layer with latent attention, before the first token ...
    per_prompt_token_s: Amount = 0  # ... and per token of its prompt
    # a server's front end takes requests one after another, and sends their tokens one after another, beside each other
    front_request_s: Amount = 0
    front_token_s: Amount = 0
    stream_interval: Annotated[int, Field(ge=1)] = 1  # tokens of a request that it sends at once
    # of a benchmark's requests of one length, how many stay together from wave to wave: so many ...
    group_prompts: Annotated[float, Field(ge=1)] = 1
    group_share: Annotated[float, Field(ge=0, le=1)] = 0  # ... or this share of those in flight ...
    group_whole: bool = False  # ... or all, if one step prefills them all ...
    group_waves: Amount = 0  # ... or as many as a step holds, in a benchmark of at most so many waves


class Tier(Spec):
    """Default limits on devices of at least `from_bytes`."""

    from_bytes: Amount
    max_num_seqs: Tokens
    max_num_batched_tokens: Tokens
    graph_batch: Tokens = 512  # largest batch that is captured
    graph_batch_tp4: Tokens = 512  # the same when tp >= 4
    except_names: tuple[str, ...] = ()  # substrings of device names that stay in the tier below
    discrete: bool = False  # only for GPUs with memory of their own: of unified memory the engine learns no size
    whole_prompts_to: Tokens = 1  # up to this max_model_len a step takes a prompt as a whole, however long


class Defaults(Spec):
    """Settings when the user gives none."""

    tiers: Annotated[tuple[Tier, ...], Field(min_length=1)]  # by rising from_bytes
    rocm_whole_prompts: bool = False  # without CUDA a step takes a prompt of max_model_len as a whole
    whole_prompts: bool = False  # a step takes at least one prompt as a whole, beside all slots
    wide_graph_types: tuple[str, ...] = ()  # model_type of configs for which the engine captures larger batches ...
    wide_graph_batch: Tokens = 512  # ... up to this ...
    wide_graph_step: Tokens = 16  # ... and every so many beyond `graph_fine_to`
    n_ubatch: Tokens = 512
    flash_attention: bool = True  # llama.cpp: attention is fused unless the scenario says otherwise


class EngineSpec(Spec):
    """One engine, constants resolved for `version`."""

    id: Name
    name: str
    version: str  # as resolved
    note: str = ""  # what was assumed to resolve it
    kernels: str = ""  # whose figures price its kernels: its id, with a back-end that has kernels of its own behind a /
    budget: Budget
    weights: WeightRules
    cache: CacheRules
    activation: Activation
    overheads: Overheads
    defaults: Defaults
    chunks_mixed: bool = True  # prefill chunks share a step with decodes; false: steps of their own
    stages_wait: bool = False  # a prompt in one micro-batch of a pipeline holds up the others
    ranks_together: bool = False  # attention-DP ranks start prompts in the same step
    rank_budget: bool = True  # max_num_batched_tokens holds for every attention-DP rank; false: for all together
    attention_dp_roles: tuple[Role, ...] = ()  # non-attention weights that data-parallel attention replicates
    tokens_gathered: bool = False  # by all of its ranks for their experts; false: sent where they are routed


class Constant(Spec):
    """A constant of an engine's file: the value, where it was read, how it is known."""

    value: float | bool | str | list[str]
    source: Annotated[str, Field(min_length=1, max_length=500)]
    kind: Kind
