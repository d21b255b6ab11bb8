"""Rows of single_stream.csv: one sequence, decode (tgN) and prefill (ppN) rates."""

from __future__ import annotations

import re

from common import NAMES, Cells, LeftOut, Row, known_format, known_gpu, known_model, number, short, tier, whole

ENGINES = {
    "llama.cpp": "llama.cpp",
    "Llama.cpp": "llama.cpp",
    "llama.cpp llama-bench": "llama.cpp",
    "llama.cpp (IPEX-LLM SYCL)": "llama.cpp",
    "llama.cpp or Ollama (see issue)": "llama.cpp",
    "vLLM": "vllm",
    "SGLang": "sglang",
    "HF transformers FP16 baseline": "transformers",
}
UNSTATED_LENGTH = 128  # output tokens where the source gives no length; a decode rate hardly depends on it
REFUSED = (  # (column, pattern, reason)
    ("gpu", r"330W", "power-capped"),
    ("source", r"Qwen3 docs", "absolutes contradict other rows of this GPU"),
    ("test", r"single request|pre\d+ dec\d+|prefill bs|5-token|speed table", "rate of another kind"),
    ("engine", r"imp |AutoAWQ|gpt-fast|[Ee]xllama|MLC|TinyChat", "engine not in the contract"),
    ("model", r"MTP", "may draft tokens"),
    ("model", r"F16-named|gpt-oss-\d+b-F16", "format is an own mix"),
    ("format", r"engine native", "format not in the contract or not identified"),
)
BROKEN = (("A100 SXM 80GB", "F16"), ("L40S 48GB", "F16"))  # prompts of an 8B at a tenth of the sister card's rate


def convert(row: Row) -> Cells:
    """One committed row; a rate at depth D is asked with D tokens of context in place."""
    for column, pattern, reason in REFUSED:
        if re.search(pattern, row[column]):
            raise LeftOut(reason)
    if (row["gpu"], row["format"]) in BROKEN and row["test"].startswith("pp") and "8B" in row["model"]:
        raise LeftOut("broken run")
    engine = ENGINES.get(row["engine"])
    if engine is None:
        raise LeftOut("engine not in the contract")
    model, stated = known_model(row["hf_id"] or row["model"]) if not row["format"] else _plain(row)
    found = known_format(row["format"], engine == "llama.cpp") or NAMES["ollama"].get(row["model"]) or stated
    if engine == "llama.cpp" and not (found or "").startswith("gguf"):
        raise LeftOut("format not in the contract or not identified")
    count = whole(row["n_gpu"]) or 1
    cells: Cells = {
        "model": model,
        "weight_format": found,
        "engine": engine,
        "engine_version": _version(row),
        "backend": _backend(row),
        "gpu": known_gpu(row["gpu"], row["source"]),
        "n_gpus": count if count > 1 else None,
        "n_ubatch": _micro_batch(row["quote"]),
        "tp": count if engine == "vllm" else None,
        "flash_attention": bool(float(row["flash_attn"])) if row["flash_attn"] else None,
        "concurrency": 1,
        "protocol": "single",
        "tier": tier(row["source"]),
        "source": short(row["source"]),
        "note": _note(row),
    }
    return cells | {
        name: cell for name, cell in _asked(row["test"], float(row["tokens_per_s"])).items() if cell is not None
    }


def _plain(row: Row) -> tuple[str, str | None]:
    """The model by the name that is known, the label or the hub id."""
    try:
        return known_model(row["model"])
    except LeftOut:
        return known_model(re.sub(r"-GGUF$", "", row["hf_id"]) or row["model"])


def _version(row: Row) -> str | None:
    """The build that a row states, else one of its source's month."""
    if re.match(r"[b0-9]", row["version"]):
        return row["version"].split()[0].strip("()")
    return next((build for part, build in NAMES["builds"].items() if re.search(rf"{part}\b", row["source"])), None)


def _micro_batch(quote: str) -> int | None:
    """The n_ubatch column of a llama-bench table, which stands between layers (or threads) and flash attention."""
    found = re.match(
        r"\|[^|]+GiB \|[^|]+ B \| *[A-Z,]+ *\| *\d+ *\| *(\d{2,5}) *\| *[01] *\|", re.sub(r"^\|[^|]+", "", quote)
    )
    return int(found[1]) if found else None


def _backend(row: Row) -> str | None:
    """What llama.cpp was built for, where a row or its source says it."""
    found = re.search(r"rocm|rocwmma|vulkan|sycl", f"{row['gpu']} {row['engine']} {row['source']}", re.IGNORECASE)
    if found:
        return found[0].lower().replace("rocwmma", "rocm")
    return next((backend for part, backend in NAMES["backends"].items() if part in row["source"]), None)


def _note(row: Row) -> str | None:
    """The back-end, and what the planner only knows about."""
    backend = re.search(r"ROCm.*|Vulkan.*|rocwmma|vulkan_radv", row["gpu"])
    dynamic = "dynamic mix" if re.match(r"UD-|.*_XL$", row["format"]) else ""
    return ", ".join(part for part in (backend and backend[0], dynamic) if part) or None


def _asked(test: str, rate: float) -> Cells:
    """Lengths and the measured rate from a test's name: pp512, tg128@d4096, pp512 microbatch=8."""
    found = re.match(r"(pp|tg)(\d*)(?:@d(\d+))?", test)
    long = re.match(r"decode @(\d+) prompt, (\d+) out", test)
    if long:
        return _decode(int(long[1]), int(long[2]), rate)
    if not found:
        fixed = re.match(r"decode (\d+) tok bs1", test)
        return _decode(0, int(fixed[1]) if fixed else UNSTATED_LENGTH, rate)
    depth = int(found[3] or 0)
    if found[1] == "tg":
        return _decode(depth, int(found[2] or 0) or UNSTATED_LENGTH, rate)
    tokens = int(found[2])
    batch = re.search(r"microbatch=(\d+)", test)
    return {
        "input_tokens": tokens + depth,
        "output_tokens": 1,
        "cached_input_fraction": number(str(depth / (tokens + depth))) if depth else None,
        "n_ubatch": int(batch[1]) if batch else None,
        "measured_prefill_tokens_per_s": rate,
    }


def _decode(context: int, tokens: int, rate: float) -> Cells:
    return {"input_tokens": context, "output_tokens": tokens, "measured_output_tokens_per_s_per_request": rate}
