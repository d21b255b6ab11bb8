"""A checkpoint's own quantization: which weight format it is stored in, and what it leaves in 16 bit.

Read from `quantization_config` of the config (fp8, compressed-tensors, gptq, awq, bitsandbytes, mxfp4, modelopt,
hqq, torchao, exl3, quark), from `quantization` (MLX), or from ModelOpt's hf_quant_config.json beside it.
Exclusions name modules of the checkpoint; they are matched against the modules that our tensors stand for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from planner.catalog.hf.config import Config
from planner.catalog.hf.modules import MAX_PATTERNS, Exclusions, module_names
from planner.params import Tensor, tensors
from planner.specs.model import ModelSpec, MoeFfn, Quantization, Role

_MODELOPT = {
    "FP8": "fp8",
    "FP8_PB_WO": "fp8-block128",
    "FP8_PB_REAL": "fp8-block128",
    "NVFP4": "nvfp4",
    "NVFP4_AWQ": "nvfp4",
    "W4A16_NVFP4": "nvfp4",
    "MXFP8": "mxfp8",
    "MXFP4": "mxfp4",
    "W4A8_MXFP4_FP8": "mxfp4",
    "W4A16_AWQ": "awq-int4-g128",
    "W8A8_SQ_PER_CHANNEL": "int8-w8a8",
    "W8A16": "int8-w8a16",
}
_GPTQ = {(4, 128): "gptq-int4-g128", (3, 128): "gptq-int3-g128", (2, 128): "gptq-int2-g128", (4, 32): "int4-g32"}
_MATRICES = (Role.ATTENTION, Role.SSM, Role.MLP, Role.EXPERT, Role.SHARED_EXPERT, Role.LM_HEAD)
_KV_FIELD = "kv_cache_quant_algo"
_KV = {"FP8": "fp8", "NVFP4": "nvfp4", "INT8": "int8"}


def quantization(config: Config, model: ModelSpec, beside: Mapping[str, Any] | None = None) -> Quantization | None:
    """The quantization that a config states, `beside` being its hf_quant_config.json; None: 16 bit.

    Raises BadValue that names the method, width or group that is not known.
    """
    stated = _stated(config)
    if beside is not None and (stated is None or not stated.has("quant_algo")):
        return _modelopt(Config(beside, f"{config.where} (hf_quant_config.json)").sub("quantization"), model)
    if stated is None:
        return None
    method = stated.text("quant_method") or ("modelopt" if stated.has("quant_algo") else "mlx")
    if stated.text("quant_algo") == "MIXED_PRECISION":
        method = "modelopt"
    if method not in _METHODS:
        raise stated.unknown("quant_method", ", ".join(sorted(_METHODS)))
    if method == "modelopt" and not stated.has("kv_cache_scheme") and beside is not None:
        stated = stated.merged(kv_cache_scheme=Config(beside, config.where).sub("quantization").data.get(_KV_FIELD))
    if method == "fp8" and config.text("expert_dtype") == "fp4":
        return _mixed(_fp8(stated, model), model, {"experts": "mxfp4"}, stated)
    return _METHODS[method](stated, model)


def _stated(config: Config) -> Config | None:
    places = [config, config.sub("text_config")] if config.has("text_config") else [config]
    fields = ("quantization_config", "quantization")
    return next((place.sub(field) for place in places for field in fields if place.has(field)), None)


def _built(model: ModelSpec, weight_format: str, excluded: Sequence[str], stated: Config) -> Quantization:
    kept = _kept(model, Exclusions(excluded, stated.where))
    method = stated.text("quant_method") or stated.text("quant_algo")
    return Quantization(weight_format=weight_format, method=method, kv_format=_kv(stated), **kept)


def _kept(model: ModelSpec, exclusions: Exclusions) -> dict[str, Any]:
    """Excluded modules as whole layers, whole roles, or tensors in all their layers, whichever says it.

    A tensor left in 16 bit in some of its layers only counts as such when they are most of them.
    """
    beside = _beside(model)
    left: dict[str, set[int]] = {}
    held: dict[str, Tensor] = {}
    for tensor in tensors(model):
        if tensor.k > 1:
            held[tensor.name] = (
                tensor._replace(layers=held[tensor.name].layers + tensor.layers) if (tensor.name in held) else tensor
            )
            left.setdefault(tensor.name, set()).update(
                layer for layer in tensor.layers or (-1,) if exclusions.cover(module_names(tensor, layer, beside))
            )
    layers = _whole_layers(model, held, left)
    full = {
        name
        for name, where in left.items()
        if len(where | (layers & set(held[name].layers))) == max(len(held[name].layers), 1) and not where <= layers
    } | {name for name, where in left.items() if 2 * len(where - layers) > max(len(held[name].layers), 1)}
    roles = {held[name].role for name in full}
    roles = {role for role in roles if all(name in full for name, tensor in held.items() if tensor.role is role)}
    names = sorted(name for name in full if held[name].role not in roles)
    return {"layers_16bit": sorted(layers), "roles_16bit": sorted(roles), "tensors_16bit": names}


def _beside(model: ModelSpec) -> bool:
    """Whether the experts stand beside an MLP."""
    return any(isinstance(ffn, MoeFfn) and ffn.dense_intermediate for ffn in model.ffns)


def _whole_layers(model: ModelSpec, held: dict[str, Tensor], left: dict[str, set[int]]) -> set[int]:
    """Layers all of whose matrices are excluded, unless every layer is."""
    found = set()
    for layer in range(model.n_layers):
        here = [name for name, tensor in held.items() if layer in tensor.layers and tensor.role is not Role.ROUTER]
        if here and all(layer in left[name] for name in here):
            found.add(layer)
    return found if len(found) < model.n_layers else set()


def _kv(stated: Config) -> str | None:
    scheme = stated.data.get("kv_cache_scheme") or stated.data.get(_KV_FIELD)
    if isinstance(scheme, dict):
        return "fp8" if stated.sub("kv_cache_scheme").text("type") == "float" else "int8"
    return _KV.get(scheme) if isinstance(scheme, str) else None


def _fp8(stated: Config, model: ModelSpec) -> Quantization:
    """DeepSeek's FP8 in blocks of 128 x 128, or one scale for a tensor or channel."""
    block = stated.counts("weight_block_size", low=1)
    if block not in ([], [128, 128]):
        raise stated.unknown("weight_block_size", "[128, 128] or none")
    excluded = stated.texts("modules_to_not_convert", MAX_PATTERNS) + stated.texts("ignored_layers", MAX_PATTERNS)
    return _built(model, "fp8-block128" if block else "fp8", excluded, stated)


def _mxfp4(stated: Config, model: ModelSpec) -> Quantization:
    """gpt-oss: the experts alone."""
    return _built(model, "mxfp4", stated.texts("modules_to_not_convert", MAX_PATTERNS), stated)


def _gptq(stated: Config, model: ModelSpec) -> Quantization:
    bits, group = stated.count("bits", default=4), stated.count("group_size", default=128, low=-1)
    if bits == 8:
        return _built(model, "int8-w8a16", [], stated)
    if (bits, group) not in _GPTQ:
        raise stated.unknown("group_size" if bits in (2, 3, 4) else "bits", "4, 3 and 2 bits in groups of 128, 4 in 32")
    return _built(model, _GPTQ[bits, group], stated.texts("modules_to_not_convert", MAX_PATTERNS), stated)


def _awq(stated: Config, model: ModelSpec) -> Quantization:
    bits, group = stated.count("bits", "w_bit", default=4), stated.count("group_size", "q_group_size", default=128)
    if (bits, group) != (4, 128):
        raise stated.unknown("bits" if bits != 4 else "group_size", "4 bits in groups of 128")
    return _built(model, "awq-int4-g128", stated.texts("modules_to_not_convert", MAX_PATTERNS), stated)


def _bitsandbytes(stated: Config, model: ModelSpec) -> Quantization:
    excluded = stated.texts("llm_int8_skip_modules", MAX_PATTERNS)
    if stated.flag("load_in_8bit") or stated.flag("_load_in_8bit"):
        return _built(model, "bnb-int8", excluded, stated)
    if stated.text("bnb_4bit_quant_type", "nf4") not in ("nf4", "fp4"):
        raise stated.unknown("bnb_4bit_quant_type", "nf4, fp4")
    double = stated.flag("bnb_4bit_use_double_quant")
    return _built(model, "bnb-nf4-dq" if double else "bnb-nf4", excluded, stated)


def _compressed(stated: Config, model: ModelSpec) -> Quantization:
    """compressed-tensors: one or several groups of targets; several make a mixed checkpoint."""
    groups = stated.sub("config_groups")
    formats = [(_group_format(groups.sub(name)), groups.sub(name)) for name in groups.data]
    if not formats:
        raise stated.bad("config_groups", "empty: it states the weight format")
    built = _built(model, formats[0][0], stated.texts("ignore", MAX_PATTERNS), stated)
    if len({weight for weight, _ in formats}) == 1:
        return built
    by_module = {target: weight for weight, group in formats for target in group.texts("targets")}
    return _mixed(built, model, by_module, stated)


def _group_format(group: Config) -> str:
    weights = group.sub("weights")
    bits, size = weights.count("num_bits"), weights.count("group_size", default=0, low=-1)
    kind, inputs = weights.text("type", "int"), group.has("input_activations")
    if kind == "float" and bits == 8:
        return {"block": "fp8-block128", "group": "mxfp8"}.get(weights.text("strategy"), "fp8")
    if kind == "float" and bits == 4:
        return "mxfp4" if size == 32 else "nvfp4"
    if kind == "int" and bits == 8:
        return "int8-w8a8" if inputs else "int8-w8a16"
    if kind == "int" and bits == 4 and size in (32, 128):
        return "w4a16-g128" if size == 128 else "int4-g32"
    raise weights.unknown(
        "group_size" if bits == 4 else "num_bits", "8-bit float or int, 4-bit float, 4-bit int in 32 or 128"
    )


def _modelopt(stated: Config, model: ModelSpec) -> Quantization:
    """NVIDIA ModelOpt: one algorithm, or one for each module (MIXED_PRECISION)."""
    algorithm = stated.text("quant_algo")
    excluded = stated.texts("exclude_modules", MAX_PATTERNS) or stated.texts("ignore", MAX_PATTERNS)
    if algorithm != "MIXED_PRECISION":
        return _built(model, _algorithm(stated), excluded, stated)
    layers = stated.sub("quantized_layers")
    by_module = {module: _algorithm(layers.sub(module)) for module in layers.data}
    if not by_module:
        raise stated.bad("quantized_layers", "empty: MIXED_PRECISION states a format for each module there")
    return _mixed(_built(model, "nvfp4", excluded, stated), model, by_module, stated)


def _algorithm(stated: Config) -> str:
    algorithm = stated.text("quant_algo")
    if algorithm not in _MODELOPT:
        raise stated.unknown("quant_algo", ", ".join(_MODELOPT))
    return _MODELOPT[algorithm]


def _mixed(
    built: Quantization,
    model: ModelSpec,
    by_module: Mapping[str, str],
    stated: Config,
    rest: str | None = None,
    excluded: Sequence[str] = (),
) -> Quantization:
    """Formats by role: the one that holds the most parameters is the checkpoint's, the others stand apart.

    What no module names has the format `rest`, else DeepSeek's FP8 where the config states that, and 16 bit where not.
    """
    matchers = {
        weight: Exclusions([m for m, w in by_module.items() if w == weight], stated.where)
        for weight in dict.fromkeys(by_module.values())
    }
    left = Exclusions(excluded, stated.where)
    kept: dict[str, Any] = {"roles_16bit": (), "tensors_16bit": ()} if stated.has("weight_block_size") else {}
    rest = rest or ("fp8-block128" if kept else None)
    by_role: dict[Role, tuple[str, int]] = {}
    for tensor in tensors(model):
        if tensor.k == 1 or tensor.role not in _MATRICES:
            continue
        names = module_names(tensor, tensor.layers[-1] if tensor.layers else -1, _beside(model))
        default = None if tensor.role is Role.LM_HEAD or left.cover(names) else rest
        weight = next((w for w, matcher in matchers.items() if matcher.cover(names)), default)
        if weight and tensor.numel > by_role.get(tensor.role, ("", 0))[1]:
            by_role[tensor.role] = (weight, tensor.numel)
    if not by_role:
        return built
    main = max(by_role.values(), key=lambda pair: pair[1])[0]
    others = tuple(sorted((role, weight) for role, (weight, _) in by_role.items() if weight != main))
    same = tuple(sorted(role for role, (weight, _) in by_role.items() if weight == main))
    if not excluded:
        kept["layers_16bit"] = ()
    update = {"weight_format": main, "quantized": same, "mixed": others, **kept}
    return built.model_copy(update=update)


def _hqq(stated: Config, model: ModelSpec) -> Quantization:
    weights = stated.sub("quant_config").sub("weight_quant_params")
    bits, group = weights.count("nbits", default=4), weights.count("group_size", default=64)
    if (bits, group) != (4, 64):
        raise weights.unknown("nbits" if bits != 4 else "group_size", "4 bits in groups of 64")
    return _built(model, "hqq-4bit-g64", stated.texts("skip_modules", MAX_PATTERNS), stated)


def _mlx(stated: Config, model: ModelSpec) -> Quantization:
    bits, group = stated.count("bits"), stated.count("group_size", default=64)
    if bits not in (4, 8) or group != 64:
        raise stated.unknown("bits" if bits not in (4, 8) else "group_size", "4 or 8 bits in groups of 64")
    return _built(model, f"mlx-{bits}bit-g64", [], stated)


def _exl3(stated: Config, model: ModelSpec) -> Quantization:
    bits = stated.number("bits", 0.0)
    if not 1 <= bits <= 8:
        raise stated.bad("bits", "outside 1..8")
    return _built(model, f"exl3-{bits:g}", [], stated)


def _quark(stated: Config, model: ModelSpec) -> Quantization:
    """AMD Quark: one format for all modules that are not excluded, and others by patterns of their names."""
    excluded = stated.texts("exclude", MAX_PATTERNS)
    common, layers = stated.sub("global_quant_config"), stated.sub("layer_quant_config")
    by_module = {module: _quark_format(layers.sub(module)) for module in layers.data}
    rest = _quark_format(common) if common.has("weight") or not by_module else None
    built = _built(model, rest or next(iter(by_module.values())), excluded, stated)
    if rest and set(by_module.values()) <= {rest}:
        return built
    return _mixed(built, model, by_module, stated, rest, excluded)


def _quark_format(group: Config) -> str:
    weight = group.sub("weight")
    kind, scheme, size = weight.text("dtype"), weight.text("qscheme"), weight.count("group_size", default=0, low=-1)
    if kind == "fp8_e4m3":
        return {"per_block": "fp8-block128", "per_group": "mxfp8"}.get(scheme, "fp8")
    if kind in ("fp4", "fp4_e2m1") and size == 32:
        return "mxfp4"
    if kind == "int8" and scheme != "per_group":
        return "int8-w8a8"
    raise weight.unknown("group_size" if kind.startswith("fp4") else "dtype", "fp8_e4m3, fp4 in groups of 32, int8")


_METHODS = {
    "fp8": _fp8,
    "fbgemm_fp8": _fp8,
    "mxfp4": _mxfp4,
    "gptq": _gptq,
    "awq": _awq,
    "bitsandbytes": _bitsandbytes,
    "compressed-tensors": _compressed,
    "modelopt": _modelopt,
    "modelopt_fp4": _modelopt,
    "hqq": _hqq,
    "mlx": _mlx,
    "exl3": _exl3,
    "quark": _quark,
}
