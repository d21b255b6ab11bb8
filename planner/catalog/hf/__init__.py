"""A Hugging Face config.json -> ModelSpec.

`model_type` chooses the reader; a type, a layer kind or a quantization method that no reader knows is an
error that names the field and its value, never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pydantic import ValidationError

from planner.catalog.files import parse_json
from planner.catalog.hf import attention, classic, encoder, gemma, hybrid, mla, moe, qwen4, towers, vision
from planner.catalog.hf.common import Parts
from planner.catalog.hf.config import Config, shown
from planner.catalog.hf.quantization import quantization
from planner.errors import BadValue
from planner.params import tensors
from planner.specs.model import ModelSpec

Reader = Callable[[Config], Parts]
READERS: dict[str, Reader] = {
    "llama": attention.llama,
    "mistral": attention.mistral,
    "ministral": attention.mistral,
    "ministral3": vision.ministral3,
    "phi": classic.phi,
    "phi-msft": classic.phi,
    "phi3": attention.phi3,
    "qwen": classic.qwen,
    "qwen2": attention.qwen2,
    "mimo": attention.qwen2,
    "qwen3": attention.qwen3,
    "seed_oss": attention.seed_oss,
    "smollm3": attention.smollm3,
    "internlm2": attention.internlm2,
    "hunyuan_v1_dense": attention.hunyuan,
    "apertus": attention.apertus,
    "granite": attention.llama,
    "olmo": attention.olmo,
    "olmo2": attention.olmo2,
    "olmo3": attention.olmo3,
    "exaone4": attention.exaone4,
    "arcee": attention.arcee,
    "cwm": attention.llama,
    "iquestcoder": attention.llama,
    "cohere": attention.cohere,
    "cohere2": attention.cohere2,
    "falcon": classic.falcon,
    "gptj": classic.gptj,
    "gpt_neox": classic.gpt_neox,
    "mpt": classic.mpt,
    "gpt2": classic.gpt2,
    "starcoder2": classic.starcoder2,
    "glm": attention.glm,
    "glm4": attention.glm4,
    "gemma": gemma.gemma,
    "gemma2": gemma.gemma2,
    "gemma3_text": gemma.gemma3,
    "gemma3": vision.gemma3,
    "gemma3n_text": gemma.gemma3n,
    "gemma4_text": gemma.gemma4,
    "gemma4": vision.gemma4,
    "mixtral": moe.mixtral,
    "granitemoe": moe.mixtral,
    "phimoe": moe.phimoe,
    "olmoe": moe.olmoe,
    "qwen2_moe": moe.qwen2_moe,
    "qwen3_moe": moe.qwen3_moe,
    "gpt_oss": moe.gpt_oss,
    "llama4": vision.llama4,
    "llama4_text": moe.llama4,
    "minimax_m2": moe.minimax_m2,
    "minimax_m3": moe.minimax_m3,
    "minimax_m3_vl": vision.minimax_m3,
    "dots1": moe.dots1,
    "glm4_moe": moe.glm4_moe,
    "ernie4_5": moe.ernie_dense,
    "ernie4_5_moe": moe.ernie,
    "hunyuan_v1_moe": moe.hunyuan_moe,
    "hy_v3": moe.hy_v3,
    "cohere2_moe": moe.cohere2_moe,
    "step3p5": moe.step3,
    "step3p7": moe.step3,
    "mimo_v2_flash": moe.mimo_v2,
    "mimo_v2": moe.mimo_v2,
    "laguna": moe.laguna,
    "bailing_moe": moe.bailing,
    "bailing_moe_v2": moe.bailing,
    "solar_open": moe.solar_open,
    "mellum": moe.mellum,
    "exaone_moe": moe.exaone_moe,
    "afmoe": moe.afmoe,
    "deepseek_v2": mla.deepseek,
    "deepseek_v3": mla.deepseek,
    "deepseek_v32": mla.deepseek_v32,
    "kimi_k2": mla.deepseek,
    "kimi_k25": vision.kimi,
    "glm_moe_dsa": mla.glm_dsa,
    "glm4_moe_lite": mla.glm_lite,
    "mistral3": vision.mistral3,
    "mistral4": mla.mistral4,
    "mistral_large4": partial(vision.pixtral, reader=mla.mistral_large4),
    "mistral_large4_text": mla.mistral_large4,
    "longcat_flash": mla.longcat,
    "hy_v4": mla.hy_v4,
    "mllama": vision.mllama,
    "mllama_text_model": attention.mllama,
    "qwen2_vl": vision.qwen2_vl_first,
    "qwen2_5_vl": vision.qwen2_vl,
    "qwen3_vl": partial(vision.qwen_vl, reader=attention.qwen3),
    "qwen3_vl_moe": partial(vision.qwen_vl, reader=moe.qwen3_moe),
    "qwen3_vl_text": attention.qwen3,
    "qwen3_vl_moe_text": moe.qwen3_moe,
    "bert": encoder.bert,
    "roberta": encoder.roberta,
    "xlm-roberta": encoder.roberta,
    "modernbert": encoder.modernbert,
    **hybrid.READERS,
    **qwen4.READERS,
    **towers.READERS,
}


def model_from_config(
    config: Mapping[str, Any] | bytes,
    model_id: str,
    where: str = "config.json",
    hf_quant_config: Mapping[str, Any] | None = None,
) -> ModelSpec:
    """The architecture that a config.json states, quantized as it or ModelOpt's file beside it says.

    Raises BadFile or BadValue, one line that names the field, for anything that is malformed, out of
    range or of a kind that is not known.
    """
    top = Config(parse_json(_quoted_infinity(config), where) if isinstance(config, bytes) else dict(config), where)
    model = _validated(top, model_id)
    own = quantization(top, model, hf_quant_config)
    return model.model_copy(update={"quantization": own, "mtp_params": model.mtp_params or _mtp_params(model)})


def _validated(config: Config, model_id: str) -> ModelSpec:
    """The spec, all of whose values are checked, those that readers derived too."""
    try:
        parts = {"id": model_id, **encoder.on_decoder(config, _reader(config)(config))}
        parts.setdefault("model_type", config.text("model_type"))
        parts.setdefault("architecture", next(iter(config.texts("architectures")), ""))
        for field in ("mixers", "ffns"):
            parts[field] = [spec.model_dump() for spec in parts[field]]
        return ModelSpec.model_validate(parts)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise BadValue(f"{config.where}: {field} is {shown(first['input'])}: {first['msg']}") from None


def _mtp_params(model: ModelSpec) -> int:
    """Parameters of the multi-token-prediction layers: each the last layer again, a projection of two hidden
    states into one, and three norms; embedding and head are the model's own. Ref: DeepSeek-V3 report, 2.2."""
    if not model.mtp_layers:
        return 0
    last = model.n_layers - 1
    block = sum(t.numel // len(t.layers) for t in tensors(model) if last in t.layers)
    return model.mtp_layers * (block + 2 * model.hidden_size**2 + 3 * model.hidden_size)


def _quoted_infinity(data: bytes) -> bytes:
    """The document with its infinities as texts: Nemotron-H states one (`time_step_limit`) that nothing reads."""
    if b"Infinity" not in data:
        return data
    return re.sub(rb'("(?:[^"\\]|\\.)*")|(-?Infinity)', lambda m: m[1] or b'"' + m[2] + b'"', data)


def _reader(config: Config) -> Reader:
    model_type = config.text("model_type")
    if not model_type and config.data.get("weight_map"):
        raise BadValue(f"{config.where}: the index of a checkpoint's files; give the config.json that lies beside it")
    if not model_type:
        raise BadValue(f"{config.where}: model_type is missing; it names the architecture")
    if model_type not in READERS:
        raise config.unknown("model_type", f"{len(READERS)} types, listed in docs/models.md")
    return READERS[model_type]
