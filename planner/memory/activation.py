"""Memory that neither weights nor cache take: the peak of a step, libraries, CUDA graphs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from planner.collectives import Parallel
from planner.formats.packing import padded
from planner.memory.placement import Placements
from planner.memory.terms import Array, Device, Floats, MemoryInputs, floats, slot_tokens
from planner.memory.weights import cache_group, result_ways, streamed_tensor_bytes
from planner.memory.workspace import indexer_bytes, step_tokens, workspace_bytes
from planner.specs.engine import EngineSpec, Graphs
from planner.specs.model import (
    Attention,
    CompressedAttention,
    DenseFfn,
    LatentAttention,
    Mixer,
    ModelSpec,
    MoeFfn,
    Vision,
)

_SMALLEST_GRAPHS = 3  # batches of 1, 2 and 4
_FLASHINFER_HEAD_DIM = 256  # the largest that FlashInfer's attention takes


def sampler_bytes(model: ModelSpec, engine: EngineSpec, inputs: MemoryInputs) -> Floats:
    """Logits of the sampled rows with the sampler's copies, and the hidden states beside them.

    logits_bytes x rows x vocabulary + hidden_copies x tokens x hidden x bytes; every rank of a
    tensor-parallel group gathers the whole vocabulary.
    """
    constants, tokens = engine.activation, step_tokens(engine, inputs)
    drafted = np.minimum(inputs.settings.draft_tokens, constants.draft_rows)
    rows = np.minimum(_logit_rows(engine, inputs) * (1 + drafted), tokens)
    vocab = padded(model.vocab_size, engine.division.vocab_multiple) if model.lm_head else 0
    hidden_bytes = _hidden_bytes(constants.hidden_copies, model, tokens, inputs)
    return floats(constants.logits_bytes * rows * vocab + hidden_bytes)


def _flash_mask_bytes(model: ModelSpec, engine: EngineSpec, inputs: MemoryInputs, where: Placements) -> Floats:
    """llama.cpp with flash attention: the mask stays below the logits, and two hidden states with it.

    613 MiB of Llama-3.1-8B and 382 of Qwen2.5-7B are logits, three hidden states and the mask. Not so where the
    graph is cut (several GPUs, layers on the host) and in models with windows, which have two masks.
    """
    windowed = any(getattr(mixer, "window", None) or getattr(mixer, "chunk", None) for mixer in model.mixers)
    if not engine.activation.flash_copies or windowed:
        return floats(0.0)
    hidden_bytes = _hidden_bytes(engine.activation.flash_copies, model, step_tokens(engine, inputs), inputs)
    uncut = inputs.settings.flash_attention & (floats(inputs.parallel.pp) == 1) & _on_gpus(where)
    return np.where(uncut, engine.activation.mask_bytes * _pairs(inputs) + hidden_bytes, 0.0)


def _logit_rows(engine: EngineSpec, inputs: MemoryInputs) -> Floats:
    """Sequences whose next token is sampled at once."""
    if engine.activation.logit_rows == "tokens":
        return step_tokens(engine, inputs)
    if engine.activation.logit_rows == "running":
        return np.minimum(floats(inputs.load.concurrency), inputs.settings.max_num_seqs)
    return floats(inputs.settings.max_num_seqs)


def _hidden_bytes(copies: float, model: ModelSpec, tokens: Floats, inputs: MemoryInputs) -> Floats:
    return floats(copies * tokens * model.hidden_size * inputs.value_bytes)


def _inner_width(model: ModelSpec) -> int:
    """Inner width of the widest MLP that every token passes."""
    dense = [ffn.intermediate for ffn in model.ffns if isinstance(ffn, DenseFfn)]
    moe = [max(ffn.shared_intermediate, ffn.dense_intermediate) for ffn in model.ffns if isinstance(ffn, MoeFfn)]
    return max(dense + moe, default=0)


def _qkv_width(mixer: Mixer) -> int:
    """Queries, keys, values and the result of one token."""
    if isinstance(mixer, Attention):
        return (mixer.n_heads + mixer.n_kv_heads) * (mixer.head_dim + (mixer.v_head_dim or mixer.head_dim))
    if isinstance(mixer, LatentAttention):
        return 2 * mixer.n_heads * (mixer.qk_nope_head_dim + mixer.qk_rope_head_dim + mixer.v_head_dim)
    if isinstance(mixer, CompressedAttention):
        return 2 * (mixer.n_heads + 1) * mixer.head_dim
    return 0


def layer_bytes(model: ModelSpec, engine: EngineSpec, inputs: MemoryInputs, where: Placements) -> Floats:
    """(S, R): the widest layer at work: residual and hidden copies, and the wider of its ffn and its attention.

    Beside an ffn whose weights are in host memory the first GPU keeps a copy of the matrix that it multiplies
    with.
    """
    constants, tokens = engine.activation, step_tokens(engine, inputs)
    ways = result_ways(engine, inputs.parallel)
    inner_bytes = constants.inner_copies * _inner_width(model) / ways * tokens * inputs.value_bytes
    shared_bytes = workspace_bytes(model, engine, inputs)
    first = np.arange(where.n_stages).reshape(-1, 1) == 0
    copied_bytes = np.where(first, streamed_tensor_bytes(model, inputs, where), 0.0)
    ffn_bytes = copied_bytes + (np.maximum(inner_bytes, shared_bytes) if constants.expert_sum else inner_bytes)
    qkv_width = max((_qkv_width(mixer) for mixer in model.mixers), default=0) / cache_group(engine, inputs.parallel)
    attention_bytes = tokens * qkv_width * inputs.value_bytes + score_bytes(model, engine, inputs, where)
    widest_bytes = _hidden_bytes(constants.layer_copies, model, tokens, inputs) + np.maximum(ffn_bytes, attention_bytes)
    if constants.expert_sum:
        return widest_bytes
    scores = constants.indexer_score_bytes if np.any(indexer_bytes(model, engine, inputs)) else 0.0
    return floats(widest_bytes + shared_bytes + scores)


def overlapped(inputs: MemoryInputs, where: Placements) -> NDArray[np.bool_]:
    """(R,): whether pipeline stages overlap; with anything but tables in host memory llama.cpp runs them in turn."""
    return np.asarray((floats(inputs.parallel.pp) > 1) & _on_gpus(where))


def _on_gpus(where: Placements) -> NDArray[np.bool_]:
    """(R,): whether no layer and no expert is in host memory."""
    return where.numbers([float(not (one.host_layers or one.host_expert_layers)) for one in where.distinct]) > 0


def score_bytes(model: ModelSpec, engine: EngineSpec, inputs: MemoryInputs, where: Placements) -> Floats:
    """Attention scores and mask of a micro-batch against the whole context, where they are materialised."""
    constants = engine.activation
    heads = max((mixer.n_heads for mixer in model.mixers if isinstance(mixer, Attention | LatentAttention)), default=0)
    pair_score_bytes = constants.score_bytes * heads / cache_group(engine, inputs.parallel)
    pair_mask_bytes = constants.mask_bytes * np.where(overlapped(inputs, where), constants.stage_masks, 1)
    return floats((np.where(inputs.settings.flash_attention, 0.0, pair_score_bytes) + pair_mask_bytes) * _pairs(inputs))


def _pairs(inputs: MemoryInputs) -> Floats:
    """Queries of a micro-batch times keys of every slot's whole context."""
    return floats(inputs.settings.n_ubatch) * slot_tokens(inputs) * inputs.settings.max_num_seqs


class Encoder(NamedTuple):
    """The image encoder's part of a profiled step, bytes (R,)."""

    running: Floats  # while it runs
    results: Floats  # that it leaves for the language model


def _gated_encoder(model: ModelSpec, vision: Vision) -> bool:
    """Whether the encoder's MLP has a gate beside its upward projection, as in Qwen2.5-VL."""
    return any(extra.name == "vision.mlp.up" and extra.copies > vision.n_layers for extra in model.extras)


def encoder_bytes(model: ModelSpec, engine: EngineSpec, inputs: MemoryInputs) -> Encoder:
    """As many of the largest images as the token budget holds, at least one and at most one per sequence.

    patches x (copies x hidden + (split copies x hidden + inner copies x intermediate) / tp) x bytes, and the image
    tokens in the width of the language model. A model that attends to images is profiled with one in every
    sequence, and copies of the joined results outweigh the layers. Ref: vllm/multimodal/encoder_budget.py.
    """
    vision, constants = model.vision, engine.activation
    if vision is None or not constants.encoder_copies:
        return Encoder(floats(0.0), floats(0.0))
    grid = vision.tiles * (vision.image_size // vision.patch) ** 2
    tokens = vision.tokens_per_image or grid / vision.merge**2 or constants.encoder_tokens
    patches = grid or tokens * vision.merge**2
    budget = floats(inputs.settings.max_num_batched_tokens)
    items = np.clip(np.floor(budget / tokens), 1, inputs.settings.max_num_seqs)
    copies, split, inner = constants.encoder_copies, 0.0, constants.encoder_inner_copies
    if not (grid or vision.tokens_per_image):
        copies, split = constants.encoder_native_copies, constants.encoder_native_split_copies
        inner += float(_gated_encoder(model, vision))
    if any(isinstance(mixer, Attention) and mixer.cross for mixer in model.mixers):
        items = floats(inputs.settings.max_num_seqs)
    items = np.where(inputs.settings.text_alone, 0.0, items)
    divided = (split * vision.hidden + inner * vision.intermediate) / floats(inputs.parallel.tp)
    per_patch = copies * vision.hidden + divided
    if vision.output:
        per_patch = floats(constants.encoder_output_copies * vision.output)
    results = items * tokens * model.hidden_size * inputs.value_bytes
    return Encoder(floats(items * patches * per_patch * inputs.value_bytes + results), floats(results))


def activation_bytes(model: ModelSpec, engine: EngineSpec, inputs: MemoryInputs, where: Placements) -> Floats:
    """(S, R): peak of one step on each stage: the largest of the sampler's phase, the widest layer's and, on the
    first stage, the image encoder's.

    Logits stand on the last stage only; stages of a pipeline hold the states that travel between them.
    """
    stage = np.arange(where.n_stages).reshape(-1, 1)
    last = stage == floats(inputs.parallel.pp) - 1
    last = last & (where.numbers([float(not one.host_head) for one in where.distinct]) > 0)
    travelling = _hidden_bytes(engine.activation.stage_copies, model, step_tokens(engine, inputs), inputs)
    layer = layer_bytes(model, engine, inputs, where) + np.where(overlapped(inputs, where), travelling, 0.0)
    stays = workspace_bytes if engine.activation.expert_workspace_stays else indexer_bytes
    kept = stays(model, engine, inputs)
    sampled = sampler_bytes(model, engine, inputs) + _flash_mask_bytes(model, engine, inputs, where)
    text = np.maximum(np.where(last, sampled + kept, 0.0), layer)
    images = encoder_bytes(model, engine, inputs)
    return floats(np.where(stage == 0, np.maximum(text + images.results, images.running), text))


def non_torch_bytes(engine: EngineSpec, parallel: Parallel, device: Device) -> Floats:
    """Libraries and workspaces of one process; more once a tensor-parallel group communicates.

    GPUs whose switch adds up (NVLink from Hopper on) hold buffers for it; others exchange through small ones.
    """
    tp, own = floats(parallel.tp), engine.process
    early = own.non_torch_bytes if own.early_non_torch_bytes is None else own.early_non_torch_bytes
    group = own.group_bytes + own.group_doubling_bytes * np.log2(tp) + np.where(tp > 2, own.switch_bytes, 0.0)
    plain = group if own.plain_group_bytes is None else own.plain_group_bytes
    alone = np.where(device.early, early, own.non_torch_bytes) + np.where(device.unified, own.unified_bytes, 0.0)
    return floats(alone + np.where(tp > 1, np.where(device.multicast, group, plain), 0.0))


def graph_sizes(graphs: Graphs, largest_batch: Array) -> Floats:
    """How many batch sizes are captured as CUDA graphs up to the largest."""
    fine = np.floor(np.minimum(largest_batch, graphs.fine_to) / graphs.fine_step)
    coarse = np.floor(np.maximum(floats(largest_batch) - graphs.fine_to, 0) / graphs.coarse_step)
    return floats(_SMALLEST_GRAPHS + fine + coarse)


def graph_bytes(model: ModelSpec, engine: EngineSpec, inputs: MemoryInputs) -> Floats:
    """CUDA graphs: a pool, more per layer and captured size, and FlashInfer's workspace; none in eager mode."""
    settings = inputs.settings
    largest = np.minimum(2 * floats(settings.max_num_seqs), settings.graph_batch)
    layers = model.n_layers / floats(inputs.parallel.pp)
    graphs, defaults = engine.graphs, engine.defaults
    if model.model_type in defaults.wide_graph_types:
        graphs = graphs.model_copy(update={"coarse_step": defaults.wide_graph_step})
    captured = graphs.layer_bytes * layers * graph_sizes(graphs, largest)
    pool = graphs.pool_bytes + np.where(inputs.device.unified, graphs.unified_bytes, 0.0)
    fused = np.where(_flashinfer(model, inputs) & (floats(settings.draft_tokens) == 0), graphs.attention_bytes, 0.0)
    return np.where(settings.enforce_eager, 0.0, pool + fused + captured)


def _flashinfer(model: ModelSpec, inputs: MemoryInputs) -> NDArray[np.bool_]:
    """(R,): whether FlashInfer's attention runs: heads of at most 256, and sinks only where it runs for every cache."""
    mixers = [mixer for mixer in model.mixers if isinstance(mixer, Attention)]
    if not mixers or max(mixer.head_dim for mixer in mixers) > _FLASHINFER_HEAD_DIM:
        return np.asarray(False)
    small = np.asarray(inputs.device.flashinfer_8bit) & (floats(inputs.kv_k_bytes) < 2)
    return np.asarray(inputs.device.flashinfer | (small & (not any(mixer.sinks for mixer in mixers))))
