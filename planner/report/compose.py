"""A docker compose file that starts a deployment: one service for each replica, each with GPUs of its own."""

from __future__ import annotations

import shlex
from functools import lru_cache
from typing import Any

import yaml

from planner.catalog import gpus
from planner.catalog.files import read_yaml
from planner.catalog.paths import data_dir
from planner.errors import BadValue, PlannerError
from planner.estimate.columns import EstimateRow
from planner.report.launch import launch_command

HEADS = {"vllm": 2, "sglang": 3, "tensorrt-llm": 1, "llama.cpp": 1}  # words of the program
MODELS = "/models"  # where files and folders of one's own are mounted
HEADER = """# docker compose up -d
# Checkpoints that nobody publishes, and GGUF files, are looked for in ./models beside this file.
"""


@lru_cache(maxsize=1)
def _images() -> dict[str, dict[str, Any]]:
    return dict(read_yaml(data_dir() / "compose.yaml"))


def start_words(row: EstimateRow) -> list[str]:
    """The start line in words, as a shell splits it."""
    return shlex.split(launch_command(row).replace("\\\n", " "), comments=True)


def compose_file(row: EstimateRow) -> str:
    """The file for a row of `Estimate.rows()`. BadValue for engines and GPUs that containers do not serve."""
    engine = row["engine"]
    if engine not in _images():
        raise BadValue(f"engine {engine}: no container image serves it; known: {', '.join(_images())}")
    vendor = _vendor(row)
    if vendor != "NVIDIA":
        raise BadValue(f"{row['gpu']}: a compose file is written for NVIDIA GPUs; start {vendor} with the start line")
    replicas = (row["dp"] or 1) * (row["copies_per_gpu"] or 1)
    services = {f"{_name(engine)}-{number + 1}": _service(row, number) for number in range(replicas)}
    return HEADER + str(yaml.safe_dump({"services": services}, sort_keys=False, width=10_000))


def _vendor(row: EstimateRow) -> str:
    try:
        return gpus.gpu(row["gpu"]).vendor
    except PlannerError:  # an uploaded profile
        return "NVIDIA"


def _name(engine: str) -> str:
    return engine.replace(".", "-")


def _service(row: EstimateRow, number: int) -> dict[str, Any]:
    facts = _images()[row["engine"]]
    words = start_words(row)
    head = HEADS[row["engine"]]
    arguments = [_mounted(word) for word in words[head:]]
    each = (row["tp"] or 1) * (row["pp"] or 1)
    first = number // (row["copies_per_gpu"] or 1) * each
    devices = {"driver": "nvidia", "device_ids": [str(first + i) for i in range(each)], "capabilities": ["gpu"]}
    tag = facts["tag"].format(version=row["engine_version"], backend=row["backend"])
    return {
        "image": f"{facts['image']}:{tag}",
        "entrypoint": [facts["program"]] if "program" in facts else words[:head],
        "command": [_literal(word) for word in [*arguments, "--host", "0.0.0.0", "--port", str(facts["port"])]],
        "ports": [f"{facts['port'] + number}:{facts['port']}"],
        "volumes": ["~/.cache/huggingface:/root/.cache/huggingface", f"./models:{MODELS}:ro"],
        "environment": {"HF_TOKEN": "${HF_TOKEN:-}"},
        "ipc": "host",
        "restart": "unless-stopped",
        "deploy": {"resources": {"reservations": {"devices": [devices]}}},
    }


def _mounted(word: str) -> str:
    """A folder or file of one's own as the container sees it."""
    if word.startswith("./"):
        return f"{MODELS}/{word.removeprefix('./')}"
    return f"{MODELS}/{word}" if word.endswith(".gguf") and not word.startswith("/") else word


def _literal(word: str) -> str:
    """Compose takes a dollar for a variable unless it stands twice."""
    return word.replace("$", "$$")
