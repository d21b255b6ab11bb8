"""Small configs in the form of Hugging Face's config.json."""

from __future__ import annotations

from typing import Any

from planner.catalog.hf import model_from_config
from planner.specs.model import Attention, ModelSpec

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 256,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
DEEPSEEK: dict[str, Any] = LLAMA | {
    "model_type": "deepseek_v3",
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "n_routed_experts": 16,
    "n_shared_experts": 2,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "num_nextn_predict_layers": 1,
}


def read(**changes: Any) -> ModelSpec:
    return model_from_config(LLAMA | changes, "tiny")


def attention_of(spec: ModelSpec, layer: int) -> Attention:
    """The attention in a layer."""
    mixer = spec.mixers[[run.mixer for run in spec.layers for _ in range(run.count)][layer]]
    assert isinstance(mixer, Attention)
    return mixer
