"""Rows of serving.csv: closed-loop means of TTFT and TPOT from nightly sweeps of three engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from common import Cells, LeftOut, Row, known_gpu, known_model, number, short, tier, whole

SWEEPS = yaml.safe_load((Path(__file__).parent / "sweeps.yaml").read_text("utf-8"))
SETTINGS = ("kv_format", "gpu_memory_utilization", "max_num_seqs", "max_num_batched_tokens", "prefix_caching")

MAX_TP = 16  # beyond it the source counts several instances as one
FORMATS = {"bf16": None, "": None}  # the checkpoint's own 16 bit
BLOCK_FP8 = ("DeepSeek", "GLM-5", "Qwen3.5-397B", "Qwen3-235B")  # published as FP8 with blocks of 128
WAVES = 10  # times concurrency are the requests of a run; where not stated too: 61 of those rows repeat stated runs
RARER_POLLS_FROM = 16  # requests at once, in the sweeps' scripts
SHORTEST = 0.8  # of the longest length, where the protocol is stated
CAPPED = ("vllm", "h100-sxm", 512)  # TPOT at 512 at once is that of a few, TTFT tens of seconds
MAY_DRAFT = "may draft tokens: repeats of one configuration differ by up to 2.3 times"
DRAFTS = "may draft tokens: the sweep runs this configuration with drafts too, or only so"
PLACES = (("tp", "tp"), ("ep", "moe_ep"))
LATEST = "9999"  # rows without a date repeat the newest
SAME = 0.005  # figures this close, in the same configuration, are one measurement


def weight_format(row: Row) -> str:
    """The format that model and quantization columns stand for."""
    if "gpt-oss" in row["model"]:
        return "mxfp4"
    precision = row["weight_precision"]
    if precision in FORMATS:
        return "bf16"
    if precision == "fp8":
        return "fp8-block128" if any(name in row["model"] for name in BLOCK_FP8) else "fp8"
    return precision


def convert(row: Row) -> Cells:
    """One committed row. The throughput is what closed loop and mean lengths imply."""
    tp = whole(row["tp"]) or 1
    if tp > MAX_TP:
        raise LeftOut("tp above 16: several instances counted as one")
    if "ai-dynamo" in row["image"]:
        raise LeftOut("served through another front end, instances not stated")
    if tp & (tp - 1):
        raise LeftOut("attention heads do not divide by tp: several instances counted as one")
    if (row["engine"], row["gpu"], float(row["concurrency"])) == CAPPED:
        raise LeftOut("ran under a cap on sequences that is not stated")
    model, _ = known_model(row["model"])
    ttft, tpot = float(row["ttft_ms"]), float(row["tpot_ms"])
    output = whole(row["mean_output_tokens"]) or 1
    concurrency = whole(row["concurrency"]) or 1
    e2e = ttft + (output - 1) * tpot
    stated = bool(row["measured"])
    sweep = _sweep(row)
    polls = sweep.get("scheduler_recv_interval")
    return {
        **{name: sweep.get(name) for name in SETTINGS},
        "scheduler_recv_interval": polls[concurrency >= RARER_POLLS_FROM] if isinstance(polls, list) else polls,
        "model": model,
        "weight_format": weight_format(row),
        "engine": row["engine"],
        "engine_version": row["engine_version"],
        "gpu": known_gpu(row["gpu"], row["source"]),
        "tp": tp,
        "pp": whole(row["pp"]),
        "ep": whole(row["moe_ep"]),
        "attention_dp": whole(row["attention_dp"]),
        "input_tokens": whole(row["mean_input_tokens"]),
        "output_tokens": output,
        "concurrency": concurrency,
        "measured_ttft_ms": ttft,
        "measured_tpot_ms": tpot,
        "measured_e2e_ms": e2e,
        "measured_output_tokens_per_s": number(str(concurrency * output / e2e * 1e3)),
        "protocol": "closed" if stated else "unstated",
        "waves": WAVES,
        "shortest_fraction": SHORTEST if stated else 1,
        "tier": tier(row["source"]),
        "measured_on": row["measured"],
        "source": short(row["source"]),
        "note": _note(row, sweep),
    }


def _sweep(row: Row) -> dict[str, Any]:
    """What the sweep's script sets for a row; nothing where the row is of no known sweep."""
    names = ("engine", "gpu")
    return next(
        (
            entry
            for entry in SWEEPS
            if entry["model"] in row["model"]
            and all(entry.get(name, row[name]) == row[name] for name in names)
            and entry.get("precision", row["weight_precision"] or "bf16") == (row["weight_precision"] or "bf16")
            and all(entry.get(name, whole(row[column])) == whole(row[column]) for name, column in PLACES)
            and entry.get("from", "") <= (row["measured"] or LATEST)
        ),
        {},
    )


def _note(row: Row, sweep: dict[str, Any]) -> str | None:
    if row["engine"] == "tensorrt-llm" and "DeepSeek" in row["model"]:
        return MAY_DRAFT
    return DRAFTS if sweep.get("drafts") else None


def without_repeats(rows: list[Cells]) -> list[Cells]:
    """Rows less those of unstated protocol that report a stated run again, with nominal lengths."""
    stated: dict[tuple[object, ...], list[Cells]] = {}
    for row in rows:
        if row["protocol"] == "closed":
            stated.setdefault(_configuration(row), []).append(row)
    return [row for row in rows if row["protocol"] == "closed" or not _again(row, stated.get(_configuration(row), []))]


def _configuration(row: Cells) -> tuple[object, ...]:
    return tuple(row[c] for c in ("model", "weight_format", "engine", "gpu", "tp", "ep", "attention_dp", "concurrency"))


def _again(row: Cells, stated: list[Cells]) -> bool:
    figures = ("measured_ttft_ms", "measured_tpot_ms")
    return any(all(abs(row[name] / other[name] - 1) < SAME for name in figures) for other in stated)
