"""Rows of serving_other.csv: vendor tables, offline maxima, static batches, open-loop rates, single streams."""

from __future__ import annotations

import re

from common import Cells, LeftOut, Row, known_format, known_gpu, known_model, number, short, tier, whole

ENGINES = (
    ("TensorRT-LLM", "tensorrt-llm"),
    ("NVIDIA NIM", "tensorrt-llm"),
    ("vLLM", "vllm"),
    ("vllm", "vllm"),
    ("SGLang", "sglang"),
    ("sglang", "sglang"),
    ("llama.cpp", "llama.cpp"),
)
NAMED_VERSIONS = {"post-1.0": "1.1", "vllm-openai:latest (2025-08..2025-11)": "0.11"}  # latest: 0.10.0 to 0.11.0
REFUSED = (  # (column, pattern, reason)
    ("engine", r"speculative decoding", "speculative decoding"),
    ("metric", r"MTP on", "speculative decoding"),
    ("version", r"MTP", "speculative decoding"),
    ("metric", r"known regression", "software-limited by a known fault"),
    ("metric", r"tokens/GPU|\(in\+out\)/|max_num_batched_tokens or in=", "lengths not stated"),
    ("engine", r"HPC-Ops|in-house", "engine not in the contract"),
    ("engine", r"not restated", "engine not stated"),
    ("source", r"Qwen3 docs", "absolutes contradict other rows of this GPU"),
    ("source", r"InferenceX issue #870 \(2026|InferenceX-app PR #454", "flagged by its authors"),
    ("quote", r"Hardware: (AMD )?MI300X.*(?:V3\.1|MiniMax-M2)|flagged anomalous", "cold start inside"),
    ("quote", r" 27b nvfp4 HT", "software-limited by a known fault"),
    ("quote", r"KV wall", "flagged by its authors"),
    ("source", r"GLM-4\.7-Flash\.md|Qwen3-Coder\.md|Kimi-Linear\.md", "ran on other kernels than the engine's own"),
    ("source", r"Qwen3-VL\.md|Qwen2\.5-VL\.md", "images not stated"),
    # 4 ms per 1,000 cached tokens of all sequences, 300 times what their bytes take
    ("source", r"Moonshotai/Kimi-K2\.5\.md", "software-limited by a known fault"),
)
STATED: tuple[tuple[str, str, Cells], ...] = (  # (source, engine format GPU, what it says of its runs and rows do not)
    (r"cloudrift-ai", "", {"shortest_fraction": 1}),
    (r"vllm_200prompts", "", {"run_requests": 200}),
    (r"Massed-Compute", "", {"waves": 1000, "note": "TTFT is a median, which the first wave is not in"}),
    (r"Massed-Compute", "vllm", {"shortest_fraction": 1}),
    (r"qwen3\.6-benchmarks", "", {"waves": 1000, "shortest_fraction": 1, "note": "medians, of two waves"}),
    (r"qwen3\.6-benchmarks", "bf16|fp8", {"gpu_memory_utilization": 0.8}),
    (r"Moonshotai/Kimi-K2\.md", "", {"attention_dp": 4, "waves": 10}),
    (r"Nemotron3-Super\.md", "", {"engine_version": "nightly-dev-20260310-0fd9a57d"}),
    (r"Google/Gemma4\.md", "", {"waves": 10}),
    (r"DeepSeek/DeepSeek-V3\.md", "", {"attention_dp": 8, "note": "may draft"}),
    (r"DeepSeek/DeepSeek-V3_2\.md", "", {"attention_dp": 8}),
    # the options beside the tables of 1.1 give gpt-oss an FP8 cache on Blackwell, `auto` on Hopper
    (r"developer-guide/perf-overview\.md", "tensorrt-llm mxfp4 g?b200", {"kv_format": "fp8"}),
)
# Waves by concurrency: the commands beside the tables of SGLang's cookbook, of random lengths and of ShareGPT.
COOKBOOK_WAVES = {1: 10, 16: 5, 64: 5, 100: 5, 256: 16}
STARTED = ("measured_ttft_ms", "measured_e2e_ms", "measured_output_tokens_per_s")
COOKBOOK_SHAREGPT_WAVES = {1: 100, 100: 10}
COLD_TTFT_MS = 1000  # a mean of ten lone prompts of 610 tokens, on MI300X: the first of them compiled kernels
SHAREGPT_INPUT = 400  # tokens: no mean of ShareGPT is longer, none of random lengths to 1,000 shorter
# Requests of a run in the tables of trtllm-bench (docs/source/performance/perf-overview.md of NVIDIA/TensorRT-LLM).
OFFLINE_REQUESTS = {
    (128, 128): 30000,
    (128, 2048): 3000,
    (128, 4096): 1500,
    (500, 2000): 3000,
    (1000, 1000): 3000,
    (1000, 2000): 1500,
    (2048, 128): 3000,
    (2048, 2048): 1500,
    (5000, 500): 1500,
    (20000, 2000): 1000,
    (1024, 8192): 1500,
    (8192, 1024): 1500,
    (1024, 32768): 1000,
    (32768, 1024): 1000,
}
DEFAULT_REQUESTS = 3000
SHAREGPT_REQUESTS = 200
STATIC = {"protocol": "static", "waves": 1, "shortest_fraction": 1}
STEADY = 4  # arrivals must last this many times a request, or the rate is never lived through
HUB_IN_BRACKETS = re.compile(r".*\[([^\]@ ]+)")


def convert(row: Row) -> Cells:
    """One committed row."""
    for column, pattern, reason in REFUSED:
        if re.search(pattern, row[column]):
            raise LeftOut(reason)
    if "MI300X" in row["gpu"] and re.search(r"V3\.1|MiniMax-M2$", row["model"]):
        raise LeftOut("cold start inside")
    engine = next((name for start, name in ENGINES if row["engine"].startswith(start)), None)
    if engine is None:
        raise LeftOut("engine not in the contract")
    bracketed = HUB_IN_BRACKETS.match(row["model"])
    model, stated = known_model(bracketed[1] if bracketed else row["model"])
    cells: Cells = {
        "model": model,
        "weight_format": _format(row, engine, stated, bool(bracketed)),
        "kv_format": {"FP8": "fp8", "fp8": "fp8", "BF16": "bf16"}.get(row["kv_dtype"]),
        "engine": engine,
        "engine_version": _version(row, engine),
        "gpu": known_gpu(row["gpu"], row["source"]),
        "enforce_eager": True if "enforce-eager" in row["version"] else None,
        "input_tokens": whole(row["isl"]),
        "output_tokens": whole(row["osl"]),
        "concurrency": whole(row["concurrency"]),
        "tier": tier(row["source"]),
        "source": short(row["source"]),
    }
    cells |= _layout(row, engine)
    kind = next((kind for pattern, kind in KINDS if re.search(pattern, row["metric"])), None)
    if kind is None:
        raise LeftOut("metric of another kind")
    cells |= kind(row, cells) | _stated(row, cells)
    if cells["input_tokens"] is None or cells["output_tokens"] is None:
        raise LeftOut("lengths not stated")
    return _without_start(row, cells)


def _without_start(row: Row, cells: Cells) -> Cells:
    """Without the figures that a cold start is in."""
    lone = "sgl-cookbook" in row["source"] and cells["concurrency"] == 1
    if not lone or (cells.get("measured_ttft_ms") or 0) < COLD_TTFT_MS:
        return cells
    kept = {name: value for name, value in cells.items() if name not in STARTED}
    return kept | {"note": "cold start in TTFT and tokens/s"}


def _stated(row: Row, cells: Cells) -> Cells:
    """What the source says of all its runs."""
    found: Cells = {}
    if "sgl-cookbook" in row["source"]:
        random = cells["input_tokens"] > SHAREGPT_INPUT
        waves = (COOKBOOK_WAVES if random else COOKBOOK_SHAREGPT_WAVES)[cells["concurrency"]]
        found = {"protocol": "closed", "waves": waves} | ({"shortest_fraction": 0.01} if random else {})
    for source, which, facts in STATED:
        if re.search(source, row["source"]) and re.search(
            which, f"{cells['engine']} {cells['weight_format']} {cells['gpu']}"
        ):
            found |= facts
    return found


def _format(row: Row, engine: str, stated: str | None, by_name: bool) -> str | None:
    if engine == "llama.cpp":
        label = row["format"] or ("Q4_0" if "gemma-3-4b-it-qat" in row["model"] else "Q8_0")
        return known_format(label, True)
    return stated if stated or by_name else known_format(row["format"], False)


def _version(row: Row, engine: str) -> str | None:
    found = re.match(r"v?(\d+\.[\w.]+)", row["version"])
    if row["engine"] == "NVIDIA NIM":
        return None
    named = next((version for start, version in NAMED_VERSIONS.items() if row["version"].startswith(start)), None)
    return found[1] if found else named


def _layout(row: Row, engine: str) -> Cells:
    """Parallel sizes. Tables that give GPUs alone mean one tensor-parallel group."""
    count = whole(row["n_gpu"])
    tp, pp = whole(row["tp"]), whole(row["pp"]) or 1
    if count is None and tp is None:
        raise LeftOut("GPU count not stated")
    replicas = re.search(r"\((\d+) replicas?\)", row["metric"])
    dp = int(replicas[1]) if replicas else 1
    if tp is None:
        tp = (count or 1) // (pp * dp)
    together = {"tp": tp, "pp": pp if pp > 1 else None, "dp": dp if dp > 1 else None}
    if count is not None and count != tp * pp * dp:
        dp = count // (tp * pp)
        if tp * pp * dp != count:
            raise LeftOut("GPU count contradicts the parallel sizes")
        together["dp"] = dp
    return together | _experts(row, tp)


def _experts(row: Row, tp: int) -> Cells:
    """DEPn: attention and experts both divided over the group by request and by expert; TEPn: experts only."""
    if re.search(r"DEP\d", row["quote"]):
        return {"ep": tp, "attention_dp": tp}
    moe_table = re.search(r"Qwen3-30B|Llama 4", row["model"]) and row["version"] == "1.0"
    if moe_table:  # the tables' options for mixtures of experts switch attention data parallelism on
        return {"ep": tp, "attention_dp": tp}
    ep = row["ep"].strip()
    if ep == "enabled":
        return {"ep": tp}
    size = re.match(r"\d+", ep)
    return {"ep": min(int(float(size[0])), tp) if size else None, "attention_dp": None}


def _per_deployment(row: Row, cells: Cells) -> float:
    value = float(row["value"])
    if row["unit"].startswith("tok/s/GPU"):
        value *= cells["tp"] * (cells.get("pp") or 1) * (cells.get("dp") or 1)
    if "in+out" in row["metric"]:
        value *= float(row["osl"]) / (float(row["isl"]) + float(row["osl"]))
    return value


def _throughput(row: Row, cells: Cells) -> Cells:
    """Closed loop, open loop or everything at once, by what the row gives."""
    rate = number(row["request_rate"])
    found: Cells = {
        "measured_output_tokens_per_s": _per_deployment(row, cells),
        "measured_ttft_ms": number(row["ttft_ms"]),
        "measured_tpot_ms": number(row["tpot_ms"]),
    }
    if "static batch" in row["engine"]:
        return found | STATIC
    if row["engine"].startswith("TensorRT-LLM"):
        requests = OFFLINE_REQUESTS.get((cells["input_tokens"], cells["output_tokens"]), DEFAULT_REQUESTS)
        return found | {"concurrency": requests, "protocol": "offline", "waves": 1}
    if cells["concurrency"] is not None:
        served = re.search(r"successful (\d+)", row["quote"])
        waves = int(served[1]) / cells["concurrency"] if served else None
        return found | {"protocol": "closed" if waves else "unstated", "waves": waves}
    if rate is None or rate == float("inf"):
        return _at_once(row, found)
    return _at_rate(row, rate, found)


def _at_once(row: Row, found: Cells) -> Cells:
    prompts = re.search(r"num_prompts (\d+)", row["quote"])
    if not prompts:
        raise LeftOut("number of requests not stated")
    return found | {"concurrency": int(prompts[1]), "protocol": "offline", "waves": 1}


def _at_rate(row: Row, rate: float, found: Cells) -> Cells:
    """Poisson arrivals; a run whose arrivals end before the load is steady measures something else."""
    if "ShareGPT 200" not in row["metric"]:
        raise LeftOut("number of requests not stated")
    request_s = (float(row["ttft_ms"]) + float(row["osl"]) * float(row["tpot_ms"])) / 1e3
    if SHAREGPT_REQUESTS / rate < STEADY * request_s:
        raise LeftOut("arrivals end before the load is steady")
    cold = float(row["ttft_ms"]) > float(row["tpot_ms"]) * 20
    found |= {"request_rate_per_s": rate, "protocol": "rate"}
    return found | ({"measured_ttft_ms": None, "note": "TTFT holds a start-up artefact"} if cold else {})


def _single(row: Row, cells: Cells) -> Cells:
    """Decode rate or TPOT of one stream; TTFT of repeated prompts comes from a prefix cache and is not used."""
    rate = float(row["value"]) if row["unit"] == "tok/s" else 1e3 / float(row["value"])
    found = {"measured_output_tokens_per_s_per_request": rate, "protocol": "single"}
    return found | {"concurrency": cells["concurrency"] or 1}


def _batched(row: Row, cells: Cells) -> Cells:
    """Decode of a batch whose prompts stand in the cache: the prompts are asked as cached."""
    tpot = 1e3 * cells["concurrency"] / float(row["value"])
    return {"cached_input_fraction": 1.0, "measured_tpot_ms": tpot, **STATIC}


def _tpot(row: Row, cells: Cells) -> Cells:
    if cells["input_tokens"] is None:
        raise LeftOut("lengths not stated")
    return {"measured_tpot_ms": float(row["value"]), "protocol": "single" if cells["concurrency"] == 1 else "unstated"}


def _first_token(row: Row, cells: Cells) -> Cells:
    tokens = cells["input_tokens"]
    return {
        "output_tokens": 1,
        "measured_prefill_tokens_per_s": tokens * cells["concurrency"] / float(row["value"]) * 1e3,
        "protocol": "single",
    }


def _whole_batch(row: Row, cells: Cells) -> Cells:
    return {"measured_e2e_ms": float(row["value"]) * 1e3, **STATIC}


def _intercept(row: Row, cells: Cells) -> Cells:
    return {
        "input_tokens": 0,
        "output_tokens": 128,
        "measured_tpot_ms": float(row["value"]),
        "protocol": "single",
        "note": "a fit's intercept at zero context",
    }


KINDS = (
    (r"^decode_throughput_batched", _batched),
    (r"^decode_throughput_single", _single),
    (r"^tpot", _tpot),
    (r"^first_token_latency", _first_token),
    (r"^e2e_latency_static_batch", _whole_batch),
    (r"^ITL fit intercept", _intercept),
    (r"^output_throughput_per_gpu|^output_throughput_total|^throughput|^total_throughput_per_gpu", _throughput),
)
