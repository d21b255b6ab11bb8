"""More image encoders, and what stands in for one: GLM-4V, Cohere, Muse Glimmer, and Gemma 4 12B, which has none."""

from __future__ import annotations

from collections.abc import Callable

from planner.catalog.hf import attention, gemma, moe
from planner.catalog.hf.common import Parts
from planner.catalog.hf.config import Config
from planner.catalog.hf.vision import blocks, encoder, spec, text_config, tower, weight, with_text

_CHANNELS = 3

Reader = Callable[[Config], Parts]


def _by_text_type(config: Config, readers: dict[str, Reader]) -> Reader:
    """The reader of the text model, whose type `text_config` names."""
    text = config.sub("text_config")
    kind = text.text("model_type", next(iter(readers)))
    if kind not in readers:
        raise text.unknown("model_type", ", ".join(readers))
    return readers[kind]


def glm4v(config: Config) -> Parts:
    """GLM-4.1V, 4.5V and 4.6V: gated ViT without biases whose MLP is as wide as the text model, a strided convolution
    and a gated merger. Ref: transformers Glm4vVisionModel"""
    eye = encoder(config).defaults(depth=24, hidden_size=1536, num_heads=12, image_size=336, intermediate_size=13696)
    out = eye.count("out_hidden_size", default=4096)
    inner, merge = eye.count("intermediate_size"), eye.count("spatial_merge_size", default=2)
    shape = tower(eye)._replace(inner=out, gated=True, bias=eye.flag("attention_bias"), layer_norm=False, outer_norms=2)
    if shape.bias:
        raise eye.unknown("attention_bias", "false")
    patch = eye.count("in_channels", default=_CHANNELS) * eye.count("temporal_patch_size", default=2) * shape.patch**2
    extras = [
        weight("patch", shape.hidden, patch, bias=True),
        weight("position", (eye.count("image_size") // shape.patch) ** 2, shape.hidden),
        *blocks(shape),
        weight("downsample", out, shape.hidden * merge**2, bias=True),
        weight("merger.project", out, out),
        weight("merger.norm", out, copies=2),
        weight("merger.mlp", inner, out, copies=3),
    ]
    return with_text(config, _by_text_type(config, _GLM_TEXT), extras, spec(shape, merge))


def _glm4_moe_text(config: Config) -> Parts:
    """GLM-4.5V (text): GLM-4.5 Air, biases on q, k and v unless stated."""
    return moe.glm4_moe(config.defaults(attention_bias=True))


def _glm4_text(config: Config) -> Parts:
    """GLM-4.1V and GLM-4.6V Flash (text): GLM-4 9B, biases on q, k and v unless stated."""
    return attention.glm4(config.defaults(attention_bias=True))


_GLM_TEXT: dict[str, Reader] = {
    "glm4v_moe_text": _glm4_moe_text,
    "glm4v_text": _glm4_text,
    "glm4_moe": _glm4_moe_text,
    "glm4": _glm4_text,
}


def cohere_vision(config: Config) -> Parts:
    """Command A Vision and Command A Plus: SigLIP, pixels shuffled 2 x 2, a gated projector."""
    eye = encoder(config)
    shape, size = tower(eye), eye.count("image_size")
    merge = config.count("downsample_factor", default=2, top=64)
    inner = config.count("alignment_intermediate_size", default=36864)
    extras = [
        weight("patch", shape.hidden, _CHANNELS * shape.patch**2, bias=True),
        weight("position", (size // shape.patch) ** 2, shape.hidden),
        *blocks(shape._replace(outer_norms=1)),
        weight("projector.in", inner, shape.hidden * merge**2, bias=True),
        weight("projector.out", text_config(config).count("hidden_size"), inner // 2, bias=True),
    ]
    return with_text(config, _by_text_type(config, _COHERE_TEXT), extras, spec(shape, merge, size))


_COHERE_TEXT: dict[str, Reader] = {"cohere2": attention.cohere2, "cohere2_moe": moe.cohere2_moe}


def muse_glimmer(config: Config) -> Parts:
    """Muse Glimmer: ViT with learned positions, most layers in windows, an adapter of two layers and a projection."""
    eye = encoder(config).defaults(
        hidden_size=1536, num_hidden_layers=50, num_attention_heads=16, intermediate_size=8960
    )
    shape, merge = tower(eye)._replace(outer_norms=2), eye.count("merge_size", default=2, top=64)
    text = text_config(config).defaults(vocab_size=202_048, max_position_embeddings=131_072)
    narrow = config.count("projector_hidden_size", default=4096)
    extras = [
        weight("patch", shape.hidden, _CHANNELS * eye.count("patch_temporal", default=2) * shape.patch**2),
        weight(
            "position", eye.count("pos_emb_height", default=32) * eye.count("pos_emb_width", default=32), shape.hidden
        ),
        *blocks(shape),
        weight("adapter.in", narrow, shape.hidden * merge**2),
        weight("adapter.out", narrow, narrow),
        weight("projector", text.count("hidden_size"), narrow),
    ]
    return with_text(config, attention.muse_glimmer, extras, spec(shape, merge))


def gemma4_unified(config: Config) -> Parts:
    """Gemma 4 12B: no encoder; patches of 48 x 48 pixels and frames of sound are projected into the text model.
    Ref: transformers Gemma4UnifiedForConditionalGeneration"""
    eye = encoder(config)
    width = text_config(config).count("hidden_size")
    side = eye.count("patch_size", default=16, top=1024) * eye.count("pooling_kernel_size", default=3, top=64)
    inside, pixels = eye.count("mm_embed_dim", default=3840), _CHANNELS * side**2
    extras = [
        weight("patch", inside, pixels, bias=True),
        weight("patch.norms", 2 * pixels + 4 * inside),
        weight("position", 2 * eye.count("mm_posemb_size", default=1120), inside),
        weight("projector", width, eye.count("output_proj_dims", default=inside)),
    ]
    if config.has("audio_config"):
        frame = config.sub("audio_config").count("audio_embed_dim", default=640)
        extras.append({"name": "sound.projection", "role": "other", "n": width, "k": frame})
    parts = gemma4_unified_text(text_config(config))
    return parts | {"extras": [*parts["extras"], *extras]}


def gemma4_unified_text(config: Config) -> Parts:
    """Gemma 4 12B (text): Gemma 4 without per-layer embeddings."""
    return gemma.gemma4(
        config.defaults(sliding_window=1024, max_position_embeddings=262_144).merged(hidden_size_per_layer_input=0)
    )


READERS: dict[str, Reader] = {
    "glm4v": glm4v,
    "glm4v_moe": glm4v,
    "glm46v": glm4v,
    "cohere2_vision": cohere_vision,
    "muse_glimmer": muse_glimmer,
    "muse_glimmer_text": attention.muse_glimmer,
    "gemma4_unified": gemma4_unified,
    "gemma4_unified_text": gemma4_unified_text,
}
