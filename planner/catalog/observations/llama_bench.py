"""Results of llama-bench: JSON, JSON lines, CSV and the Markdown table that it prints.

ppN: a prompt of N tokens, tgN: N generated tokens, @dD: with D tokens of context in place. A rate of prompt and
generation together is taken as the end-to-end time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from planner.catalog.engines import backend_named
from planner.catalog.observations.reading import Document, Reading, figures, number, stated, whole
from planner.specs.observation import Tool
from planner.units import MS_PER_S

CACHE = {"f16": "fp16", "bf16": "bf16"}
DEVICE = re.compile(r"Device \d+: (.+?), (?:compute|gfx)|ggml_vulkan: \d+ = (.+?) \(|GPU name: +(?:MTL\d \()?([^)\n]+)")
BUILD = re.compile(r"build: \w+ \((\d+)\)")
TEST = re.compile(r"(?:pp(\d+))?\+?(?:tg(\d+))?(?: ?@ ?d(\d+))?")
SPLIT_MODES = {"0": "none", "1": "layer", "2": "row"}


def is_record(document: Document) -> bool:
    """Whether one record of JSON or CSV is llama-bench's."""
    return {"n_prompt", "n_gen", "avg_ts"} <= set(document)


def from_record(record: Document, where: str) -> Reading:
    """One test of the JSON or CSV output."""
    gpus = [name.strip() for name in str(record.get("gpu_info") or record.get("devices") or "").split(",")]
    names = [name for name in gpus if name and name.lower() != "auto"]
    columns = _cache(record) | _split(record, len(names)) | _offload(record)
    columns |= stated(
        engine_version=f"b{record['build_number']}" if whole(record.get("build_number")) else None,
        n_ubatch=whole(record.get("n_ubatch")) or None,
        flash_attention=_flag(record.get("flash_attn")),
        backend=backend_named(str(record.get("backends"))),
    )
    prompt, generated, depth = (whole(record.get(name)) or 0 for name in ("n_prompt", "n_gen", "n_depth"))
    tests, measured = _test(prompt, generated, depth, record.get("avg_ts"))
    model, weights = _names(str(record.get("model_filename") or ""), str(record.get("model_type") or ""))
    return _reading(
        where, columns | tests | stated(weight_format=weights), measured, (model, names[0] if names else "")
    )


def from_table(text: str, where: str) -> Iterator[Reading]:
    """Rows of the printed table; the device and the build stand in the lines around it."""
    devices = [next(part for part in found if part) for found in DEVICE.findall(text)]
    build = BUILD.search(text)
    header: list[str] = []
    for line_number, line in enumerate(text.splitlines(), 1):
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.lstrip().startswith("|") else []
        if "test" in cells and "t/s" in cells:
            header = cells
        elif header and len(cells) == len(header) and not set("".join(cells)) <= set("-: "):
            row = dict(zip(header, cells, strict=True))
            row["build"] = build[1] if build else ""
            yield _table_row(row, devices, f"{where} line {line_number}")


def _table_row(row: dict[str, str], devices: list[str], where: str) -> Reading:
    found = TEST.fullmatch(row["test"].replace(" ", "").replace("@", " @ ", 1).strip())
    prompt, generated, depth = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    tests, measured = _test(prompt, generated, depth, row["t/s"].partition("±")[0])
    columns = (
        _cache(row) | _split({"split_mode": row.get("sm")}, len(devices)) | _offload({"n_gpu_layers": row.get("ngl")})
    )
    columns |= stated(
        engine_version=f"b{row['build']}" if row["build"] else None,
        n_ubatch=whole(row.get("n_ubatch")),
        flash_attention=_flag(row.get("fa")),
        backend=backend_named(str(row.get("backend"))),
    )
    model, weights = _names("", row.get("model", ""))
    return _reading(
        where, columns | tests | stated(weight_format=weights), measured, (model, devices[0] if devices else "")
    )


def _reading(where: str, columns: dict[str, Any], measured: dict[str, float], names: tuple[str, str]) -> Reading:
    return Reading(Tool.LLAMA_BENCH, where, {"engine": "llama.cpp", "concurrency": 1, **columns}, measured, *names)


def _test(prompt: int, generated: int, depth: int, rate: Any) -> tuple[dict[str, Any], dict[str, float]]:
    """Columns of a test, and what its rate measures."""
    if prompt and generated:
        seconds = (prompt + generated) / rate if (rate := number(rate)) else None
        return _lengths(prompt, generated, depth), figures(e2e_ms=seconds and MS_PER_S * seconds)
    if generated:
        return {"input_tokens": depth, "output_tokens": generated}, figures(output_tokens_per_s_per_request=rate)
    return _lengths(prompt, 1, depth), figures(prefill_tokens_per_s=rate)


def _lengths(prompt: int, generated: int, depth: int) -> dict[str, Any]:
    cached = depth / (prompt + depth) if depth else None
    return stated(input_tokens=prompt + depth, output_tokens=generated, cached_input_fraction=cached)


def _names(file: str, described: str) -> tuple[str, str]:
    """The model's name and its weight format, from the file's name or from "qwen3moe 30B.A3B Q4_K - Medium"."""
    base = re.sub(r"-\d{5}-of-\d{5}$", "", PurePosixPath(file.replace("\\", "/")).name.removesuffix(".gguf"))
    found = re.fullmatch(
        r"(.+?) ((?:B?F16|F32|I?Q\d\S*|TQ\d\S*|MXFP4)(?: - .+| MoE)?)", described.removesuffix(" (guessed)")
    )
    label = found[2] if found else ""
    return base or (found[1] if found else described), f"gguf {label}" if label else ""


def _cache(record: Document) -> dict[str, Any]:
    kinds = [str(record.get(name) or "") for name in ("type_k", "type_v")]
    named = [CACHE.get(kind, kind) for kind in kinds]
    if not any(kinds) or set(kinds) <= {"f16", ""}:
        return {}
    k, v = (name or "fp16" for name in named)
    return {"kv_format": k if k == v else f"{k}/{v}"}


def _split(record: Document, gpus: int) -> dict[str, Any]:
    mode = SPLIT_MODES.get(str(record.get("split_mode")), str(record.get("split_mode") or "layer"))
    if gpus < 2 or mode == "none":
        return {}
    return {"n_gpus": gpus, "pp": gpus} if mode == "layer" else {"n_gpus": gpus, "split_mode": mode}


def _offload(record: Document) -> dict[str, Any]:
    """Layers on the GPU, where the number does not simply mean all of them."""
    layers, experts = number(record.get("n_gpu_layers")), whole(record.get("n_cpu_moe"))
    return stated(
        n_gpu_layers=int(layers) if layers is not None and 0 <= layers < 99 else None, n_cpu_moe=experts or None
    )


def _flag(value: Any) -> bool | None:
    text = str(value).strip().lower()
    return True if text in ("1", "true", "on") else False if text in ("0", "false", "off") else None
