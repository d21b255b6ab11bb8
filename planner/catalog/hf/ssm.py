"""Readers of hybrids of attention and state spaces: Nemotron-H and Nemotron 3, Jamba, Granite 4, Bamba."""

from __future__ import annotations

from collections.abc import Callable

from planner.catalog.hf.attention import attention
from planner.catalog.hf.common import Parts, dense, hidden_size, kinds, n_layers, outer, stack
from planner.catalog.hf.config import MAX_EXPERTS, MAX_HIDDEN, MAX_LAYERS, Config
from planner.catalog.hf.moe import experts
from planner.specs.model import DenseFfn, Ffn, Mamba, Mixer

_STATE_DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "bf16"}
_NEMOTRON_LETTERS = {"M": "mamba", "*": "attention", "E": "moe", "-": "mlp"}
_OTHER_NAMES = {"linear_attention": "mamba", "full_attention": "attention", "hybrid": "attention"}


def state_dtype(config: Config, field: str) -> str:
    """Dtype of the recurrent state; without the field engines keep it in the model's own 16 bit."""
    text = config.text(field, "bfloat16")
    if text not in _STATE_DTYPES:
        raise config.unknown(field, ", ".join(_STATE_DTYPES))
    return _STATE_DTYPES[text]


def _bounded(config: Config, field: str, inner: int) -> int:
    """The inner width, refused when it is none."""
    if inner > MAX_HIDDEN:
        raise config.bad(field, f"which makes an inner width of {inner}, more than {MAX_HIDDEN}")
    return inner


def mamba2(config: Config, heads: str, groups: str, state: str) -> Mamba:
    """Mamba 2 from the names that a family gives to its heads, groups and state."""
    n_heads, inner = config.count(heads), config.count("expand", "mamba_expand", default=2) * hidden_size(config)
    stated = [field for field in ("mamba_head_dim", "mamba_d_head") if config.data.get(field) not in (None, "auto")]
    if not stated and inner % n_heads:
        raise config.bad(heads, f"no divisor of the inner width {inner}; the head dimension is missing")
    head_dim = config.count(*stated) if stated else inner // n_heads
    _bounded(config, heads, n_heads * head_dim)
    mixer = Mamba(
        version=2,
        inner=n_heads * head_dim,
        state=config.count(state),
        n_heads=n_heads,
        head_dim=head_dim,
        n_groups=config.count(groups, default=1),
        conv_width=config.count("conv_kernel", "mamba_d_conv", default=4),
        conv_bias=config.flag("use_conv_bias" if config.has("use_conv_bias") else "mamba_conv_bias", True),
        proj_bias=config.flag("use_bias" if config.has("use_bias") else "mamba_proj_bias"),
    )
    if mixer.n_heads % mixer.n_groups:
        raise config.bad(groups, f"no divisor of {heads} {mixer.n_heads}")
    return mixer.model_copy(update={"state_dtype": state_dtype(config, "mamba_ssm_cache_dtype")})


def _nemotron_types(config: Config) -> list[str]:
    """The kind of each layer: a list of names, or a string of letters."""
    if config.has("layers_block_type"):
        return [_OTHER_NAMES.get(kind, kind) for kind in config.texts("layers_block_type")]
    pattern = config.data.get("hybrid_override_pattern")
    if not isinstance(pattern, str) or not 1 <= len(pattern) <= MAX_LAYERS:
        raise config.bad("hybrid_override_pattern", f"not a text of 1..{MAX_LAYERS} letters")
    return [_NEMOTRON_LETTERS.get(letter, letter) for letter in pattern]


def nemotron_h(config: Config) -> Parts:
    """Nemotron-H and Nemotron 3: a layer is a Mamba 2, an attention, an MLP or experts, each alone behind one norm."""
    if config.text("mlp_hidden_act", "relu2") != "relu2":
        raise config.unknown("mlp_hidden_act", "relu2")
    types = _nemotron_types(config)
    config = config.merged(num_hidden_layers=len(types))
    kinds(config, "layers_block_type", types, ("mamba", "attention", "moe", "mlp"))
    bias = config.flag("mlp_bias")
    mixers: dict[str, Mixer] = {}
    ffns: dict[str, Ffn] = {}
    if "mamba" in types:
        mixers["mamba"] = mamba2(config, "mamba_num_heads", "n_groups", "ssm_state_size")
    if "attention" in types:
        mixers["attention"] = attention(config.defaults(head_dim=config.data.get("attention_head_dim")))
    if "mlp" in types:
        ffns["mlp"] = DenseFfn(intermediate=config.count("intermediate_size"), gated=False, bias=bias)
    if "moe" in types:
        beside = config.size("n_shared_experts", top=MAX_EXPERTS)
        shared = config.count("moe_shared_expert_intermediate_size") if beside else 0
        latent = config.count("moe_latent_size") if config.has("moe_latent_size") else None
        routing = {"router_bias": "correction", "shared_intermediate": shared, "latent": latent}
        ffns["moe"] = experts(config, gated=False, bias=bias, **routing)
    mtp = {"mtp_layers": config.size("num_nextn_predict_layers", top=64)}
    block = stack([mixers.get(kind) for kind in types], [ffns.get(kind) for kind in types])
    return outer(config) | mtp | block | {"norms_per_layer": 1}


def jamba(config: Config) -> Parts:
    """Jamba: Mamba 1 with one attention in each period of layers, experts in every other layer."""
    config = config.defaults(mamba_d_state=16, mamba_d_conv=4, mamba_expand=2, num_experts=16, num_experts_per_tok=2)
    hidden, count = hidden_size(config), n_layers(config)
    auto = config.data.get("mamba_dt_rank") in (None, "auto")
    mamba = Mamba(
        version=1,
        inner=_bounded(config, "mamba_expand", config.count("mamba_expand") * hidden),
        state=config.count("mamba_d_state"),
        dt_rank=-(-hidden // 16) if auto else config.count("mamba_dt_rank"),  # 16: the class' own default
        conv_width=config.count("mamba_d_conv"),
        conv_bias=config.flag("mamba_conv_bias", True),
        proj_bias=config.flag("mamba_proj_bias"),
        inner_norms=True,
        state_dtype="bf16",
    )
    period, offset = config.count("attn_layer_period", default=8), config.count("attn_layer_offset", default=4, low=0)
    every, first = config.count("expert_layer_period", default=2), config.count("expert_layer_offset", default=1, low=0)
    plain, full = dense(config), attention(config)
    routed: Ffn = experts(config) if config.count("num_experts") > 1 else plain
    mixers: list[Mixer] = [full if layer % period == offset else mamba for layer in range(count)]
    return outer(config) | stack(mixers, [routed if layer % every == first else plain for layer in range(count)])


def _granite_mixers(config: Config, types: list[str]) -> list[Mixer]:
    mamba = mamba2(config, "mamba_n_heads", "mamba_n_groups", "mamba_d_state")
    full = attention(config)
    named = [_OTHER_NAMES.get(kind, kind) for kind in types]
    return [mamba if kind == "mamba" else full for kind in kinds(config, "layer_types", named, ("mamba", "attention"))]


def granite_hybrid(config: Config) -> Parts:
    """Granite 4: Mamba 2 and attention; a shared MLP in every layer, experts beside it where there are any."""
    types = config.texts("layer_types") or config.texts("layers_block_type") or ["mamba"] * n_layers(config)
    shared = config.count("shared_intermediate_size", default=1024)
    ffn: Ffn = DenseFfn(intermediate=shared)
    if config.size("num_local_experts", top=MAX_EXPERTS):
        ffn = experts(config, shared_intermediate=shared)
    return outer(config) | stack(_granite_mixers(config, types), [ffn] * n_layers(config))


def bamba(config: Config) -> Parts:
    """Bamba: Mamba 2 with attention in the layers of `attn_layer_indices`."""
    full = set(config.counts("attn_layer_indices", top=MAX_LAYERS))
    types = ["attention" if layer in full else "mamba" for layer in range(n_layers(config))]
    return outer(config) | stack(_granite_mixers(config, types), [dense(config)] * n_layers(config))


READERS: dict[str, Callable[[Config], Parts]] = {
    "nemotron_h": nemotron_h,
    "jamba": jamba,
    "granitemoehybrid": granite_hybrid,
    "bamba": bamba,
}
