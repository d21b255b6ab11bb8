"""Count parameters with transformers' own model classes: the golden file that the planner is checked against.

    python tests/oracle/make_models.py CONFIGS --effective FOLDER
    python tests/oracle/make_parameters.py FOLDER [--out tests/golden/parameters.json] [--only NAME] [--names]

FOLDER holds the config of every bundled model, and a SOURCES.csv. Each model is built on torch's meta
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

# Types under which a publisher ships a class that transformers knows under another name.
ALIASES = {
    "phi-msft": "phi",
    "kimi_k2": "deepseek_v3",
    "minimax_m3": "minimax_m3_vl_text",
    "mimo": "qwen2",
    "mimo_v2": "mimo_v2_flash",
}
# The text model's type where transformers has a class for text and images only, and a config states text alone.
TEXT_TYPES = {"step3p7": "step3p5"}
PHI_FIELDS = {
    "n_embd": "hidden_size",
    "n_head": "num_attention_heads",
    "n_layer": "num_hidden_layers",
    "n_positions": "max_position_embeddings",
}

# First match wins; matched against the dotted name of a parameter without its layer numbers.
CLASSES = (
    ("audio", r"audio"),
    ("vision", r"vision|visual|image|multi_modal_projector|mm_projector|patch_embed"),
    ("position", r"position_embeddings|token_type_embeddings|wpe"),
    ("norm", r"norm(s?)\d?[._]|norm$|layernorm|LayerNorm|norm_f|\.ln_\w+\."),
    ("small", r"conv1d|conv\.conv|A_log|dt_bias|sinks|position_bias|kpool_compress_ape|softmax_scaling"),
    ("bias", r"(^|[._])bias$"),
    ("pooler", r"pooler|^classifier|^score"),
    ("lm_head", r"^(model\.|language_model\.)?(lm_head|embed_out)\."),
    ("hyper", r"_hc\.|\.hc_|hyper_connection|altup|laurel|per_layer_(input|projection|model)"),
    ("per_layer_embedding", r"embed_tokens_per_layer|ngram_embedding"),
    ("embedding", r"embed_tokens|word_embeddings|tok_embeddings|embed_in|wte|^model\.embeddings\.weight"),
    ("shared_gate", r"shared_expert_gate"),
    ("shared_expert", r"shared_expert|shared_mlp"),
    ("latent", r"latent_proj"),
    ("router", r"router|(mlp|mixer|feed_forward|moe)\.gate\.(wg\.)?weight$"),
    ("expert", r"experts"),
    ("ssm", r"linear_attn|mamba|(mixer|conv)\.(in_proj|out_proj)"),
    ("attention", r"attn|attention|mixer\.[qkvo]_proj"),
    ("mlp", r"mlp|feed_forward|ffn|(intermediate|output)\.dense|mixer\.(up|down)_proj"),
)
VECTORS = {"norm", "bias", "vision", "audio"}  # classes that keep their one-dimensional parameters
CORRECTION = re.compile(r"e_score_correction_bias|expert_bias")  # of routers: buffers but in Laguna and Trinity
RECURRENT = re.compile(
    "Delta|Lightning|Glm5NextTextLinear"
)  # module classes of linear attention that are called self_attn


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
        if CORRECTION.search(name):
            continue
        yield tensor_class(name, parameter.dim(), name.startswith(linear) if linear else False), name, parameter


def prepared(raw: dict[str, Any]) -> dict[str, Any]:
    """The config as transformers wants it: without what only loading needs, under the types and names it knows."""
    config = {key: value for key, value in raw.items() if not key.startswith("_")}
    for key in ("quantization_config", "auto_map", "transformers_version"):
        config.pop(key, None)
    if config["model_type"] == "phi-msft":
        config = {PHI_FIELDS.get(key, key): value for key, value in config.items()}
        config["intermediate_size"] = 4 * config["hidden_size"]
    if config["model_type"] == "ministral3" and "vision_config" in config:
        config["model_type"] = "mistral3"
    config["model_type"] = ALIASES.get(config["model_type"], config["model_type"])
    if config["model_type"] in TEXT_TYPES and "text_config" not in config:
        inner = {**config, "model_type": TEXT_TYPES[config["model_type"]]}
        config = {"model_type": config["model_type"], "text_config": inner, "tie_word_embeddings": False}
    text = config.get("text_config")
    if isinstance(text, dict):
        config["text_config"] = prepared({"model_type": config["model_type"], **text})
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


def built(raw: dict[str, Any]) -> Any:
    """The model on the meta device."""
    import torch
    from transformers import AutoConfig

    values = prepared(raw)
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
    if "expert" not in classes and "shared_expert" in classes:  # Granite 4 calls its dense MLP shared
        classes["mlp"] = classes.pop("shared_expert")
    return {"total": sum(classes.values()), "classes": dict(sorted(classes.items())), "class": type(model).__name__}


def listed(model: Any) -> dict[str, Any]:
    """Every distinct parameter name with its class, shape and number: to check the classes by eye."""
    rows: dict[str, int] = {}
    for label, name, parameter in labelled(model):
        row = f"{label:15s} {re.sub(r'[.][0-9]+(?=[.]|$)', '.*', name)} {tuple(parameter.shape)}"
        rows[row] = rows.get(row, 0) + 1
    return {"names": [f"{count:4d} {row}" for row, count in sorted(rows.items(), key=lambda item: item[0][:15])]}


def work(raw: dict[str, Any], names: bool, results: Any) -> None:
    """Child process: put counts or the reason why there are none."""
    try:
        model = built(raw)
        results.put(counts(model, raw) | (listed(model) if names else {}))
    except Exception as error:  # whatever transformers raises on a config it cannot build is the answer
        first = (str(error).strip().splitlines() or [""])[0]
        results.put({"reason": f"{type(error).__name__}: {first[:200]}"})


def counted(raw: dict[str, Any], names: bool) -> dict[str, Any]:
    """Counts of one model from a child process that is ended after TIME_LIMIT_S."""
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=work, args=(raw, names, results))
    child.start()
    try:
        return dict(results.get(timeout=TIME_LIMIT_S))
    except queue.Empty:
        child.terminate()
        return {"reason": f"not built within {TIME_LIMIT_S} s"}
    finally:
        child.join()


def configs(folder: Path) -> Iterable[tuple[str, dict[str, Any], str]]:
    """(model id, config, source) of every config in the folder."""
    with (folder / "SOURCES.csv").open(encoding="utf-8") as stream:
        rows = sorted(csv.DictReader(stream), key=lambda row: row["model_id"])
    for row in rows:
        yield row["model_id"], json.loads((folder / row["file"]).read_text(encoding="utf-8")), row["source"]


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
        models[model_id] = counted(config, options.names) | {"source": source}
        sys.stderr.write(f"{model_id} {models[model_id].get('total', models[model_id].get('reason'))}\n")
    if options.only:
        sys.stdout.write(json.dumps(models, indent=1) + "\n")
        return
    golden = {"transformers": transformers.__version__, "torch": torch.__version__, "models": models}
    options.out.write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
