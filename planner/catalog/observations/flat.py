"""Results that are one flat object: `vllm bench`, SGLang's bench_serving and bench_one_batch, InferenceX."""

from __future__ import annotations

import re
from typing import Any

from planner.catalog.observations.reading import (
    Document,
    Reading,
    figures,
    load,
    number,
    positive,
    section,
    stated,
    version,
    whole,
)
from planner.specs.observation import Tool
from planner.units import MS_PER_S

ENGINES = {
    "vllm": "vllm",
    "sglang": "sglang",
    "tensorrt-llm": "tensorrt-llm",
    "trt": "tensorrt-llm",
    "trtllm": "tensorrt-llm",
}
PRECISIONS = {"fp8": "fp8", "fp4": "nvfp4", "bf16": "bf16", "int4": "int4-g32"}  # of InferenceX
FAILED_SHARE = 0.05  # of requests, beyond which means say little


def from_flat(document: Document, where: str) -> Reading | None:
    """The reading of a flat object; None when it is none of these."""
    keys = set(document)
    if {"tput_per_gpu", "conc", "isl", "osl"} <= keys:
        return _inferencex(document, where)
    if {"batch_size", "input_len", "output_len"} <= keys:
        return _sglang_batch(document, where)
    if {"completed", "duration", "output_throughput"} <= keys:
        sglang = "mean_e2e_latency_ms" in keys or "sharegpt_output_len" in keys
        return _serve(document, where, Tool.SGLANG_SERVE if sglang else Tool.VLLM_SERVE)
    if {"avg_latency", "latencies"} <= keys:
        return Reading(Tool.VLLM_LATENCY, where, {"engine": "vllm", "waves": 1.0}, _latency(document))
    if {"elapsed_time", "num_requests", "tokens_per_second"} <= keys:
        return _throughput(document, where)
    return None


def _latency(document: Document) -> dict[str, float]:
    seconds = positive(document.get("avg_latency"))
    return figures(e2e_ms=seconds and MS_PER_S * seconds)


def _throughput(document: Document, where: str) -> Reading:
    """All requests at once; the file states tokens in and out together, so that lengths come from options."""
    columns = {"engine": "vllm"} | load(document.get("num_requests"), None, None)
    return Reading(Tool.VLLM_THROUGHPUT, where, columns, figures(requests_per_s=document.get("requests_per_second")))


def _serve(document: Document, where: str, tool: Tool) -> Reading:
    """Means over completed requests, from one client of a server."""
    completed = positive(document.get("completed")) or 0.0
    inputs, outputs = (positive(document.get(f"total_{side}_tokens")) for side in ("input", "output"))
    server = section(document, "server_info")
    measured = figures(
        ttft_ms=document.get("mean_ttft_ms"),
        tpot_ms=document.get("mean_tpot_ms"),
        e2e_ms=document.get("mean_e2el_ms") or document.get("mean_e2e_latency_ms"),
        output_tokens_per_s=document.get("output_throughput"),
        requests_per_s=document.get("request_throughput"),
    )
    columns = load(completed, document.get("max_concurrency"), document.get("request_rate")) | stated(
        engine=_engine(document, tool),
        engine_version=version(section(server, "version") or document.get("vllm_version")),
        input_tokens=whole(inputs / completed) if inputs and completed else None,
        output_tokens=whole(outputs / completed) if outputs and completed else None,
        tp=whole(section(server, "tp_size") or document.get("tensor_parallel_size")) or None,
        dp=whole(document.get("data_parallel_size")) or None,
    )
    model = section(document, "model_id") or section(server, "model_path") or section(document, "model")
    return Reading(tool, where, columns, measured, str(model or ""), "", _faults(document))


def _engine(document: Document, tool: Tool) -> str:
    """The server's engine: by the client's back-end where that names one, else the tool's own."""
    own = "sglang" if tool is Tool.SGLANG_SERVE else "vllm"
    stated_as = str(document.get("backend") or document.get("endpoint_type") or "").lower()
    return next((engine for part, engine in ENGINES.items() if stated_as.startswith(part)), own)


def _faults(document: Document) -> tuple[str, ...]:
    found = []
    accepted = number(document.get("accept_length"))
    if accepted and accepted > 1:
        found.append(f"tokens were drafted: {accepted:.2f} accepted per step")
    completed, failed = number(document.get("completed")) or 0, number(document.get("failed")) or 0
    if failed > FAILED_SHARE * (completed + failed):
        found.append(f"{failed:.0f} of {completed + failed:.0f} requests failed")
    return tuple(found)


def _sglang_batch(document: Document, where: str) -> Reading:
    batch, prompt, output = (whole(document.get(name)) for name in ("batch_size", "input_len", "output_len"))
    decode = positive(document.get("median_decode_latency"))
    total = positive(document.get("total_latency")) or positive(document.get("latency"))
    measured = figures(
        tpot_ms=decode and MS_PER_S * decode,
        prefill_tokens_per_s=document.get("prefill_throughput") if batch == 1 else None,
        e2e_ms=total and MS_PER_S * total,
    )
    columns = {"engine": "sglang", "waves": 1.0} | stated(concurrency=batch, input_tokens=prompt, output_tokens=output)
    return Reading(Tool.SGLANG_BATCH, where, columns, measured, str(document.get("model_path") or ""))


def _inferencex(document: Document, where: str) -> Reading:
    """An aggregated result; times are seconds, tokens/s of one GPU count prompts too."""
    tp, ep = whole(document.get("tp")) or 1, whole(document.get("ep")) or 1
    attention_dp = str(document.get("dp_attention", "")).lower() in ("true", "1")
    per_gpu = positive(document.get("output_tput_per_gpu"))
    times = {f"{name}_ms": positive(document.get(f"mean_{key}")) for name, key in _TIMES.items()}
    times_ms = {name: seconds and MS_PER_S * seconds for name, seconds in times.items()}
    measured = figures(output_tokens_per_s=per_gpu and per_gpu * tp, **times_ms)
    framework = re.sub(r"[^a-z-].*", "", str(document.get("framework") or "").lower())
    columns = stated(
        engine=ENGINES.get(framework),
        weight_format=PRECISIONS.get(str(document.get("precision") or "").lower()),
        tp=tp,
        ep=ep if ep > 1 else None,
        attention_dp=tp if attention_dp else None,
        input_tokens=whole(document.get("isl")),
        output_tokens=whole(document.get("osl")),
        concurrency=whole(document.get("conc")),
        waves=10.0,
    )
    return Reading(
        Tool.INFERENCEX, where, columns, measured, str(document.get("model") or ""), _card(document), _drafts(document)
    )


_TIMES = {"ttft": "ttft", "tpot": "tpot", "e2e": "e2el"}


def _card(document: Document) -> str:
    return re.sub(r"-(?:trt|trtllm|vllm|sglang|dynamo|nv|cw|amd|cr).*$", "", str(document.get("hw") or "").lower())


def _drafts(document: Document) -> tuple[str, ...]:
    found = []
    spoken: Any = document.get("spec_decoding")
    if str(spoken or "none").lower() not in ("none", "false", "off"):
        found.append(f"tokens were drafted: spec_decoding {str(spoken)[:20]}")
    if str(document.get("disagg", "")).lower() in ("true", "1"):
        found.append("prefill and decode ran on GPUs of their own")
    return tuple(found)
