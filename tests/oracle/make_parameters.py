"""Count parameters with transformers' own model classes: the golden file that the planner is checked against.

    python tests/oracle/make_parameters.py CONFIGS [--out tests/golden/parameters.json] [--only NAME] [--names]

CONFIGS is a folder of `<owner>--<name>.json` files (the publishers' config.json) with a SOURCES.csv that says
where each came from; `PUBLIC` adds models whose few public values stand below. Each model is built on torch's meta
device (shapes only, no memory) in a child process with a time limit. Only counts are written, never configs.
Needs torch and transformers, for Gemma 3n also timm and torchvision; the tests that read the golden file need none.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import queue
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

TIME_LIMIT_S = 300

# Configs that name no model_type state no class: the class of the family they belong to.
FAMILIES = (
    (r"Qwen2\.5|QwQ", "qwen2"),
    (r"Qwen3-\d+B-A\d+B", "qwen3_moe"),
    (r"Qwen3", "qwen3"),
    (r"Mistral-Large", "mistral"),
    (r"Phi-[34]", "phi3"),
    (r"Llama|SmolLM2|Falcon3", "llama"),
)
# Types under which a publisher ships a class that transformers knows under another name.
ALIASES = {
    "phi-msft": "phi",
    "kimi_k2": "deepseek_v3",
    "minimax_m3": "minimax_m3_vl_text",
    "mimo": "qwen2",
    "deepseek_ref": "deepseek_v4",
}
# The text model's type where transformers has a class for text and images only, and a config states text alone.
TEXT_TYPES = {"step3p7": "step3p5"}
PHI_FIELDS = {
    "n_embd": "hidden_size",
    "n_head": "num_attention_heads",
    "n_layer": "num_hidden_layers",
    "n_positions": "max_position_embeddings",
}
# Checkpoints whose extract leaves a field out or blank; the values are those of their model cards.
STATED = {
    "Qwen/Qwen2.5-0.5B-Instruct": {"tie_word_embeddings": True},
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": {"tie_word_embeddings": True},
    "Qwen/Qwen3-4B-Instruct-2507": {"tie_word_embeddings": True},
    "mistralai/Mistral-Small-3.1-24B-Instruct-2503": {"tie_word_embeddings": False},
    "deepseek-ai/DeepSeek-V2-Lite-Chat": {"q_lora_rank": None},
    "mistralai/Ministral-3-3B-Instruct-2512": {"model_type": "mistral3"},
}
_BERT_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
_XLM_R = {"vocab_size": 250002, "max_position_embeddings": 514, "type_vocab_size": 1}
_BGE = {"model_type": "xlm-roberta", **_XLM_R, **_BERT_LARGE, "max_position_embeddings": 8194}
_EMBEDDING = {"model_type": "qwen3", "architectures": ["Qwen3Model"], "num_key_value_heads": 8, "head_dim": 128}
_MODERNBERT = {"model_type": "modernbert", "architectures": ["ModernBertModel"]}
_MODERN_LARGE = {"hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16, "intermediate_size": 2624}
_MINIMAX_01 = {
    "model_type": "minimax",
    "hidden_size": 6144,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 9216,
    "num_local_experts": 32,
    "num_experts_per_tok": 2,
    "vocab_size": 200064,
    "tie_word_embeddings": False,
    "layer_types": (["linear_attention"] * 7 + ["full_attention"]) * 10,
}


def _sizes(hidden: int, layers: int, heads: int, ffn: int, vocab: int) -> dict[str, int]:
    fields = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
    return dict(zip(fields, (hidden, layers, heads, ffn, vocab), strict=True))


# Models outside the folder, from the values that their model cards, papers and config.json state.
PUBLIC: dict[str, dict[str, Any]] = {
    "google-bert/bert-base-uncased": {"model_type": "bert", "architectures": ["BertModel"]},
    "google-bert/bert-large-uncased": {"model_type": "bert", "architectures": ["BertModel"], **_BERT_LARGE},
    "FacebookAI/xlm-roberta-base": {"model_type": "xlm-roberta", "architectures": ["XLMRobertaModel"], **_XLM_R},
    "FacebookAI/xlm-roberta-large": {
        "model_type": "xlm-roberta",
        "architectures": ["XLMRobertaModel"],
        **_XLM_R,
        **_BERT_LARGE,
    },
    "BAAI/bge-m3": {**_BGE, "architectures": ["XLMRobertaModel"]},
    "BAAI/bge-reranker-v2-m3": {**_BGE, "architectures": ["XLMRobertaForSequenceClassification"], "num_labels": 1},
    "Qwen/Qwen3-Embedding-0.6B": {**_EMBEDDING, **_sizes(1024, 28, 16, 3072, 151669)},
    "Qwen/Qwen3-Embedding-4B": {**_EMBEDDING, **_sizes(2560, 36, 32, 9728, 151665)},
    "Qwen/Qwen3-Embedding-8B": {**_EMBEDDING, **_sizes(4096, 36, 32, 12288, 151665)},
    "answerdotai/ModernBERT-base": _MODERNBERT,
    "answerdotai/ModernBERT-large": {**_MODERNBERT, **_MODERN_LARGE},
    "MiniMaxAI/MiniMax-Text-01": _MINIMAX_01,
}

# First match wins; matched against the dotted name of a parameter without its layer numbers.
CLASSES = (
    ("audio", r"audio"),
    ("vision", r"vision|visual|image|multi_modal_projector|mm_projector|patch_embed"),
    ("position", r"position_embeddings|token_type_embeddings"),
    ("norm", r"norm(s?)\d?[._]|norm$|layernorm|LayerNorm|norm_f"),
    ("small", r"conv1d|A_log|dt_bias|sinks|position_bias|kpool_compress_ape|softmax_scaling"),
    ("bias", r"(^|[._])bias$"),
    ("lm_head", r"^(model\.|language_model\.)?(lm_head|score|classifier)\."),
    ("hyper", r"_hc\.|\.hc_|altup|laurel|per_layer_(input|projection|model)"),
    ("per_layer_embedding", r"embed_tokens_per_layer"),
    ("embedding", r"embed_tokens|word_embeddings|tok_embeddings|^model\.embeddings\.weight"),
    ("pooler", r"pooler"),
    ("shared_gate", r"shared_expert_gate"),
    ("shared_expert", r"shared_expert|shared_mlp"),
    ("latent", r"latent_proj"),
    ("router", r"router|(mlp|mixer|feed_forward|moe)\.gate\.weight$"),
    ("expert", r"experts"),
    ("ssm", r"linear_attn|mamba|mixer\.(in_proj|out_proj)"),
    ("attention", r"attn|attention|mixer\.[qkvo]_proj"),
    ("mlp", r"mlp|feed_forward|ffn|(intermediate|output)\.dense|mixer\.(up|down)_proj"),
)
VECTORS = {"norm", "bias", "vision", "audio"}  # classes that keep their one-dimensional parameters
RECURRENT = re.compile("Delta|Lightning")  # module classes of linear attention that are called self_attn


def tensor_class(name: str, dimensions: int, recurrent: bool) -> str:
    """Class of the parameter called `name`."""
    plain = re.sub(r"\.\d+(?=\.|$)", "", name)
    label = next((label for label, pattern in CLASSES if re.search(pattern, plain)), "other")
    if dimensions < 2 and label not in VECTORS:
        return "small"
    return "ssm" if recurrent and label == "attention" else label


def labelled(model: Any) -> Iterable[tuple[str, str, Any]]:
    """(class, name, parameter), tied ones once: named_parameters yields a shared tensor a single time."""
    linear = tuple(f"{name}." for name, module in model.named_modules() if RECURRENT.search(type(module).__name__))
    for name, parameter in model.named_parameters():
        yield tensor_class(name, parameter.dim(), name.startswith(linear) if linear else False), name, parameter


def prepared(model_id: str, raw: dict[str, Any]) -> dict[str, Any]:
    """The config as transformers wants it: with a model_type, without what only loading needs."""
    config = {key: value for key, value in raw.items() if not key.startswith("_")} | STATED.get(model_id, {})
    for key in ("quantization_config", "auto_map", "transformers_version"):
        config.pop(key, None)
    if "model_type" not in config:
        config["model_type"] = next(kind for pattern, kind in FAMILIES if re.search(pattern, model_id))
        config["vocab_size"] = config.get("padded_vocab_size_litgpt", config["vocab_size"])
    if config.get("tie_word_embeddings", False) is None:
        config["tie_word_embeddings"] = False
    if config["model_type"] == "phi-msft":
        config = {PHI_FIELDS.get(key, key): value for key, value in config.items()}
        config["intermediate_size"] = 4 * config["hidden_size"]
    config["model_type"] = ALIASES.get(config["model_type"], config["model_type"])
    if config["model_type"] in TEXT_TYPES and "text_config" not in config:
        inner = {**config, "model_type": TEXT_TYPES[config["model_type"]]}
        config = {"model_type": config["model_type"], "text_config": inner, "tie_word_embeddings": False}
    text = config.get("text_config")
    if isinstance(text, dict):
        config["text_config"] = prepared("", {"model_type": config["model_type"], **text})
    if config["model_type"] == "gemma3":
        # the class default adds a pooling head that no Gemma 3 checkpoint holds
        config["vision_config"] = dict(config.get("vision_config") or {}, vision_use_head=False)
    return config


def model_class(config: Any, architectures: Iterable[str]) -> Any:
    """transformers' class for a config: the one it names, or the generating class of its type."""
    import transformers
    from transformers.models.auto import modeling_auto as auto

    for name in architectures:
        found = getattr(transformers, name, None)
        if found is not None and getattr(found, "config_class", None) is type(config):
            return found
    for mapping in (auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, auto.MODEL_FOR_CAUSAL_LM_MAPPING):
        if type(config) in mapping:
            return mapping[type(config)]
    raise LookupError(f"transformers has no generating class for {config.model_type}")


def built(model_id: str, raw: dict[str, Any]) -> Any:
    """The model on the meta device."""
    import torch
    from transformers import AutoConfig

    values = prepared(model_id, raw)
    kind = values.pop("model_type")
    config = AutoConfig.for_model(kind, **values)
    cls = model_class(config, raw.get("architectures") or ())
    with torch.device("meta"):
        return cls._from_config(config)


def numel(name: str, parameter: Any, config: Any) -> int:
    """Values of a parameter that a checkpoint holds.

    LongCat's class pads the fused expert matrices by one slot for each identity expert, which has no weights.
    """
    idle = getattr(config, "zero_expert_num", 0) if "experts.gate_up_proj" in name else 0
    return int(parameter.numel()) * (parameter.shape[0] - idle) // parameter.shape[0] if idle else parameter.numel()


def counts(model: Any, raw: dict[str, Any]) -> dict[str, Any]:
    """Parameters by class. An image encoder that the class adds to a config of text alone is left out."""
    classes: dict[str, int] = {}
    both = "vision_config" in raw or "text_config" in raw
    for label, name, parameter in labelled(model):
        if both or label != "vision":
            classes[label] = classes.get(label, 0) + numel(name, parameter, model.config)
    return {"total": sum(classes.values()), "classes": dict(sorted(classes.items())), "class": type(model).__name__}


def listed(model: Any) -> dict[str, Any]:
    """Every distinct parameter name with its class, shape and number: to check the classes by eye."""
    rows: dict[str, int] = {}
    for label, name, parameter in labelled(model):
        row = f"{label:15s} {re.sub(r'[.][0-9]+(?=[.]|$)', '.*', name)} {tuple(parameter.shape)}"
        rows[row] = rows.get(row, 0) + 1
    return {"names": [f"{count:4d} {row}" for row, count in sorted(rows.items(), key=lambda item: item[0][:15])]}


def work(model_id: str, raw: dict[str, Any], names: bool, results: Any) -> None:
    """Child process: put counts or the reason why there are none."""
    try:
        model = built(model_id, raw)
        results.put(counts(model, raw) | (listed(model) if names else {}))
    except Exception as error:  # whatever transformers raises on a config it cannot build is the answer
        first = (str(error).strip().splitlines() or [""])[0]
        results.put({"reason": f"{type(error).__name__}: {first[:200]}"})


def counted(model_id: str, raw: dict[str, Any], names: bool) -> dict[str, Any]:
    """Counts of one model from a child process that is ended after TIME_LIMIT_S."""
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=work, args=(model_id, raw, names, results))
    child.start()
    try:
        return dict(results.get(timeout=TIME_LIMIT_S))
    except queue.Empty:
        child.terminate()
        return {"reason": f"not built within {TIME_LIMIT_S} s"}
    finally:
        child.join()


def configs(folder: Path) -> Iterable[tuple[str, dict[str, Any], str]]:
    """(model id, config, source) of every bundled config in the folder and of PUBLIC."""
    with (folder / "SOURCES.csv").open(encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if not row["file"].endswith("hf_quant_config.json")]
    rows = [row for row in rows if not row["note"].startswith("DO NOT BUNDLE")]
    for row in sorted(rows, key=lambda row: row["model_id"]):
        yield row["model_id"], json.loads((folder / row["file"]).read_text(encoding="utf-8")), row["source"]
    for model_id, config in sorted(PUBLIC.items()):
        yield model_id, config, "model card and paper"


def main() -> None:
    """Write the golden file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("configs", type=Path)
    parser.add_argument("--out", type=Path, default=Path("tests/golden/parameters.json"))
    parser.add_argument("--only", default="", help="models whose id contains this; prints instead of writing")
    parser.add_argument("--names", action="store_true", help="list every distinct parameter")
    options = parser.parse_args()
    import torch
    import transformers
    from transformers.models.auto import modeling_auto  # noqa: F401  (imported once, before the children fork)

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    models: dict[str, Any] = {}
    for model_id, config, source in configs(options.configs):
        if options.only not in model_id:
            continue
        models[model_id] = counted(model_id, config, options.names) | {"source": source}
        sys.stderr.write(f"{model_id} {models[model_id].get('total', models[model_id].get('reason'))}\n")
    if options.only:
        sys.stdout.write(json.dumps(models, indent=1) + "\n")
        return
    golden = {"transformers": transformers.__version__, "torch": torch.__version__, "models": models}
    options.out.write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
