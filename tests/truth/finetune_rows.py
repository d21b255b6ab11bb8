"""Measured fine-tuning rows that ship, from an extract: python tests/truth/finetune_rows.py EXTRACT.csv [OUT].

Settings that a table leaves to a script or recipe are filled from that script (named below); a row whose
settings cannot be known is counted by reason. Same extract, same file.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

from common import Cells, LeftOut, Row, known_gpu, known_model, number, read, short, whole, written  # noqa: E402

from planner.catalog.files import write_atomically  # noqa: E402
from planner.specs.finetune import FinetuneScenario  # noqa: E402
from planner.units import GB, GIB  # noqa: E402

MEASURED = "measured_loaded_gib measured_peak_gib measured_peak_reserved_gib measured_peak_allocated_gib".split()
ABOUT = "lengths source note".split()

# QwenLM/Qwen finetune/*.sh and finetune.py: padded to the length, gradient accumulation 8, rank 64, checkpointing;
# one GPU with LoRA runs under autocast, everything else under DeepSpeed, whose losses stay in 16 bit.
QWEN = {"grad_accum": 8, "framework": "transformers", "gradient_checkpointing": "full"}
QWEN_LORA = {"lora_rank": 64, "lora_targets": "c_attn,o_proj,gate_proj,up_proj,down_proj"}
QWEN_METHODS = {
    "LoRA": {"method": "lora", "optimizer": "adamw-foreach"},
    "LoRA (emb)": {"method": "lora", "optimizer": "adamw-foreach", "train_embeddings": True},
    "Q-LoRA": {"method": "qlora", "weight_format": "gptq-int4-g128", "sharding": "zero2", "loss": "16-bit"},
    "Full-parameter": {"method": "full", "sharding": "zero3", "loss": "16-bit"},
    "LoRA (multinode)": {"method": "lora", "sharding": "zero2", "loss": "16-bit"},
    "LoRA + Deepspeed Zero3": {"method": "lora", "sharding": "zero3", "loss": "16-bit"},
}
# torchtune README, optimization flags (cumulative) and recipes/configs/llama3_2/3B_{full,qlora}_single_device.yaml
TUNE_FLAGS = (
    ("+ Packed Dataset", {"method": "full", "gradient_checkpointing": "none", "loss": "fp32"}),
    ("+ Compile", {"compile": True}),
    ("+ Chunked Cross Entropy", {"loss": "chunked"}),
    ("+ Activation Checkpointing", {"gradient_checkpointing": "full"}),
    ("+ Fuse optimizer step into backward", {"optimizer_in_backward": True}),
    ("+ Activation Offloading", {"gradient_checkpointing": "offloaded"}),
    ("+ 8-bit AdamW", {"optimizer": "adamw-8bit"}),
)
TUNE_TARGETS = "q_proj,v_proj,o_proj,mlp"
TUNE_ADAPTERS = {
    "lora_rank": 64, "lora_targets": TUNE_TARGETS, "gradient_checkpointing": "offloaded", "compile": True,
}  # fmt: skip
# recipes/configs/llama3_1/8B_{full,lora,qlora}_single_device.yaml at batch 2, packed to 2048, compiled
TUNE_8B = {
    "Full finetune": {"method": "full", "optimizer": "paged-adamw-8bit", "optimizer_in_backward": True},
    "LoRA": {"method": "lora", "lora_rank": 8, "lora_targets": TUNE_TARGETS},
    "QLoRA": {"method": "qlora", "lora_rank": 8, "lora_targets": TUNE_TARGETS},
}
NO_CHECKPOINTING = ("unsloth/tinyllama-bnb-4bit",)  # the notebook says so in its text
NOT_IN_MODEL = ("shared_mlp", "output_linea", "post", "linear_start", "linear_end", "em")  # cut off, or audio layers
PACKED = ("unsloth/tinyllama-bnb-4bit",)


def convert(row: Row) -> Cells:
    """The committed row of a row of the extract. Raises LeftOut."""
    framework = row["framework"].split()[0]
    makers = {"QwenLM/Qwen": _qwen, "torchtune": _torchtune, "unsloth": _unsloth}
    if framework not in makers:
        raise LeftOut("length and rank not stated")
    model, stated = known_model(row["hf_id"])
    cells: Cells = {"model": model, "n_gpus": whole(row["n_gpus"]), "batch_size": whole(row["batch_size"])}
    cells |= {
        "seq_len": whole(row["seq_len"]),
        "source": short(row["source"].removeprefix("github:")),
    }
    return cells | makers[framework](row, stated)


def _qwen(row: Row, _: str | None) -> Cells:
    method = QWEN_METHODS[row["method"]]
    adapters = {} if method["method"] == "full" else QWEN_LORA
    peak = float(row["peak_memory"]) * GB / GIB / int(row["n_gpus"])
    return (
        QWEN
        | adapters
        | method
        | {
            "gpu": known_gpu(row["gpu"], row["source"]),
            "measured_peak_gib": peak,
            "lengths": "padded",
            "note": "the table's G is 10^9: 162 G stood on two cards of 79.25 GiB; sums over GPUs divided",
        }
    )


def _torchtune(row: Row, _: str | None) -> Cells:
    base = {"framework": "torchtune"}  # of the card's size nothing here depends
    if "8B" in row["model"]:
        if row["gpu"] != "4090":
            raise LeftOut("differs from the recipe in settings that are not stated")
        return base | TUNE_8B[row["method"]] | {
            "loss": "chunked", "gradient_checkpointing": "full", "compile": True, "lengths": "packed",
            "measured_peak_allocated_gib": number(row["peak_memory"]),
            "note": "settings of the recipe's own configuration",
        }  # fmt: skip
    if not row["seq_len"]:
        raise LeftOut("peak while the model is built from 16-bit weights, lengths not stated")
    if row["method"] == "Baseline full finetune":
        raise LeftOut("not packed: lengths not stated")
    settings = _flags(row["method"])
    return base | settings | {"measured_peak_allocated_gib": number(row["peak_memory"]), "lengths": "packed"}


def _flags(method: str) -> Cells:
    """Settings of a row of the cumulative table."""
    if method in ("LoRA", "QLoRA"):
        return {"method": method.lower(), **TUNE_ADAPTERS}
    settings: Cells = {}
    for name, change in TUNE_FLAGS:
        settings |= change
        if name == method:
            return settings
    raise LeftOut("settings not stated")


def _unsloth(row: Row, stated: str | None) -> Cells:
    if not row["lora_rank"]:
        raise LeftOut("method not stated")
    if "-QAT" in row["source"]:
        raise LeftOut("quantization-aware training")
    quantized = row["method"].startswith("QLoRA")
    known_lengths = bool(row["seq_len"]) and int(row["seq_len"]) >= 512
    cells: Cells = {
        "framework": "unsloth",
        "method": "qlora" if quantized else "lora",
        "weight_format": stated if quantized and stated else None,
        "gpu": known_gpu(row["gpu"], row["source"]),
        "device_gib": number(row["gpu_mem_gib"]),
        "lora_rank": whole(row["lora_rank"]),
        "lora_targets": _targets(row["target"]),
        "grad_accum": whole(row["grad_accum"]),
        "optimizer": row["optimizer"] or None,
        "framework_version": row["version"] or None,
        "gradient_checkpointing": "none" if row["hf_id"] in NO_CHECKPOINTING else None,
        "measured_loaded_gib": number(row["start_reserved_gib"]),
        "measured_peak_reserved_gib": float(row["peak_memory"]) if known_lengths else None,
        "lengths": "packed" if row["hf_id"] in PACKED else "at most" if known_lengths else "not stated",
    }
    return cells if known_lengths else cells | {"seq_len": None}


def _targets(text: str) -> str | None:
    """Module names out of a cell of a notebook; None where the notebook takes all linear layers."""
    names = re.findall(r"[a-z][a-z0-9_]*", text.split("#")[0])
    return ",".join(name for name in names if name not in NOT_IN_MODEL) or None


def main(extract: Path, out: Path) -> None:
    rows: list[Cells] = []
    reasons: Counter[str] = Counter()
    for row in read(extract):
        try:
            rows.append(convert(row))
        except LeftOut as left:
            reasons[str(left)] += 1
    used = {column for row in rows for column, value in row.items() if value is not None}
    header = [column for column in (*FinetuneScenario.model_fields, *MEASURED, *ABOUT) if column in used]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([written(row.get(column)) for column in header] for row in rows)
    write_atomically(out, text.getvalue())
    print(f"{len(rows)} rows, {sum(reasons.values())} left out: {dict(sorted(reasons.items()))}")


if __name__ == "__main__":
    here = Path(__file__).resolve().parents[2] / "planner" / "data" / "truth" / "finetune_memory.csv"
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else here)
