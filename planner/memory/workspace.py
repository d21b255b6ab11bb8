"""The buffer of intermediate results that kernels share and that stays between layers."""

from __future__ import annotations

import numpy as np

from planner.memory.cache import packed_latents
from planner.memory.terms import Floats, MemoryInputs, floats
from planner.specs.engine import EngineSpec
from planner.specs.model import CompressedAttention, Indexer, LatentAttention, ModelSpec, MoeFfn


def expert_bytes(model: ModelSpec, engine: EngineSpec, inputs: MemoryInputs) -> Floats:
    """Intermediate results of routed experts: tokens x top_k x (max(2 inner, hidden) + inner) x bytes.

    llama.cpp holds gate, up and down of every token at once: 2 inner + hidden.
    """
    split = floats(inputs.parallel.ep) / inputs.parallel.tp if engine.cache.sharded else floats(1.0)
    widest = np.zeros_like(split)
    for ffn in (ffn for ffn in model.ffns if isinstance(ffn, MoeFfn)):
        inner, hidden = ffn.intermediate * split, ffn.latent or model.hidden_size
        live = 2 * inner + hidden if engine.activation.expert_sum else np.maximum(2 * inner, hidden) + inner
        widest = np.maximum(widest, ffn.top_k * live)
    return floats(engine.activation.expert_workspace * step_tokens(engine, inputs) * widest * inputs.value_bytes)


def step_tokens(engine: EngineSpec, inputs: MemoryInputs) -> Floats:
    """Tokens of the largest step."""
    if engine.activation.whole_prompt:
        return np.maximum(floats(inputs.load.input_tokens) * inputs.load.concurrency, 1)
    if engine.activation.logit_rows == "tokens":
        return floats(inputs.settings.n_ubatch)
    return floats(inputs.settings.max_num_batched_tokens)


def _indexers(model: ModelSpec) -> list[Indexer]:
    kinds = LatentAttention | CompressedAttention
    return [mixer.indexer for mixer in model.mixers if isinstance(mixer, kinds) and mixer.indexer is not None]


def indexer_bytes(model: ModelSpec, engine: EngineSpec, inputs: MemoryInputs) -> Floats:
    """Keys that an indexer gathers from the cache for the prompts of a step: keys x max_model_len x bytes of a key.

    Ref: vllm/v1/attention/backends/mla/indexer.py get_max_prefill_buffer_size.
    """
    widths = [one.head_dim / (one.block if one.pooled else 1) for one in _indexers(model)]
    key_bytes = max(widths, default=0.0) * engine.cache.indexer_value_bytes
    return floats(engine.activation.indexer_keys * inputs.settings.max_model_len * key_bytes)


def unpacked_bytes(model: ModelSpec, engine: EngineSpec, inputs: MemoryInputs) -> Floats:
    """Packed latents of a step's prompts in 16 bit; the buffer is made while weights load, and counts as such.

    Ref: vllm/v1/attention/backends/mla/flashmla_sparse.py get_prefill_workspace_size.
    """
    mixers = [mixer for mixer in model.mixers if isinstance(mixer, LatentAttention) and mixer.indexer is not None]
    width = max((mixer.kv_lora_rank + mixer.qk_rope_head_dim for mixer in mixers), default=0)
    latents = engine.weights.unpacked_latents * floats(inputs.settings.max_model_len)
    return np.where(packed_latents(engine, inputs), latents * width * inputs.value_bytes, 0.0)


def workspace_bytes(model: ModelSpec, engine: EngineSpec, inputs: MemoryInputs) -> Floats:
    """What the shared buffer grows to in a step, beyond what it held when the weights were loaded."""
    needed = np.maximum(expert_bytes(model, engine, inputs), indexer_bytes(model, engine, inputs))
    return np.maximum(needed - unpacked_bytes(model, engine, inputs), 0.0)
