"""Memory that neither weights nor cache take: the peak of a step, libraries, CUDA graphs."""

from __future__ import annotations

import numpy as np

from planner.collectives import Parallel
from planner.memory.terms import Array, Floats, MemoryInputs
from planner.memory.weights import attention_group, padded
from planner.specs.engine import EngineSpec
from planner.specs.model import Attention, DenseFfn, LatentAttention, Mixer, ModelSpec, MoeFfn

# Batch sizes that vLLM and SGLang capture: 1, 2, 4, then steps of 8 to 256 and of 16 beyond.
_GRAPH_FINE_STEP, _GRAPH_FINE_TO, _GRAPH_COARSE_STEP, _GRAPH_FIRST = 8, 256, 16, 3


def step_tokens(engine: EngineSpec, inputs: MemoryInputs) -> Array:
    """Tokens of the largest step."""
    if engine.activation.whole_prompt:
        return np.maximum(np.asarray(inputs.load.input_tokens) * np.asarray(inputs.load.concurrency), 1)
    if engine.activation.logit_rows == "tokens":
        return inputs.settings.n_ubatch
    return inputs.settings.max_num_batched_tokens


def sampler_bytes(model: ModelSpec, engine: EngineSpec, inputs: MemoryInputs) -> Array:
    """Logits of the sampled rows with the sampler's copies, and the hidden states beside them.

    logits_bytes x rows x vocabulary + hidden_copies x tokens x hidden x bytes; every rank of a
    tensor-parallel group gathers the whole vocabulary.
    """
    constants, tokens = engine.activation, step_tokens(engine, inputs)
    rows = tokens if constants.logit_rows == "tokens" else np.minimum(inputs.settings.max_num_seqs, tokens)
    vocab = padded(model.vocab_size, engine.defaults.vocab_multiple) if model.lm_head else 0
    hidden = constants.hidden_copies * model.hidden_size * inputs.value_bytes
    return constants.logits_bytes * np.asarray(rows) * vocab + hidden * np.asarray(tokens)


def _inner_width(model: ModelSpec) -> int:
    """Widest gated MLP that a token passes, in units of one inner vector."""
    dense = [ffn.intermediate for ffn in model.ffns if isinstance(ffn, DenseFfn)]
    moe = [max(ffn.shared_intermediate, ffn.dense_intermediate) for ffn in model.ffns if isinstance(ffn, MoeFfn)]
    return max(dense + moe, default=0)


def _qkv_width(mixer: Mixer) -> int:
    """Queries, keys, values and the result of one token."""
    if isinstance(mixer, Attention):
        values = mixer.v_head_dim or mixer.head_dim
        return (mixer.n_heads + mixer.n_kv_heads) * (mixer.head_dim + values)
    if isinstance(mixer, LatentAttention):
        return 2 * mixer.n_heads * (mixer.qk_nope_head_dim + mixer.qk_rope_head_dim + mixer.v_head_dim)
    return 0


def layer_bytes(model: ModelSpec, engine: EngineSpec, inputs: MemoryInputs) -> Array:
    """The widest layer at work: residual and hidden copies, and the wider of its MLP and its attention."""
    constants, tokens = engine.activation, np.asarray(step_tokens(engine, inputs), dtype=float)
    inner = constants.inner_copies * _inner_width(model) / np.asarray(inputs.parallel.tp)
    qkv = max((_qkv_width(mixer) for mixer in model.mixers), default=0) / attention_group(inputs.parallel)
    width = constants.layer_copies * model.hidden_size + np.maximum(inner, qkv)
    return tokens * width * inputs.value_bytes + score_bytes(model, engine, inputs)


def score_bytes(model: ModelSpec, engine: EngineSpec, inputs: MemoryInputs) -> Array:
    """Attention scores and mask of a micro-batch against the whole context, where they are materialised."""
    context = np.asarray(inputs.settings.max_model_len, dtype=float) * np.asarray(inputs.settings.max_num_seqs)
    heads = max((mixer.n_heads for mixer in model.mixers if isinstance(mixer, Attention | LatentAttention)), default=0)
    scores = engine.activation.score_bytes * heads / attention_group(inputs.parallel)
    per_pair = np.where(inputs.settings.flash_attention, 0.0, scores) + engine.activation.mask_bytes
    return per_pair * context * np.asarray(inputs.settings.n_ubatch)


def expert_bytes(model: ModelSpec, engine: EngineSpec, inputs: MemoryInputs) -> Array:
    """Intermediate results of routed experts: tokens x top_k x (max(2 inner, hidden) + inner) x bytes.

    The workspace stays allocated, so it adds to whichever phase peaks.
    """
    experts = [ffn for ffn in model.ffns if isinstance(ffn, MoeFfn)]
    if not experts:
        return 0.0
    tokens = np.asarray(step_tokens(engine, inputs), dtype=float)
    share = np.asarray(inputs.parallel.ep) / np.asarray(inputs.parallel.tp)
    widths = [
        ffn.top_k * (np.maximum(2 * ffn.intermediate * share, ffn.latent or model.hidden_size) + ffn.intermediate * share)
        for ffn in experts
    ]
    widest = np.max(np.stack(np.broadcast_arrays(*widths)), axis=0)
    return np.asarray(engine.activation.expert_workspace * tokens * widest * inputs.value_bytes)


def activation_bytes(model: ModelSpec, engine: EngineSpec, inputs: MemoryInputs, stages: int) -> Floats:
    """(S, R): peak of one step on each stage: max(sampler, layer) + expert workspace.

    Logits stand on the last stage only; stages of a pipeline hold the states that travel between them.
    """
    pp = np.asarray(inputs.parallel.pp, dtype=float)
    last = np.arange(stages).reshape(-1, 1) == pp - 1
    tokens = np.asarray(step_tokens(engine, inputs), dtype=float)
    travelling = engine.activation.stage_copies * tokens * model.hidden_size * inputs.value_bytes
    layer = layer_bytes(model, engine, inputs) + np.where(pp > 1, travelling, 0.0)
    sampler = np.where(last, sampler_bytes(model, engine, inputs), 0.0)
    return np.asarray(np.maximum(sampler, layer) + expert_bytes(model, engine, inputs))


def non_torch_bytes(engine: EngineSpec, parallel: Parallel) -> Floats:
    """Context, libraries and workspaces of one process; more once a tensor-parallel group communicates."""
    tp, fixed = np.asarray(parallel.tp, dtype=float), engine.overheads
    group = fixed.group_bytes + fixed.group_doubling_bytes * np.log2(tp)
    return np.asarray(fixed.non_torch_bytes + np.where(tp > 1, group, 0.0))


def graph_sizes(largest_batch: Array) -> Floats:
    """How many batch sizes are captured as CUDA graphs up to the largest."""
    largest = np.asarray(largest_batch, dtype=float)
    fine = np.floor(np.minimum(largest, _GRAPH_FINE_TO) / _GRAPH_FINE_STEP)
    coarse = np.floor(np.maximum(largest - _GRAPH_FINE_TO, 0) / _GRAPH_COARSE_STEP)
    return np.asarray(_GRAPH_FIRST + fine + coarse)


def graph_bytes(model: ModelSpec, engine: EngineSpec, inputs: MemoryInputs) -> Floats:
    """CUDA graphs: per layer and captured size; none in eager mode."""
    settings = inputs.settings
    largest = np.minimum(2 * np.asarray(settings.max_num_seqs), settings.graph_batch)
    layers = model.n_layers / np.asarray(inputs.parallel.pp, dtype=float)
    captured = engine.overheads.graph_layer_bytes * layers * graph_sizes(largest)
    return np.where(settings.enforce_eager, 0.0, captured)
