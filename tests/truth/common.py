"""What the converters of measured rows share: names of the sources, the columns of a committed row, refusals."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from planner.catalog import formats, gpus, models
from planner.errors import PlannerError

NAMES = yaml.safe_load((Path(__file__).parent / "names.yaml").read_text("utf-8"))
Row = dict[str, str]  # of an extract, as read
Cells = dict[str, Any]  # of a committed row

SCENARIO = (
    "model weight_format kv_format engine engine_version backend gpu n_gpus tp pp ep attention_dp dp "
    "gpu_memory_utilization max_num_seqs max_num_batched_tokens scheduler_recv_interval enforce_eager prefix_caching "
    "n_ubatch flash_attention input_tokens output_tokens concurrency waves run_requests shortest_fraction "
    "request_rate_per_s cached_input_fraction"
).split()
MEASURED = (
    "measured_ttft_ms measured_tpot_ms measured_e2e_ms measured_output_tokens_per_s "
    "measured_output_tokens_per_s_per_request measured_prefill_tokens_per_s"
).split()
ABOUT = "protocol tier measured_on source note".split()


class LeftOut(Exception):
    """A row that is not used; the message is the reason under which it is counted."""


def read(path: Path) -> Iterator[Row]:
    """Rows of an extract."""
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def number(text: str) -> float | None:
    """A figure of an extract; None where the source gives none."""
    return float(text) if text.strip() else None


def whole(text: str) -> int | None:
    """The same, rounded: lengths are means."""
    value = number(text)
    return None if value is None else round(value)


@lru_cache(maxsize=4096)
def known_model(name: str) -> tuple[str, str | None]:
    """The catalogue's name of a model and the weight format that the name states."""
    asked = NAMES["models"].get(name, name)
    try:
        found = models.resolve(asked) if asked else None
    except PlannerError:
        found = None
    if found is None:
        raise LeftOut("model not bundled")
    return asked, found.weight_format


@lru_cache(maxsize=512)
def known_gpu(name: str, source: str) -> str:
    """The profile's id."""
    for where, table in NAMES["gpus"].items():
        if source.startswith(where) and name in table:
            return str(table[name])
    if not name:
        raise LeftOut("GPU not stated")
    if name in NAMES["unstated_gpus"]:
        raise LeftOut("GPU variant not stated")
    try:
        return gpus.gpu(name).id
    except PlannerError:
        raise LeftOut("GPU without a profile") from None


@lru_cache(maxsize=512)
def known_format(label: str, gguf: bool) -> str | None:
    """The weight format's id; None where the source leaves it to the checkpoint."""
    if not label:
        return None
    name = NAMES["gguf"].get(label, f"gguf-{label.lower()}") if gguf else NAMES["formats"].get(label)
    try:
        return formats.weight_format(name or label).id
    except PlannerError:
        raise LeftOut("format not in the contract or not identified") from None


def short(source: str) -> str:
    """A source without the extract's remarks: repository, commit, path."""
    text = re.sub(r"\s*[\[(](community|stored|read_file|search corp|pages corpus).*$", "", source)
    text = re.sub(r"\((copy|fork|copy in fork) ([^()]*)\)", r"(\2)", text)
    return re.sub(r"\s+", " ", text.replace("https://", "").replace("github.com/", "")).strip()[:140]


def tier(source: str) -> str:
    """a: scored, b: scored with doubt, c: for sanity only."""
    return next((name for name, parts in NAMES["tiers"].items() if any(part in source for part in parts)), "b")


def distinct(rows: list[Cells]) -> list[Cells]:
    """The rows in order, each once."""
    seen: set[tuple[tuple[str, Any], ...]] = set()
    out = []
    for row in rows:
        key = tuple(sorted((name, str(value)) for name, value in row.items() if name not in ("source", "note")))
        if key not in seen:
            seen.add(key)
            out.append(row)
    return out


def written(value: Any) -> str:
    """A cell as it stands in a committed file."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6g}" if abs(value) < 1e6 else f"{value:.0f}"
    return str(value)
