"""Which of our tensors a checkpoint's tensor belongs to, by its name.

A rule is a pattern of the name inside its layer (or outside the stack) and the names in `params.tensors` that it
stands for; of these the ones count that the model holds in that layer, so one rule serves many families. What
follows the pattern (.weight, .qweight, .scales, _blocks ...) belongs to the same tensor; a bias goes to ours
where there is one.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from planner.errors import BadFile

MAX_KINDS = 2048  # distinct names apart from numbers
MAX_NAME = 160  # characters within a layer, of a name that a rule may know
Alternatives = tuple[tuple[str, ...], ...]  # the first of which the model holds something counts
Rules = tuple[tuple[re.Pattern[str], Alternatives], ...]

SKIPPED: Alternatives = (("~",),)  # stored, but computed or shared by engines instead of loaded


def _rules(table: str) -> Rules:
    """Lines of `pattern -> names | other names`; a pattern ends where a part of the name does."""
    lines = (line.split("->") for line in table.strip().splitlines())
    end = r"(?=\.|$|_(?:blocks|scales|bias|scale|global|packed|scale_inv|weight)\b)"
    return tuple((re.compile(f"(?:{pattern.strip()}){end}"), _alternatives(names)) for pattern, names in lines)


def _alternatives(names: str) -> Alternatives:
    return tuple(tuple(group.split()) for group in names.split("|"))


_QKV = "attention.q attention.k attention.v linear.q linear.k linear.v"
_MLP = "mlp.gate mlp.up"

# Inside a layer, as published by transformers' classes; the first pattern that fits counts.
HF_LAYER = _rules(
    rf"""
    .*rotary_emb\.inv_freq|attn\.(?:masked_)?bias|attention\.(?:masked_)?bias|.*attn\.rotary.* -> ~
    .*\be_score_correction_bias|.*expert_bias|.*correction_bias.* -> moe.router
    .*router\.(?:per_expert_scale|scale)|.*per_expert_scale -> moe.router_scales
    .*(?:indexer|compressor\.indexer)\.(?:wq_b|q_proj|q_b_proj)|.*index_q_proj -> indexer.q indexer.q_b
    .*indexer\.(?:wk|k_proj)|.*index_k_proj -> indexer.k
    .*indexer\.k_norm|.*index_k_norm -> indexer.k_norm indexer.norm
    .*indexer\.q_norm|.*index_q_norm -> indexer.q_norm
    .*indexer\.weights_proj -> indexer.weights
    .*(?:self_attn|attn|attention|mixer|temporal_block)\.q_a_proj -> attention.q_a
    .*\.(?:q_a_layernorm|q_a_norm) -> attention.q_a_norm
    .*\.q_b_proj -> attention.q_b
    .*\.kv_a_proj_with_mqa -> attention.kv_a
    .*\.(?:kv_a_layernorm|kv_a_norm) -> attention.kv_a_norm
    .*\.kv_b_proj -> attention.kv_b
    .*(?:self_attn|attn|mixer)\.(?:sinks|attention_sink_bias) -> attention.sinks
    .*(?:linear_attn|self_attn|mixer)\.in_proj_qkvz -> linear.q linear.k linear.v linear.gate
    .*(?:linear_attn|self_attn|mixer)\.in_proj_ba -> linear.beta linear.decay
    .*(?:linear_attn|self_attn|mixer)\.in_proj_qkv -> linear.q linear.k linear.v
    .*(?:linear_attn|self_attn|mixer)\.in_proj_z -> linear.gate
    .*(?:linear_attn|self_attn|mixer)\.in_proj_b -> linear.beta
    .*(?:linear_attn|self_attn|mixer)\.in_proj_a -> linear.decay
    .*linear_attn\.conv1d|.*\.[qkv]_conv1d|.*\.conv1d -> linear.conv mamba.conv
    .*\.A_log|.*\.A -> linear.a_log mamba.a_log
    .*\.dt_bias -> linear.dt_bias mamba.dt_bias
    .*(?:mixer|mamba)\.in_proj -> mamba.in | mamba.z mamba.x mamba.bc mamba.dt
    .*(?:mixer|mamba)\.x_proj -> mamba.x
    .*(?:mixer|mamba)\.dt_proj -> mamba.dt
    .*(?:mixer|mamba)\.D -> mamba.d
    .*(?:mixer|mamba)\.dt_layernorm -> mamba.dt_norm
    .*(?:mixer|mamba)\.b_layernorm -> mamba.b_norm
    .*(?:mixer|mamba)\.c_layernorm -> mamba.c_norm
    .*\.f_a_proj -> linear.decay_a
    .*\.f_b_proj -> linear.decay_b
    .*\.g_a_proj -> linear.gate_a
    .*\.g_b_proj -> linear.gate_b
    .*\.b_proj -> linear.beta
    .*self_attn\.o_norm|.*linear_attn\.norm|.*(?:mixer|mamba)\.norm|self_attn\.norm -> linear.norm mamba.norm
    .*(?:linear_attn|mixer|mamba)\.out_proj -> linear.out mamba.out attention.o
    self_attn\.output_gate|linear_attn\.output_gate -> linear.gate
    .*\.(?:q_proj|query|q_lin) -> attention.q attention.q_b linear.q
    .*\.(?:k_proj|key|k_lin) -> attention.k linear.k
    .*\.(?:v_proj|value|v_lin) -> attention.v linear.v | attention.k
    .*\.(?:qkv_proj|query_key_value|c_attn|Wqkv|wqkv|W_pack|qkv) -> {_QKV}
    .*(?:attn|attention|mixer)\.(?:o_proj|dense|out_proj|c_proj|wo|Wo) -> attention.o linear.out
    attention\.output\.dense -> attention.o
    attention\.output\.LayerNorm|output\.LayerNorm -> norm
    .*attn\.(?:g_proj|gate_proj) -> attention.gate linear.gate
    .*attn\.linear_gate -> attention.gate
    .*attn\.learnable_sink_param -> attention.sinks
    .*attn\.(?:diagonal_decay|key_decay|query_decay|slope_rate) -> ~
    .*\bhc_(?:\w+_)?fn -> hyper
    .*\bhc_(?:\w+_)?(?:base|scale) -> hyper.scales
    .*\.(?:q_norm|q_layernorm|query_layernorm) -> attention.q_norm
    .*\.(?:k_norm|k_layernorm|key_layernorm) -> attention.k_norm
    .*[kv]_(?:cache_)?scale|.*kv_scale -> attention.k
    .*cross_attn_(?:attn|mlp)_gate -> cross_gates
    .*shared_experts?_gate -> shared.router
    .*shared_(?:experts?|mlp)\.(?:gate_up_proj|input_linear) -> shared.gate shared.up {_MLP}
    .*shared_(?:experts?|mlp)\.(?:gate_proj|w1|linear_gate) -> shared.gate
    .*shared_(?:experts?|mlp)\.(?:up_proj|w3) -> shared.up
    .*shared_(?:experts?|mlp)\.(?:down_proj|w2|output_linear) -> shared.down mlp.down
    (?:share_expert)\.(?:gate_proj) -> shared.gate
    (?:share_expert)\.(?:up_proj) -> shared.up
    (?:share_expert)\.(?:down_proj) -> shared.down
    .*fc1_latent_proj|.*routed_expert_down_proj -> moe.latent_down
    .*fc2_latent_proj|.*routed_expert_up_proj -> moe.latent_up
    .*routed_expert_norm -> moe.latent_norm
    .*moe\.input_linear|.*experts(?:\.\d+)?\.gate_up_proj -> experts.gate experts.up
    .*moe\.output_linear -> experts.down
    .*experts(?:\.\d+)?\.(?:gate_proj|w1|linear) -> experts.gate
    .*experts(?:\.\d+)?\.(?:up_proj|w3|linear_v) -> experts.up
    .*experts(?:\.\d+)?\.(?:down_proj|w2|linear_1) -> experts.down
    moe\.gate_proj -> experts.gate
    moe\.up_proj -> experts.up
    moe\.down_proj -> experts.down
    .*(?:mlp|moe|mixer|feed_forward)\.(?:gate|router|router\.(?:layer|proj|classifier)) -> moe.router
    router\.(?:proj|layer) -> moe.router
    router\.scale -> moe.router_scales
    .*(?:mlp|feed_forward|ffn|mixer)\.(?:gate_up_proj|Wi) -> {_MLP}
    .*(?:mlp|feed_forward|ffn|block_sparse_moe)\.(?:gate_proj|w1|linear_gate) -> mlp.gate
    .*(?:mlp|feed_forward|ffn|mixer|block_sparse_moe)\.(?:up_proj|w3|fc1|c_fc|dense_h_to_4h|fc_in) -> mlp.up
    .*(?:mlp|feed_forward|ffn|mixer|block_sparse_moe)\.(?:down_proj|w2|fc2|c_proj|dense_4h_to_h|fc_out|Wo) -> mlp.down
    ffn\.up_proj -> mlp.up
    intermediate\.dense -> mlp.up
    output\.dense -> mlp.down
    .*mlp\.act(?:_fn)? -> mlp.activation
    per_layer_input_gate -> per_layer_gate
    per_layer_projection -> per_layer_output
    laurel\.linear_left -> laurel_left
    laurel\.linear_right -> laurel_right
    altup\.modality_router -> altup_router
    altup\.correction_coefs -> altup_correct
    altup\.prediction_coefs -> altup_predict
    altup\.correct_output_scale -> altup_scale
    layer_scalar -> norm
    .*(?:norm|layernorm|norm_\d|ln_\w+|norm\d|ln1|ln2|ln_1|ln_2)\w* -> norm second_norm
    """
)

# Outside the stack.
HF_OUTER = _rules(
    r"""
    .*rotary_emb.*|.*position_ids|.*embed_scale|.*rope.*freqs.* -> ~
    .*embed_tokens_per_layer -> per_layer_embedding
    .*per_layer_model_projection -> per_layer_input
    .*per_layer_projection_norm -> per_layer_input_norm
    .*altup_projections\.\d+|.*altup_unembed_projections\.\d+ -> altup_project
    .*(?:wpe|position_embeddings|embed_positions) -> position
    .*token_type_embeddings -> token_type
    .*(?:embed_tokens|word_embeddings|wte|tok_embeddings|embed_in|embeddings\.weight) -> embedding embedding.image
    .*embeddings\.(?:LayerNorm|norm) -> embedding_norm norm
    .*(?:lm_head|embed_out|\boutput\b) -> lm_head
    head -> lm_head
    .*\bhc_head_(?:base|scale) -> hyper_head.scales
    .*\bhc_head(?:_fn)? -> hyper_head
    .*pooler\.dense -> pooler
    .*classifier\.dense -> classifier.dense
    .*classifier(?:\.out_proj)? -> classifier
    score -> score
    .*(?:final_layernorm|final_layer_norm|final_norm|ln_f|norm_f|\bnorm) -> final_norm
    cls\..* -> ~
    """
)

GGUF_LAYER = _rules(
    rf"""
    exp_probs_b|ffn_exp_probs_b -> moe.router
    attn_rot_embd|attn_rope_freqs -> ~
    rope_freqs|rope_factors_\w+ -> norm
    attn_qkv -> {_QKV}
    attn_q_a -> attention.q_a
    attn_q_b -> attention.q_b
    attn_q_a_norm -> attention.q_a_norm
    attn_kv_a_mqa -> attention.kv_a
    attn_kv_a_norm -> attention.kv_a_norm
    attn_kv_b|attn_k_b|attn_v_b -> attention.kv_b
    attn_q_norm -> attention.q_norm
    attn_k_norm -> attention.k_norm
    attn_q -> attention.q attention.q_b linear.q
    attn_k -> attention.k linear.k
    attn_v -> attention.v linear.v | attention.k
    attn_output -> attention.o linear.out
    attn_gate -> attention.gate linear.gate
    attn_sinks -> attention.sinks
    indexer\.attn_q_b -> indexer.q
    indexer\.attn_k -> indexer.k
    indexer\.k_norm -> indexer.k_norm
    indexer\.proj -> indexer.weights
    ssm_in -> mamba.in | mamba.z mamba.x mamba.bc mamba.dt | linear.q linear.k linear.v linear.gate
    ssm_ba|ssm_beta_alpha -> linear.beta linear.decay
    ssm_alpha -> linear.decay
    ssm_beta -> linear.beta
    ssm_conv1d(?:_[qkv])? -> linear.conv mamba.conv
    ssm_x -> mamba.x
    ssm_dt_norm -> mamba.dt_norm
    ssm_b_norm -> mamba.b_norm
    ssm_c_norm -> mamba.c_norm
    ssm_dt\.bias -> linear.dt_bias mamba.dt_bias mamba.dt.bias
    ssm_dt -> mamba.dt linear.dt_bias
    ssm_a -> linear.a_log mamba.a_log
    ssm_d -> mamba.d
    ssm_norm -> linear.norm mamba.norm
    ssm_out -> linear.out mamba.out
    ssm_f_a -> linear.decay_a
    ssm_f_b -> linear.decay_b
    ssm_g_a -> linear.gate_a
    ssm_g_b -> linear.gate_b
    ssm_g -> linear.gate
    ffn_gate_inp_shexp -> shared.router
    ffn_gate_inp -> moe.router
    ffn_(?:gate_inp_)?scale|ffn_gate_inp_s -> moe.router_scales
    ffn_gate_up_exps -> experts.gate experts.up
    ffn_gate_exps(?:\.\d+)?|ffn_gate\.\d+ -> experts.gate
    ffn_up_exps|ffn_up\.\d+ -> experts.up
    ffn_down_exps|ffn_down\.\d+ -> experts.down
    ffn_gate_shexp -> shared.gate
    ffn_up_shexp -> shared.up mlp.up
    ffn_down_shexp -> shared.down mlp.down
    ffn_latent_down -> moe.latent_down
    ffn_latent_up -> moe.latent_up
    ffn_gate_up -> {_MLP}
    ffn_gate -> mlp.gate
    ffn_up -> mlp.up mlp.gate
    ffn_down -> mlp.down
    ffn_act|ffn_xielu_\w+ -> mlp.activation
    inp_gate -> per_layer_gate
    proj -> per_layer_output
    laurel_l -> laurel_left
    laurel_r -> laurel_right
    altup_router -> altup_router
    altup_correct_coef -> altup_correct
    altup_predict_coef -> altup_predict
    altup_correct_scale -> altup_scale
    layer_output_scale -> norm
    .*norm\w* -> norm second_norm
    """
)

GGUF_OUTER = _rules(
    r"""
    token_embd_norm -> embedding_norm norm
    token_embd -> embedding
    per_layer_token_embd -> per_layer_embedding
    per_layer_model_proj -> per_layer_input
    per_layer_proj_norm -> per_layer_input_norm
    altup_proj|altup_unembd_proj -> altup_project
    position_embd -> position
    token_types -> token_type
    output_norm -> final_norm norm
    output -> lm_head
    cls -> pooler classifier.dense
    cls\.output -> classifier score
    rope_freqs|rope_factors_\w+ -> final_norm
    """
)

VISION = re.compile(
    r"(?:.*\.)?(?:visual|vision_tower|vision_model|vision_encoder|vision_embedder|multi_modal_projector|mm_projector"
    r"|embed_vision|patch_merge_mlp|vit|image_newline)\b"
)
HF_MTP = re.compile(r"(?:.*\.)?(?:mtp|mtp_layers|nextn|nextn_predict_layers)\b")
GGUF_MTP = re.compile(r"(?:blk\.\d+\.)?nextn\.")
_LAYER = re.compile(r"(?:.*?\.)?(?:layers|layer|h|blocks|block)\.(\d{1,4})\.(.*)", re.DOTALL)
_BLK = re.compile(r"blk\.(\d{1,4})\.(.*)", re.DOTALL)
_NUMBER = re.compile(r"(?:(?<=\.)|^)\d+(?=\.|$)")
_BIAS = re.compile(r"(?:\.|_)bias$")


class Place(NamedTuple):
    """Where a tensor stands: its layer (-1: outside the stack), and its name there."""

    layer: int
    name: str


def place(name: str, gguf: bool) -> Place:
    """The layer in a tensor's name, and the rest of it."""
    found = (_BLK if gguf else _LAYER).match(name)
    return Place(int(found[1]), found[2]) if found else Place(-1, name)


class Names:
    """The rules of one kind of file, each distinct name matched once."""

    def __init__(self, gguf: bool, where: str) -> None:
        self.gguf, self.where = gguf, where
        self._layer, self._outer = (GGUF_LAYER, GGUF_OUTER) if gguf else (HF_LAYER, HF_OUTER)
        self._known: dict[tuple[bool, str], Alternatives] = {}

    def targets(self, where: Place) -> Alternatives:
        """Names in `params.tensors` that may be meant, () when no rule knows it, SKIPPED when nobody loads it."""
        inside = where.layer >= 0
        key = inside, _NUMBER.sub("0", where.name)
        if key not in self._known:
            if len(self._known) >= MAX_KINDS:
                raise BadFile(f"{self.where}: tensors of more than {MAX_KINDS} different names; not a language model")
            rules = (self._layer if inside else self._outer) if len(key[1]) <= MAX_NAME else ()
            named = next((names for pattern, names in rules if pattern.match(key[1])), ())
            biased = named and named != SKIPPED and _BIAS.search(where.name)
            biases = tuple(tuple(f"{name}.bias" for name in group) for group in named) if biased else ()
            self._known[key] = biases + named
        return self._known[key]

    def speculative(self, name: str) -> bool:
        """Whether a tensor belongs to multi-token prediction."""
        return (GGUF_MTP if self.gguf else HF_MTP).match(name) is not None
