"""What most readers share: sizes outside the stack, and a stack from per-layer lists.

A reader turns a Config into `Parts`, fields of ModelSpec that are validated once at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from planner.catalog.hf.config import MAX_CONTEXT, MAX_LAYERS, MAX_VOCAB, Config, shown
from planner.errors import BadValue
from planner.specs.model import DenseFfn, Ffn, Mixer

Parts = dict[str, Any]

_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}
SLIDING = "sliding_attention"
FULL = "full_attention"


def n_layers(config: Config) -> int:
    """Layers of the stack."""
    return config.count("num_hidden_layers", "n_layer", "n_layers", top=MAX_LAYERS)


def hidden_size(config: Config) -> int:
    """Width of the residual stream."""
    return config.count("hidden_size", "n_embd", "d_model")


def outer(config: Config, tied: bool = False) -> Parts:
    """Sizes outside the stack; `tied` is the default of the family's class."""
    return {
        "hidden_size": hidden_size(config),
        "vocab_size": config.count("vocab_size", top=MAX_VOCAB),
        "max_position": config.count("max_position_embeddings", "n_positions", top=MAX_CONTEXT),
        "tie_embeddings": config.flag("tie_word_embeddings", tied),
        "dtype": dtype(config),
    }


def dtype(config: Config) -> str:
    """The dtype of the checkpoint: bf16 where the config does not say."""
    field = "torch_dtype" if config.has("torch_dtype") else "dtype"
    text = config.text(field, "bfloat16")
    if text == "auto":
        return "bf16"
    if text not in _DTYPES:
        raise config.unknown(field, ", ".join(_DTYPES))
    return _DTYPES[text]


def stack(mixers: Sequence[Mixer | None], ffns: Sequence[Ffn | None]) -> Parts:
    """One mixer and one ffn per layer -> distinct mixers, distinct ffns, and runs of equal layers."""
    distinct_mixers = list(dict.fromkeys(mixer for mixer in mixers if mixer is not None))
    distinct_ffns = list(dict.fromkeys(ffn for ffn in ffns if ffn is not None))
    mixer_index: dict[Mixer | None, int] = {mixer: i for i, mixer in enumerate(distinct_mixers)} | {None: -1}
    ffn_index: dict[Ffn | None, int] = {ffn: i for i, ffn in enumerate(distinct_ffns)} | {None: -1}
    runs: list[dict[str, int]] = []
    for mixer, ffn in zip(mixers, ffns, strict=True):
        here = (mixer_index[mixer], ffn_index[ffn])
        if runs and (runs[-1]["mixer"], runs[-1]["ffn"]) == here:
            runs[-1]["count"] += 1
        else:
            runs.append({"mixer": here[0], "ffn": here[1], "count": 1})
    return {"mixers": distinct_mixers, "ffns": distinct_ffns, "layers": runs}


def kinds(config: Config, field: str, values: Sequence[Any], known: Sequence[str]) -> Sequence[Any]:
    """`values`, refused unless there is one of the `known` kinds for each layer."""
    for value in per_layer(config, field, values):
        if value not in known:
            why = f"a kind that is not known here (known: {', '.join(known)})"
            raise BadValue(f"{config.where}: {field} holds {shown(value)}, {why}")
    return values


def dense(config: Config, bias: bool = False) -> DenseFfn:
    """A gated feed-forward block of `intermediate_size`."""
    return DenseFfn(intermediate=config.count("intermediate_size"), bias=config.flag("mlp_bias", bias))


def per_layer(config: Config, field: str, values: Sequence[Any]) -> Sequence[Any]:
    """`values`, refused when it does not hold one entry for each layer."""
    if len(values) != n_layers(config):
        raise config.bad(field, f"not one entry for each of {n_layers(config)} layers")
    return values
