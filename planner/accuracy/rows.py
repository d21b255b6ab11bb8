"""Measured rows as questions to the estimator: which scenario each row asks, which figure answers which measurement."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

from planner.catalog import models
from planner.catalog.formats import weight_format
from planner.catalog.truth import BLIND_FILES, SPEED_FILES, MeasuredRow, measured_rows
from planner.formats import tensor_bytes
from planner.params import tensors
from planner.specs.model import (
    LinearAttention,
    Mamba,
    ModelSpec,
    Role,
)
from planner.specs.scenario import Scenario
from planner.units import GB, GIB, MIB_PER_GIB

STAND_IN = "b300"  # for rows of memory whose card is not named: what is scored of them does not depend on it
LARGE_GIB = 1e5  # a card on which everything fits, for buffers that are summed over cards
SATURATED_SHARE = 0.2  # of the end-to-end time spent before the first token

STARTS = {"no": "engine starts", "yes": "engine starts held out"}  # logs found after the first constants were set
LATER = {"no": ", found later", "yes": ", held out"}  # rows of one stream, the same
BLIND = {"no": ", blind test, looked at", "yes": ", blind test"}  # scored before anybody had looked
SECOND = {"no": ", second blind test, looked at", "yes": ", second blind test"}  # of starts, collected later
THIRD = {"no": ", third blind test, looked at", "yes": ", third blind test"}  # the same, collected later
FOURTH = {"no": ", fourth blind test, looked at", "yes": ", fourth blind test"}
FIFTH = {"no": ", fifth blind test, looked at", "yes": ", fifth blind test"}
SIXTH = {"no": ", sixth blind test, looked at", "yes": ", sixth blind test"}  # collected last
FOUND = {  # by file
    "blind_starts": SECOND,
    "blind_serving": THIRD,
    "blind_fourth": FOURTH,
    "blind_fifth": FIFTH,
    "blind_sixth": SIXTH,
}

OTHERWISE = ("patched", "not a column", "told by its memory")  # in the note of a row that its columns do not say all of
MEMORY = "weights_gib activation_gib non_torch_gib cuda_graph_gib kv_pool_gib".split()
POOL = "kv_blocks kv_pool_tokens max_concurrency_at_max_model_len".split()
SPEED = "tpot_ms ttft_ms e2e_ms output_tokens_per_s output_tokens_per_s_per_request prefill_tokens_per_s".split()


class Question(NamedTuple):
    """A scenario to estimate, the row behind it, and measured figures by estimate column."""

    row: MeasuredRow
    scenario: Scenario
    figures: dict[str, float]
    part: str  # what is scored together: engine memory, llama.cpp memory, closed loop, offline, ...
    regime: str = ""  # queue-free or saturated
    stated: bool = True  # the source says everything that the figure depends on


class Known(NamedTuple):
    """A figure that needs no estimate: the bytes of a file."""

    row: MeasuredRow
    predicted: float
    measured: float


def model_kind(model: ModelSpec) -> str:
    """What makes an architecture's memory and time of their own kind."""
    if any(isinstance(mixer, LinearAttention | Mamba) for mixer in model.mixers):
        kind = "hybrid"
    elif model.caches_latents:
        kind = "latent"
    elif any(getattr(mixer, "window", None) or getattr(mixer, "chunk", None) for mixer in model.mixers):
        kind = "sliding"
    else:
        kind = "full"
    experts = model.has_experts
    return f"{kind} attention, {'experts' if experts else 'dense'}" if model.lm_head else "encoder"


@lru_cache(maxsize=1024)
def file_bytes(model: str, weights: str) -> float:
    """Bytes of a checkpoint's file; an image encoder is a file of its own."""
    spec = models.model(model)
    sizes = tensor_bytes(spec, weight_format(weights))
    return float(sum(size for size, t in zip(sizes, tensors(spec), strict=True) if t.role is not Role.VISION))


def files() -> Iterator[Known]:
    """Published sizes of files beside the bytes of their tensors."""
    for row in measured_rows("weights"):
        published = row.measured.get("file_gb", 0) * GB + row.measured.get("file_gib", 0) * GIB
        if published and not row.about["excluded"]:
            predicted = file_bytes(row.scenario.model or "", row.scenario.weight_format or "")
            yield Known(row, predicted / GIB, published / GIB)


def questions() -> Iterator[Question]:
    """Every row that the estimator can be asked."""
    yield from _loaded_weights()
    yield from _engine_memory()
    yield from _llamacpp_memory()
    for file in SPEED_FILES:
        yield from (_speed(row) for row in measured_rows(file))


def _found(row: MeasuredRow) -> str:
    """When a row was found, where that is later than the constants, as the end of its part's name."""
    names = BLIND if row.file in BLIND_FILES else LATER if row.file in SPEED_FILES else {}
    names = FOUND.get(row.file, names)
    return names.get(row.about.get("held_out", ""), "")


def _loaded_weights() -> Iterator[Question]:
    for row in measured_rows("weights"):
        if "weights_gib" in row.measured and not row.about["excluded"]:
            asked = row.scenario.model_copy(update={"gpu": STAND_IN, **SHORT})
            yield Question(row, asked, {"weights_gib": row.measured["weights_gib"]}, "loaded weights")


SHORT = {"input_tokens": 128, "output_tokens": 128, "concurrency": 1}


STARTED = ("engine_memory", "engine_starts", "blind_memory", "blind_starts")  # files of start-up logs


def _engine_memory() -> Iterator[Question]:
    """Engines' start-up figures. A row without a card says something of weights only."""
    for row in chain.from_iterable(measured_rows(file) for file in STARTED):
        starts = STARTS.get(row.about.get("held_out", "")) if row.file == "engine_starts" else None
        s, part = row.scenario, starts or f"engine memory{_found(row)}"
        if s.tp is None or s.weight_format is None or row.about["measured_starts"] != "yes":
            continue
        known_card = s.gpu is not None
        printed = [name for name in (*MEMORY, *POOL) if row.measured.get(name, 0) > 0]  # less: the allocator gave back
        names = [name for name in printed if known_card or name == "weights_gib"]
        asked = s.model_copy(update=SHORT | ({} if known_card else {"gpu": STAND_IN}))
        sized = s.device_gib is not None or s.gpu_memory_utilization is not None
        complete = s.engine_version and known_card and sized and s.gpu_memory_utilization
        stated = bool(complete) and (s.pp or 1) == 1 and not any(word in row.about["note"] for word in OTHERWISE)
        yield Question(row, asked, {name: row.measured[name] for name in names}, part, stated=stated)


FULL_CACHES = ("mla=0", "mla=1")  # options of ik_llama.cpp and old builds: latent attention cached as keys and values


def _llamacpp_memory() -> Iterator[Question]:
    """Buffers that llama.cpp prints. Caches are summed over cards; compute buffers stand on each."""
    for row in (*measured_rows("llamacpp_memory"), *measured_rows("blind_llamacpp")):
        s, part = row.scenario, f"llama.cpp memory{_found(row)}"
        if s.max_model_len is None or s.weight_format is None or row.about["note"] in FULL_CACHES:
            continue
        whole = {"input_tokens": s.max_model_len - 1, "output_tokens": 1, "concurrency": 1}
        card = {"gpu": STAND_IN, "device_gib": LARGE_GIB, "n_gpu_layers": None, "n_gpus": 1}
        asked = s.model_copy(update=whole | card)
        figures = {"kv_pool_gib": row.measured["kv_pool_mib"] / MIB_PER_GIB}
        mainline = row.about["mainline"] == "yes"
        on_one = row.measured.get("weights_gpu_mib") if (s.n_gpus or 1) == 1 and _all_layers(row) else None
        if on_one and mainline:
            figures["weights_gib"] = on_one / MIB_PER_GIB
        yield Question(row, asked, figures, part, stated=mainline)
        compute, cards = row.measured.get("compute_mib"), row.measured.get("compute_gpus", 1)
        if compute and mainline:
            spread = asked.model_copy(update={"n_gpus": int(cards), "n_gpu_layers": s.n_gpu_layers})
            yield Question(row, spread, {"activation_gib": compute / MIB_PER_GIB}, part)


def _all_layers(row: MeasuredRow) -> bool:
    layers = sum(layer.count for layer in models.model(row.scenario.model or "").layers)
    return row.scenario.n_gpu_layers is not None and row.scenario.n_gpu_layers > layers


PARTS = {
    "closed": "closed loop",
    "offline": "offline, all requests at once",
    "static": "static batch",
    "rate": "open loop",
    "single": "single stream",
    "micro": "micro-batches",
    "unstated": "closed loop, protocol not stated",
}


def _speed(row: MeasuredRow) -> Question:
    figures = {name: row.measured[name] for name in SPEED if name in row.measured}
    part = PARTS[row.about["protocol"]] + _found(row)
    if row.about["tier"] == "c":
        part += ", for sanity only"
    elif "draft" in row.about["note"]:
        part += ", may draft tokens"
    elif "dynamic mix" in row.about["note"]:
        part += ", dynamic mix of types"
    return Question(row, row.scenario, figures, part, _regime(row), row.about["protocol"] != "unstated")


def _regime(row: MeasuredRow) -> str:
    """Saturated: requests wait for more than a fifth of their time before the first token."""
    ttft, tpot = row.measured.get("ttft_ms"), row.measured.get("tpot_ms")
    if ttft is None or tpot is None:
        return ""
    e2e = ttft + tpot * max((row.scenario.output_tokens or 1) - 1, 0)
    return "saturated" if ttft > SATURATED_SHARE * e2e else "queue-free"
