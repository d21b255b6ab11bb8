"""Image encoders: their weights as extra tensors, their shape as a Vision spec, and the readers of the models
that hold a text model and one of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from planner.catalog.hf import attention, gemma, mla, moe
from planner.catalog.hf.common import Parts
from planner.catalog.hf.config import MAX_LAYERS, Config
from planner.specs.model import Vision

Extras = list[dict[str, Any]]
_CHANNELS = 3
_MEL_BINS, _MEL_STRIDE, _CONVOLVED = 128, 4, 9  # of a sound encoder: two convolutions of 3 x 3 at stride 2


def weight(name: str, n: int, k: int = 1, copies: int = 1, bias: bool = False) -> dict[str, Any]:
    """A tensor of the encoder or of the projector behind it."""
    return {"name": f"vision.{name}", "role": "vision", "n": n, "k": k, "copies": copies, "bias": bias}


class Tower(NamedTuple):
    """A transformer over patches, as far as its weights go."""

    hidden: int
    layers: int
    heads: int
    inner: int
    patch: int
    gated: bool = False
    bias: bool = True
    layer_norm: bool = True  # with bias; False: RMS
    norms: int = 2  # of a layer
    outer_norms: int = 0


def encoder(config: Config) -> Config:
    """`vision_config`, which must be there: no publisher leaves the whole of it to the class."""
    if not config.has("vision_config"):
        raise config.bad("vision_config", "missing: it states the image encoder")
    return config.sub("vision_config")


def tower(config: Config) -> Tower:
    """The common field names."""
    return Tower(
        hidden=config.count("hidden_size"),
        layers=config.count("num_hidden_layers", "depth", top=MAX_LAYERS),
        heads=config.count("num_attention_heads", "num_heads"),
        inner=config.count("intermediate_size"),
        patch=config.count("patch_size", default=14),
    )


def blocks(shape: Tower) -> Extras:
    """The layers of an encoder: four square projections, an MLP and norms in each, and the norms outside."""
    hidden, inner, layers = shape.hidden, shape.inner, shape.layers
    norms = (layers * shape.norms + shape.outer_norms) * (2 if shape.layer_norm else 1)
    return [
        weight("attention", hidden, hidden, 4 * layers, shape.bias),
        weight("mlp.up", inner, hidden, layers * (2 if shape.gated else 1), shape.bias),
        weight("mlp.down", hidden, inner, layers, shape.bias),
        weight("norm", hidden, copies=norms),
    ]


def spec(shape: Tower, merge: int = 1, image_size: int = 0, tokens: int = 0) -> Vision:
    """What the time model needs to know of an encoder."""
    return Vision(
        hidden=shape.hidden,
        n_layers=shape.layers,
        n_heads=shape.heads,
        intermediate=shape.inner,
        patch=shape.patch,
        merge=merge,
        image_size=image_size,
        tokens_per_image=tokens,
    )


def with_text(config: Config, reader: Callable[[Config], Parts], extras: Extras, vision: Vision) -> Parts:
    """The text model's parts with the encoder beside them."""
    parts = reader(text_config(config))
    return parts | {"extras": [*parts.get("extras", []), *extras], "vision": vision}


def text_config(config: Config) -> Config:
    """`text_config`, under what the outer config decides for both: tied embeddings, dtype, quantization."""
    text = config.sub("text_config") if config.has("text_config") else config
    stated = {key: config.data[key] for key in ("tie_word_embeddings",) if config.has(key)}
    stated |= {key: config.data[key] for key in ("torch_dtype", "dtype") if config.has(key) and not text.has(key)}
    return text.merged(**stated)


def qwen_vl(config: Config, reader: Callable[[Config], Parts]) -> Parts:
    """Qwen 3 VL and 3.5: ViT with learned positions, a merger, and mergers into deeper layers (DeepStack)."""
    eye = encoder(config)
    shape = tower(eye)
    merge = eye.count("spatial_merge_size", default=2)
    wide, out = shape.hidden * merge**2, eye.count("out_hidden_size")
    deep = len(eye.counts("deepstack_visual_indexes", top=MAX_LAYERS))
    patch = eye.count("in_channels", default=_CHANNELS) * eye.count("temporal_patch_size", default=2) * shape.patch**2
    extras = [
        weight("patch", shape.hidden, patch, bias=True),
        weight("position", eye.count("num_position_embeddings"), shape.hidden),
        *blocks(shape._replace(outer_norms=1)),
        weight("merger.in", wide, wide, 1 + deep, bias=True),
        weight("merger.out", out, wide, 1 + deep, bias=True),
    ]
    extras += [weight("merger.norm", wide, copies=2 * deep)] if deep else []
    return with_text(config, reader, extras, spec(shape, merge))


def qwen2_vl(config: Config) -> Parts:
    """Qwen 2.5 VL: gated ViT with RMS norms and windows."""
    eye = encoder(config).defaults(depth=32, hidden_size=1280, num_heads=16, intermediate_size=3420)
    shape = tower(eye)._replace(gated=True, layer_norm=False)
    merge = eye.count("spatial_merge_size", default=2)
    wide = shape.hidden * merge**2
    patch = _CHANNELS * eye.count("temporal_patch_size", default=2) * shape.patch**2
    extras = [
        weight("patch", shape.hidden, patch),
        *blocks(shape._replace(outer_norms=1)),
        weight("merger.in", wide, wide, bias=True),
        weight("merger.out", eye.count("out_hidden_size"), wide, bias=True),
    ]
    return with_text(config, attention.qwen2, extras, spec(shape, merge))


def qwen2_vl_first(config: Config) -> Parts:
    """Qwen 2 VL: plain ViT; `hidden_size` of its config is the text model's width."""
    eye = encoder(config).defaults(depth=32, embed_dim=1280, num_heads=16, mlp_ratio=4)
    width = eye.count("embed_dim")
    layers, heads = eye.count("depth", top=MAX_LAYERS), eye.count("num_heads")
    shape = Tower(width, layers, heads, width * eye.count("mlp_ratio"), eye.count("patch_size", default=14))
    merge = eye.count("spatial_merge_size", default=2)
    wide = width * merge**2
    extras = [
        weight("patch", width, _CHANNELS * eye.count("temporal_patch_size", default=2) * shape.patch**2),
        *blocks(shape._replace(outer_norms=1)),
        weight("merger.in", wide, wide, bias=True),
        weight("merger.out", eye.count("hidden_size"), wide, bias=True),
    ]
    return with_text(config, attention.qwen2, extras, spec(shape, merge))


def mllama(config: Config) -> Parts:
    """Llama 3.2 Vision: cross-attention layers in the text model, a two-stage ViT over tiles."""
    eye = encoder(config)
    shape = tower(eye.merged(num_attention_heads=eye.count("attention_heads", "num_attention_heads")))
    last = eye.count("num_global_layers", top=MAX_LAYERS)
    tiles, size = eye.count("max_num_tiles", top=256), eye.count("image_size")
    patches, ratios = (size // shape.patch) ** 2 + 1, len(eye.items("supported_aspect_ratios")) + 1
    shape = shape._replace(layers=shape.layers + last, bias=False, outer_norms=2)
    extras = [
        weight("patch", shape.hidden, _CHANNELS * shape.patch**2),
        weight("class", shape.hidden),
        weight("position", patches, shape.hidden),
        weight("tile_position", ratios, tiles * (patches + 2) * shape.hidden),
        *blocks(shape),
        weight("mlp.bias", shape.hidden + shape.inner, copies=shape.layers),
        weight("gates", 2 * last + 3),
        weight("projector", text_config(config).count("hidden_size"), eye.count("vision_output_dim"), bias=True),
    ]
    vision = spec(shape, 1, size).model_copy(update={"tiles": tiles, "output": eye.count("vision_output_dim")})
    return with_text(config, attention.mllama, extras, vision)


def gemma3(config: Config) -> Parts:
    """Gemma 3: SigLIP at 896 pixels, averaged down to 256 tokens."""
    eye = encoder(config).defaults(
        hidden_size=1152, num_hidden_layers=27, num_attention_heads=16, intermediate_size=4304, image_size=896
    )
    shape, size = tower(eye), eye.count("image_size")
    extras = [
        weight("patch", shape.hidden, _CHANNELS * shape.patch**2, bias=True),
        weight("position", (size // shape.patch) ** 2, shape.hidden),
        *blocks(shape._replace(outer_norms=1)),
        weight("projector", text_config(config).count("hidden_size"), shape.hidden),
        weight("projector.norm", shape.hidden),
    ]
    return with_text(
        config, gemma.gemma3, extras, spec(shape, 1, size, config.count("mm_tokens_per_image", default=256))
    )


def _conformer(ear: Config, width: int) -> Extras:
    """Gemma 4's encoder of sound: two convolutions over the mel bins, then layers of half MLP, attention with relative
    positions, light convolution (one projection twice as wide) and half MLP. Ref: transformers Gemma4AudioModel.

    Kept with the image encoder, which serves load with it; it costs no time here.
    """
    hidden = ear.count("hidden_size", default=1024)
    layers = ear.count("num_hidden_layers", default=12, top=MAX_LAYERS)
    first, second = (ear.counts("subsampling_conv_channels", low=1) + [128, 32])[:2]
    leaving = ear.count("output_proj_dims", default=1536)
    return [
        {"name": "audio.convolutions", "role": "vision", "n": first + second * first, "k": _CONVOLVED},
        {"name": "audio.entry", "role": "vision", "n": hidden, "k": second * _MEL_BINS // _MEL_STRIDE},
        {"name": "audio.mlp", "role": "vision", "n": 4 * hidden, "k": hidden, "copies": 4 * layers},
        {"name": "audio.attention", "role": "vision", "n": hidden, "k": hidden, "copies": 5 * layers},
        {"name": "audio.light_conv", "role": "vision", "n": hidden, "k": hidden, "copies": 3 * layers},
        {"name": "audio.leaving", "role": "vision", "n": leaving, "k": hidden, "bias": True},
        {"name": "audio.projection", "role": "vision", "n": width, "k": leaving},
    ]


def gemma4(config: Config) -> Parts:
    """Gemma 4: ViT with norms on the heads and two-dimensional positions, pooled 3 x 3."""
    eye = encoder(config)
    shape = tower(eye)._replace(gated=True, bias=False, layer_norm=False, norms=4)
    head = eye.count("head_dim", default=shape.hidden // shape.heads)
    if eye.count("num_key_value_heads", default=shape.heads) * head != shape.hidden:
        raise eye.unknown("num_key_value_heads", "hidden_size / head_dim")
    extras = [
        weight("patch", shape.hidden, _CHANNELS * shape.patch**2),
        weight("position", 2 * eye.count("position_embedding_size"), shape.hidden),
        *blocks(shape),
        weight("head_norm", head, copies=2 * shape.layers),
        weight("projector", text_config(config).count("hidden_size"), shape.hidden),
    ]
    if config.has("audio_config"):
        extras += _conformer(config.sub("audio_config"), text_config(config).count("hidden_size"))
    tokens = config.size("vision_soft_tokens_per_image")
    return with_text(config, gemma.gemma4, extras, spec(shape, eye.count("pooling_kernel_size", default=1), 0, tokens))


def pixtral(config: Config, reader: Callable[[Config], Parts]) -> Parts:
    """Mistral 3 and 4: Pixtral's gated ViT with RMS norms, a 2 x 2 merger and two linear layers."""
    eye = encoder(config)
    shape = tower(eye)._replace(gated=True, bias=False, layer_norm=False, outer_norms=1)
    merge, width = config.count("spatial_merge_size", default=2), text_config(config).count("hidden_size")
    bias = config.flag("multimodal_projector_bias")
    extras = [
        weight("patch", shape.hidden, _CHANNELS * shape.patch**2),
        *blocks(shape),
        weight("projector.norm", shape.hidden),
        weight("projector.merge", shape.hidden, shape.hidden * merge**2),
        weight("projector.in", width, shape.hidden, bias=bias),
        weight("projector.out", width, width, bias=bias),
    ]
    return with_text(config, reader, extras, spec(shape, merge, eye.size("image_size")))


def mistral3(config: Config) -> Parts:
    """Mistral Small 3.1 and 3.2, Ministral 3, Devstral Small 2: the text model names its own type."""
    kind = config.sub("text_config").text("model_type", "mistral")
    if kind not in _MISTRAL_TEXT:
        raise config.sub("text_config").unknown("model_type", ", ".join(_MISTRAL_TEXT))
    return pixtral(config, _MISTRAL_TEXT[kind])


_MISTRAL_TEXT: dict[str, Callable[[Config], Parts]] = {
    "mistral": attention.mistral,
    "ministral3": attention.mistral,
    "mistral4": mla.mistral4,
}


def ministral3(config: Config) -> Parts:
    """Ministral 3: text alone, or with Pixtral's encoder under the same type."""
    return pixtral(config, attention.mistral) if config.has("text_config") else attention.mistral(config)


def llama4(config: Config) -> Parts:
    """Llama 4: ViT with a class token, pixel shuffle and a two-layer adapter."""
    eye = encoder(config).defaults(
        hidden_size=768,
        num_hidden_layers=34,
        num_attention_heads=16,
        intermediate_size=5632,
        vision_output_dim=7680,
        projector_input_dim=4096,
        projector_output_dim=4096,
        image_size=448,
        pixel_shuffle_ratio=0.5,
    )
    shape, size = tower(eye), eye.count("image_size")
    merge = round(1 / max(eye.number("pixel_shuffle_ratio", 0.5), 2**-6))
    narrow = eye.count("projector_output_dim")
    extras = [
        weight("patch", shape.hidden, _CHANNELS * shape.patch**2),
        weight("class", shape.hidden),
        weight("position", (size // shape.patch) ** 2 + 1, shape.hidden),
        *blocks(shape._replace(outer_norms=2)),
        weight("adapter.in", eye.count("projector_input_dim"), eye.count("intermediate_size")),
        weight("adapter.out", narrow, eye.count("projector_input_dim")),
        weight("projector", text_config(config).count("hidden_size"), eye.count("vision_output_dim")),
    ]
    tokens = (size // shape.patch // merge) ** 2
    return with_text(config, moe.llama4, extras, spec(shape, merge, size, tokens))


def kimi(config: Config) -> Parts:
    """Kimi K2.5 to K2.7: MoonViT under DeepSeek V3."""
    extras, vision = moonvit(encoder(config), text_config(config).count("hidden_size"))
    return with_text(config, mla.deepseek, extras, vision)


def moonvit(eye: Config, width: int) -> tuple[Extras, Vision]:
    """MoonViT with its patch merger into a text model of `width`."""
    shape = Tower(
        hidden=eye.count("vt_hidden_size"),
        layers=eye.count("vt_num_hidden_layers", top=MAX_LAYERS),
        heads=eye.count("vt_num_attention_heads"),
        inner=eye.count("vt_intermediate_size"),
        patch=eye.count("patch_size"),
        outer_norms=1,
    )
    kernel = eye.counts("merge_kernel_size", low=1, top=64) or [2, 2]
    wide = shape.hidden * kernel[0] * kernel[-1]
    positions = eye.count("init_pos_emb_height", default=64) * eye.count("init_pos_emb_width", default=64)
    extras = [
        weight("patch", shape.hidden, _CHANNELS * shape.patch**2, bias=True),
        weight("position", positions, shape.hidden),
        *blocks(shape),
        weight("merger.norm", shape.hidden, copies=2),
        weight("merger.in", wide, wide, bias=True),
        weight("merger.out", width, wide, bias=True),
    ]
    return extras, spec(shape, kernel[0])


def minimax_m3(config: Config) -> Parts:
    """MiniMax M3: CLIP-like ViT with rotary positions, a projector and a patch merger."""
    eye = encoder(config)
    shape = tower(eye)._replace(outer_norms=1)
    packing = eye.sub("img_token_compression_config")
    merge = packing.count("spatial_merge_size", default=2)
    width, out = text_config(config).count("hidden_size"), config.count("projector_hidden_size")
    patch = _CHANNELS * packing.count("temporal_patch_size", default=2) * shape.patch**2
    extras = [
        weight("patch", shape.hidden, patch),
        *blocks(shape),
        weight("projector.in", out, shape.hidden, bias=True),
        weight("projector.out", width, out, bias=True),
        weight("merger.in", width, width * merge**2, bias=True),
        weight("merger.out", width, width, bias=True),
    ]
    return with_text(config, moe.minimax_m3, extras, spec(shape, merge, eye.size("image_size")))
