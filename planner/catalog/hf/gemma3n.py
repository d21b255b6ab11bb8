"""Gemma 3n as published: its text model beside a convolutional image encoder and a conformer for audio."""

from __future__ import annotations

from typing import Any

from planner.catalog.hf import gemma, vision
from planner.catalog.hf.common import Parts, hidden_size
from planner.catalog.hf.config import MAX_LAYERS, MAX_VOCAB, Config

# Values of mobilenetv5_300m_enc (timm 1.0.31), a network of convolutions that a config only names: 510,637 x 576.
_ENCODERS = {"mobilenetv5_300m_enc": (510_637, 576)}
_MEL_STRIDE = 4  # two convolutions of stride 2 in front of the conformer

Extras = list[dict[str, Any]]


def gemma3n(config: Config) -> Parts:
    """Gemma 3n; time knows nothing of its two encoders, memory their size."""
    text = vision.text_config(config)
    width, parts = hidden_size(text), gemma.gemma3n(text)
    eye, ear = config.sub("vision_config"), config.sub("audio_config")
    encoder = eye.text("architecture", "mobilenetv5_300m_enc")
    if encoder not in _ENCODERS:
        raise eye.unknown("architecture", ", ".join(_ENCODERS))
    n, k = _ENCODERS[encoder]
    sight = [vision.weight("encoder", n, k), *_embedder("vision", "vision", eye, width)]
    sound = _conformer(ear) + _embedder("audio", "other", ear, width)
    return parts | {"extras": [*parts["extras"], *sight, *sound]}


def _embedder(name: str, role: str, config: Config, width: int) -> Extras:
    """A table of special tokens, two norms and a projection into the text model."""
    hidden = config.count("hidden_size")
    return [
        {"name": f"{name}.tokens", "role": role, "n": config.count("vocab_size", top=MAX_VOCAB), "k": hidden},
        {"name": f"{name}.norms", "role": role, "n": hidden, "copies": 2},
        {"name": f"{name}.projection", "role": role, "n": width, "k": hidden},
    ]


def _conformer(ear: Config) -> Extras:
    """Universal Speech Model: two convolutions over the mel bins, then layers of half MLP, attention with
    relative positions, light convolution and half MLP. Ref: transformers Gemma3nAudioEncoder"""
    hidden, layers = ear.count("hidden_size"), ear.count("conf_num_hidden_layers", top=MAX_LAYERS)
    first, second = (ear.counts("sscp_conv_channel_size", low=1) + [0, 0])[:2]
    if not second:
        raise ear.bad("sscp_conv_channel_size", "not two numbers of channels")
    window = 9  # both kernels are 3 x 3
    head_dim = hidden // ear.count("conf_num_attention_heads")
    scalars = 9 * hidden + ear.count("conf_conv_kernel_size") * hidden + head_dim  # norms, convolution, scale
    entry = second * ear.count("input_feat_size") // _MEL_STRIDE
    return [
        {"name": "audio.conv_1", "role": "other", "n": first, "k": window + 1},
        {"name": "audio.conv_2", "role": "other", "n": second, "k": window * first + 1},
        {"name": "audio.entry", "role": "other", "n": hidden, "k": entry},
        {"name": "audio.mlp", "role": "other", "n": 4 * hidden, "k": hidden, "copies": 4 * layers},
        {"name": "audio.attention", "role": "other", "n": hidden, "k": hidden, "copies": 5 * layers},
        {"name": "audio.light_conv", "role": "other", "n": hidden, "k": hidden, "copies": 3 * layers},
        {"name": "audio.small", "role": "other", "n": scalars, "copies": layers},
    ]
