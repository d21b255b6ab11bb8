"""The start line of a deployment, quoted for a POSIX shell: what `planner estimate --from-command` reads back."""

from __future__ import annotations

import math
import shlex

from planner.catalog import engines, formats, gpus, models
from planner.catalog.commands import ALL_LAYERS
from planner.errors import PlannerError
from planner.estimate.columns import EstimateRow
from planner.estimate.defaults import default_kv_format
from planner.formats.packing import padded

Flags = list[tuple[str, object]]

ON_LOAD = {"fp8": "fp8", "bnb-nf4": "bitsandbytes", "bnb-int8": "bitsandbytes"}  # what vLLM quantizes while it loads
PLAIN = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
LLAMA_TYPES = {"fp16": "f16", "fp32": "f32"}
OPTIONS_FILE = "options.yaml"  # of TensorRT-LLM: what has no flag
SIXTEEN_BIT = ("bf16", "fp16")
UPLOADED = "upload:"  # how the name of a model begins whose files only its owner has
MULTIPLE = 256  # to which a stated length is rounded up


def launch_command(row: EstimateRow) -> str:
    """The line that starts the engine of a row of `Estimate.rows()`; blank for engines without a server.

    Replicas are started one by one; the line says so above.
    """
    lines = {"vllm": _vllm, "sglang": _sglang, "tensorrt-llm": _tensorrt, "llama.cpp": _llama_cpp, "mlx": _mlx}
    if row["engine"] not in lines:
        return ""
    program, flags = lines[row["engine"]](row)
    words = [*program, *(word for name, value in flags if value is not None for word in _words(name, value))]
    command = _wrapped([shlex.quote(word) for word in words], len(program))
    replicas = (row["dp"] or 1) * (row["copies_per_gpu"] or 1)
    each = (row["tp"] or 1) * (row["pp"] or 1)
    where = (
        f"each on {each} GPU{'s' if each > 1 else ''} of its own"
        if (row["copies_per_gpu"] or 1) == 1
        else "sharing GPUs"
    )
    if row["engine"] == "tensorrt-llm":
        command = "\n".join([f"# {OPTIONS_FILE} holds:", *(f"#   {line}" for line in _options(row)), command])
    return (f"# {replicas} of these, {where}, behind a load balancer\n" if replicas > 1 else "") + command


def checkpoint(row: EstimateRow) -> str:
    """The repository to download; blank where the row says how to make it instead."""
    name = str(row["checkpoint"] or "")
    return "" if " " in name else name


def _words(name: str, value: object) -> list[str]:
    return [name] if value is True else [name, f"{value:g}" if isinstance(value, float) else str(value)]


def _wrapped(words: list[str], head: int) -> str:
    """One flag for each line, so that a long command can be read."""
    lines = [" ".join(words[:head])]
    for word in words[head:]:
        if word.startswith("-"):
            lines.append(f"  {word}")
        else:
            lines[-1] += f" {word}"
    return " \\\n".join(lines)


def _fraction(row: EstimateRow) -> float | None:
    """The engine's memory fraction; instances that share a GPU get equal parts of it, so that all of them start."""
    whole: float | None = row["gpu_memory_utilization"]
    copies = row["copies_per_gpu"] or 1
    return whole if whole is None or copies == 1 else math.floor(whole / copies * 1000) / 1000


def _more(value: int | None, least: int = 1) -> int | None:
    """A count where it is more than its default."""
    return value if value and value > least else None


def _length(row: EstimateRow) -> int | None:
    """The longest sequence, where the scenario states one or the checkpoint's own does not fit the pool."""
    if row["max_model_len"]:
        return int(row["max_model_len"])
    at_most = row["max_concurrency_at_max_model_len"]
    longest = max(row["input_tokens_p95"] or 0, row["input_tokens"]) + max(
        row["output_tokens_p95"] or 0, row["output_tokens"]
    )
    return padded(longest, MULTIPLE) if at_most is not None and at_most < 1 else None


def _kv(row: EstimateRow, names: dict[str, str]) -> str | None:
    """The cache's type, where it is not what the engine takes for this checkpoint."""
    return names.get(row["kv_format"]) if row["kv_format"] not in SIXTEEN_BIT or _asks_less(row) else None


def _asks_less(row: EstimateRow) -> bool:
    """Whether the checkpoint asks for a cache below 16 bit."""
    try:
        model, gpu = models.model(checkpoint(row) or row["model"]), gpus.gpu(row["gpu"])
        engine = engines.engine(row["engine"], row["engine_version"])
        default = default_kv_format(model, formats.weight_format(row["weight_format"]), engine, gpu)
    except PlannerError:  # an upload
        return False
    return default not in SIXTEEN_BIT


def _text_alone(row: EstimateRow) -> bool:
    """Whether the engine is to leave out an image encoder that the model has."""
    if row["images_per_request"] != 0:
        return False
    try:
        sees = models.model(checkpoint(row) or row["model"]).vision is not None
        return sees and engines.engine(row["engine"], row["engine_version"]).weights.optional_encoder
    except PlannerError:  # an upload
        return False


def _dtype(row: EstimateRow) -> str | None:
    """The 16-bit type, where the checkpoint has another."""
    return PLAIN.get(row["weight_format"]) if not checkpoint(row) else None


def _repository(row: EstimateRow) -> str:
    """What stands in a start line: the checkpoint, else the base model that the engine quantizes, else a folder."""
    stands_for_itself = row["weight_format"] in PLAIN or (row["engine"] == "vllm" and row["weight_format"] in ON_LOAD)
    base = _base(row)
    if str(row["model"]).startswith(UPLOADED):
        return f"/path/to/{base}"
    return checkpoint(row) or (base if stands_for_itself else f"./{base.rsplit('/', 1)[-1]}-{row['weight_format']}")


def _base(row: EstimateRow) -> str:
    """The id behind the model's name; an uploaded one stands for itself."""
    name = str(row["model"]).removeprefix(UPLOADED)
    try:
        found = models.resolve(name)
        base = found.model.id if found.weight_format else found.checkpoint
        return base if row["model"] == name else name
    except PlannerError:
        return name


def _vllm(row: EstimateRow) -> tuple[list[str], Flags]:
    ranks = row["attention_dp"] or 1
    on_load = ON_LOAD.get(row["weight_format"]) if not checkpoint(row) else None
    flags: Flags = [
        ("--tensor-parallel-size", _more((row["tp"] or 1) // ranks)),
        ("--data-parallel-size", _more(ranks)),
        ("--pipeline-parallel-size", _more(row["pp"])),
        ("--enable-expert-parallel", True if (row["ep"] or 1) > 1 else None),
        ("--quantization", on_load),
        ("--dtype", _dtype(row)),
        ("--kv-cache-dtype", _kv(row, {"fp8": "fp8", "int8": "int8", "nvfp4": "nvfp4", "bf16": "bfloat16"})),
        ("--gpu-memory-utilization", _fraction(row)),
        ("--max-model-len", _length(row)),
        ("--max-num-seqs", row["max_num_seqs"]),
        ("--max-num-batched-tokens", row["max_num_batched_tokens"]),
        ("--block-size", row["block_size"] if row["block_size"] != 16 else None),
        ("--enforce-eager", True if row["enforce_eager"] else None),
        ("--no-enable-prefix-caching", True if row["prefix_caching"] is False else None),
        ("--cpu-offload-gb", row["cpu_offload_gib"] or None),
        ("--language-model-only", True if _text_alone(row) else None),
        ("--enable-lora", True if row["max_loras"] else None),
        ("--max-loras", row["max_loras"] or None),
        ("--max-lora-rank", row["lora_rank"] if row["max_loras"] else None),
    ]
    return ["vllm", "serve", _repository(row)], flags


def _sglang(row: EstimateRow) -> tuple[list[str], Flags]:
    flags: Flags = [
        ("--tp", _more(row["tp"])),
        ("--dp", _more(row["attention_dp"])),
        ("--enable-dp-attention", True if (row["attention_dp"] or 1) > 1 else None),
        ("--pp-size", _more(row["pp"])),
        ("--ep", _more(row["ep"])),
        ("--dtype", _dtype(row)),
        ("--kv-cache-dtype", _kv(row, {"fp8": "fp8_e4m3", "bf16": "bf16"})),
        ("--mem-fraction-static", _fraction(row)),
        ("--context-length", _length(row)),
        ("--max-running-requests", row["max_num_seqs"]),
        ("--chunked-prefill-size", row["max_num_batched_tokens"]),
        ("--disable-cuda-graph", True if row["enforce_eager"] else None),
        ("--disable-radix-cache", True if row["prefix_caching"] is False else None),
        ("--cpu-offload-gb", row["cpu_offload_gib"] or None),
        ("--max-loras-per-batch", row["max_loras"] or None),
        ("--max-lora-rank", row["lora_rank"] if row["max_loras"] else None),
    ]
    return ["python", "-m", "sglang.launch_server", "--model-path", _repository(row)], flags


def _options(row: EstimateRow) -> list[str]:
    """Lines of TensorRT-LLM's options file: what an estimate takes for granted and no flag sets."""
    graphs = f"{{enable_padding: true, max_batch_size: {row['max_num_seqs']}}}"
    found = [f"cuda_graph_config: {'null' if row['enforce_eager'] else graphs}"]
    sent_at_once = engines.engine(row["engine"], row["engine_version"]).front_end.stream_interval
    if sent_at_once > 1:
        found.append(f"stream_interval: {sent_at_once}")
    if (row["attention_dp"] or 1) > 1:
        found += ["enable_attention_dp: true", "attention_dp_config: {enable_balance: true}"]
    return found


def _tensorrt(row: EstimateRow) -> tuple[list[str], Flags]:
    flags: Flags = [
        ("--tp_size", _more(row["tp"])),
        ("--pp_size", _more(row["pp"])),
        ("--ep_size", _more(row["ep"])),
        ("--extra_llm_api_options", OPTIONS_FILE),
        ("--kv_cache_dtype", _kv(row, {"fp8": "fp8", "nvfp4": "nvfp4"})),
        ("--kv_cache_free_gpu_memory_fraction", _fraction(row)),
        ("--max_seq_len", _length(row)),
        ("--max_batch_size", row["max_num_seqs"]),
        ("--max_num_tokens", row["max_num_batched_tokens"]),
    ]
    return ["trtllm-serve", _repository(row)], flags


def _llama_cpp(row: EstimateRow) -> tuple[list[str], Flags]:
    """Every slot has its share of the context, so the context is that of all slots together."""
    slots = row["parallel_slots"] or row["max_num_seqs"] or 1
    longest = row["max_model_len"] or row["input_tokens"] + row["output_tokens"]
    k, _, v = str(row["kv_format"]).partition("/")
    base = _base(row).rsplit("/", 1)[-1]
    each = (row["tp"] or 1) * (row["pp"] or 1)
    kind = str(row["weight_format"]).removeprefix("gguf-").upper()
    flags: Flags = [
        ("--ctx-size", slots * padded(longest, MULTIPLE)),
        ("--parallel", slots),
        ("--device", ",".join(f"Vulkan{i}" for i in range(each)) if row["backend"] == "vulkan" else None),
        ("--n-gpu-layers", ALL_LAYERS if row["n_gpu_layers"] is None else row["n_gpu_layers"]),
        ("--n-cpu-moe", row["n_cpu_moe"] or None),
        ("--flash-attn", "off" if row["flash_attention"] is False else "on"),
        ("--cache-type-k", LLAMA_TYPES.get(k, k) if k not in ("fp16", "bf16") else None),
        ("--cache-type-v", LLAMA_TYPES.get(v or k, v or k) if (v or k) not in ("fp16", "bf16") else None),
        ("--ubatch-size", row["n_ubatch"]),
        ("--split-mode", "row" if (row["tp"] or 1) > 1 else None),
        ("--tensor-split", row["tensor_split"] or (",".join("1" * each) if each > 1 else None)),
    ]
    return ["llama-server", "--model", f"{base}-{kind}.gguf"], flags


def _mlx(row: EstimateRow) -> tuple[list[str], Flags]:
    return ["mlx_lm.server", "--model", _repository(row)], []
