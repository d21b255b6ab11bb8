"""Memory plans against what engines logged: `planner/data/truth`, rows that state what a plan needs."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from planner.accuracy.rows import questions
from planner.catalog.engines import default_limits, engine
from planner.catalog.formats import kv_format, weight_format
from planner.catalog.gpus import gpu
from planner.catalog.models import resolve
from planner.collectives import Parallel
from planner.estimate import estimate
from planner.formats import tensor_bytes
from planner.memory import Device, MemoryInputs, ReplicaLoad, Settings
from planner.memory.placement import Placement, host_placement
from planner.memory.stages import Stages, row_count, stages_of
from planner.specs.engine import EngineSpec
from planner.units import GIB

LOGS, SEQUENCES = ("engine_memory", "engine_starts"), "max_concurrency_at_max_model_len"
POOLED = {SEQUENCES, "kv_pool_gib"}
TRUTH = Path(__file__).resolve().parent.parent / "planner" / "data" / "truth"
Row = dict[str, str]


class Compared(NamedTuple):
    """One measured row and the stage that its log describes: the only one, or rank 0 of a pipeline."""

    row: Row
    stages: Stages

    def error(self, term: str, measured: str) -> float:
        """Predicted / measured - 1."""
        values = {**self.stages.spent._asdict(), "pool": self.stages.pool}
        return float(values[term][0, 0] / (float(self.row[measured]) * GIB) - 1)


def rows(name: str) -> list[Row]:
    with (TRUTH / name).open(newline="") as file:
        return list(csv.DictReader(file))


def number(row: Row, column: str, default: float) -> float:
    return float(row[column]) if row[column] else default


def settings_of(row: Row, spec: EngineSpec, device_bytes: float) -> Settings:
    tier = default_limits(spec, gpu(row["gpu"]), device_bytes)
    return Settings(
        utilization=float(row["gpu_memory_utilization"]),
        max_num_seqs=number(row, "max_num_seqs", tier.max_num_seqs),
        max_num_batched_tokens=number(row, "max_num_batched_tokens", tier.max_num_batched_tokens),
        max_model_len=float(row["max_model_len"]),
        block_tokens=number(row, "block_size", spec.cache.block_tokens),
        enforce_eager=row["enforce_eager"] == "true",
    )


def compare(row: Row, spec: EngineSpec | None = None) -> Compared:
    model, _, _ = resolve(row["model"])
    spec = spec or engine(row["engine"], row["engine_version"])
    device_bytes = float(row["device_gib"]) * GIB
    fp32 = row["weight_format"] == "fp32"
    key, value = kv_format(row["kv_format"] or "bf16")
    inputs = MemoryInputs(
        np.asarray(tensor_bytes(model, weight_format(row["weight_format"]), True)),
        4.0 if fp32 else key.bytes_per_value,
        4.0 if fp32 else value.bytes_per_value,
        Device(device_bytes),
        settings_of(row, spec, device_bytes),
        ReplicaLoad(1.0, 1.0),
        Parallel(int(row["tp"]), int(row["pp"] or 1)),
        value_bytes=4.0 if fp32 else 2.0,
    )
    assert row_count(inputs) == 1
    return Compared(row, stages_of(model, spec, inputs))


STATED = ("engine_version", "device_gib", "gpu_memory_utilization", "max_model_len", "tp", "weight_format", "gpu")


def stated_rows() -> list[Row]:
    """Rows of vLLM's V1 engine that state version, device, fraction, length and parallelism; patched ones apart."""
    stated = [
        row
        for row in rows("engine_memory.csv")
        if row["engine"] == "vllm" and all(row[column] for column in STATED) and "Unsloth" not in row["note"]
    ]
    return [row for row in stated if not row["engine_version"].startswith("0.6")]


@cache
def compared() -> tuple[Compared, ...]:
    """Those rows beside their plans."""
    return tuple(compare(row) for row in stated_rows())


def errors(term: str, measured: str, pp: bool = False) -> list[float]:
    """Errors of a term on the rows that measured it and start."""
    chosen = [
        one
        for one in compared()
        if one.row[measured] and float(one.row[measured]) > 0 and (int(one.row["pp"] or 1) > 1) == pp
    ]
    return [one.error(term, measured) for one in chosen]


def test_enough_rows_are_compared() -> None:
    assert len({one.row["model"] for one in compared()}) >= 15
    assert len(compared()) >= 50


def test_weights_agree_with_model_loading_took() -> None:
    found = np.abs(errors("weights", "measured_weights_gib"))
    assert np.mean(found) < 0.002
    assert np.max(found) < 0.02


def test_peak_activation_is_within_ten_percent_on_average() -> None:
    assert np.mean(np.abs(errors("activation", "measured_activation_gib"))) < 0.10


def test_the_kv_pool_is_within_one_percent_on_average_and_never_far_over() -> None:
    found = np.asarray(errors("pool", "measured_kv_pool_gib"))
    assert np.mean(np.abs(found)) < 0.01
    assert np.max(found) < 0.05


def test_rank_zero_of_a_pipeline_agrees_too() -> None:
    assert np.max(np.abs(errors("pool", "measured_kv_pool_gib", pp=True))) < 0.01
    assert np.max(np.abs(errors("weights", "measured_weights_gib", pp=True))) < 0.001


def test_a_model_that_failed_to_start_is_refused() -> None:
    failed = [one for one in compared() if one.row["measured_starts"] == "no"]
    assert len(failed) == 1
    assert all(one.stages.available[0, 0] < 0 for one in failed)


def test_the_pools_bytes_become_the_logged_tokens() -> None:
    logged = [one for one in compared() if one.row["measured_kv_pool_tokens"] and one.row["measured_kv_pool_gib"]]
    for one in logged:
        table = one.stages.table
        blocks = float(one.row["measured_kv_pool_gib"]) * GIB / table.pool_block_bytes[0, 0]
        tokens = blocks / table.groups[0, 0] * np.min(table.block_tokens)
        assert tokens == pytest.approx(float(one.row["measured_kv_pool_tokens"]), rel=1e-3), one.row["source"]
    assert len(logged) > 10


def llama_cpp_rows() -> list[Row]:
    """Mainline rows, and those of the fork whose caches follow the same rule (one latent per token)."""
    chosen = [row for row in rows("llamacpp_memory.csv") if row["measured_kv_pool_mib"] and row["max_model_len"]]
    return [row for row in chosen if row["note"].startswith("mla=3") or "DeepSeek" not in row["model"]]


def llama_cpp_stages(row: Row, placement: Placement | None = None) -> Stages:
    model, _, _ = resolve(row["model"])
    key, value = kv_format(row["kv_format"])
    gpus = len(placement.stages) if placement else int(number(row, "measured_compute_gpus", 1))
    settings = Settings(
        1.0, 1.0, 2048.0, float(row["max_model_len"]), True, n_ubatch=number(row, "n_ubatch", 512)
    )._replace(flash_attention=row["flash_attention"] != "false")
    if placement:
        where = np.empty(1, dtype=object)
        where[0] = placement
        settings = settings._replace(placement=where)
    inputs = MemoryInputs(
        np.asarray(tensor_bytes(model, weight_format(row["weight_format"] or "gguf-q4_k_m"), True)),
        key.bytes_per_value,
        value.bytes_per_value,
        Device(1e15),
        settings,
        ReplicaLoad(1.0, 1.0),
        Parallel(1, gpus),
    )
    return stages_of(model, engine("llama.cpp"), inputs)


def placed(
    model: str, fmt: str, kv: str, cells: int, placement: tuple[int, int, int], fa: bool = True
) -> tuple[list[float], list[float], list[float], float]:
    """MiB of weights, cache and compute buffer per GPU, and of host memory, with (ngl, GPUs, n_cpu_moe)."""
    layers, gpus, experts = placement
    spec = engine("llama.cpp")
    where = host_placement(resolve(model)[0].n_layers, layers, (1.0,) * gpus, experts, spec.weights.host_roles)
    row = {"model": model, "weight_format": fmt, "kv_format": kv, "max_model_len": str(cells), "n_ubatch": ""}
    found = llama_cpp_stages(row | {"flash_attention": "true" if fa else "false"}, where)
    parts = (found.spent.weights, found.pool, found.spent.activation)
    weights, pool, compute = ([float(value) / 2**20 for value in part[:, 0]] for part in parts)
    return weights, pool, compute, float(found.host[0]) / 2**20


def test_llama_cpp_caches_are_exact_to_the_mebibyte() -> None:
    for row in llama_cpp_rows():
        if row["mainline"] == "no" and "gemma-3" in row["model"]:
            continue  # the fork gave window layers the whole context
        pool_mib = float(np.sum(llama_cpp_stages(row).pool)) / 2**20
        assert pool_mib == pytest.approx(float(row["measured_kv_pool_mib"]), abs=1), row["source"]
    assert len(llama_cpp_rows()) > 30


def test_llama_cpp_compute_buffers_of_whole_models_are_within_nine_percent() -> None:
    """Models with layers or experts in host memory hold more: see below."""
    partly = ("Qwen/Qwen3-235B-A22B", "Qwen/Qwen3-30B-A3B", "deepseek-ai/DeepSeek-V3")
    found = [
        float(np.max(llama_cpp_stages(row).spent.activation)) / 2**20 / float(row["measured_compute_mib"]) - 1
        for row in llama_cpp_rows()
        if row["measured_compute_mib"] and row["mainline"] == "yes" and row["model"] not in partly
    ]
    assert len(found) >= 8
    assert np.max(np.abs(found)) < 0.09


def test_llama_cpp_keeps_its_mask_below_the_logits() -> None:
    """Qwen2.5-Coder-7B Q8_0 on build 7780, Kelsidavis/rusteze@a73b0defa2; gemma-4-26B, ghghang2/v1.6@c5c574035d."""
    weights, pool, compute, _ = placed("Qwen/Qwen2.5-Coder-7B-Instruct", "gguf-q8_0", "fp16", 32768, (999, 1, 0))
    assert (round(weights[0], 2), pool) == (7165.44, [1792.0])
    assert compute == pytest.approx([382.01], abs=0.1)
    _, pool, _, _ = placed("google/gemma-4-26B-A4B-it", "gguf-iq4_nl", "fp16", 16384, (999, 1, 0))
    assert pool == [(640 + 600) / 2]  # of one of its two slots


@pytest.mark.parametrize(
    ("gpus", "cache_mib"),
    [
        (2, [544, 480]),
        (4, [288, 256, 256, 224]),
        (6, [192, 160, 192, 160, 192, 128]),
        (8, [160, 128, 128, 128, 128, 128, 128, 96]),
    ],
)
def test_llama_cpp_spreads_layers_as_its_logs_say(gpus: int, cache_mib: list[float]) -> None:
    """Llama-3-8B at 8192 cells on equal GPUs, XiongjieDai/GPU-Benchmarks-on-LLM-Inference@aa72e0ec86."""
    model = "meta-llama/Meta-Llama-3-8B-Instruct"
    weights, pool, _, _ = placed(model, "gguf-q4_k_m", "fp16", 8192, (999, gpus, 0), fa=False)
    assert pool == cache_mib
    assert sum(weights) == pytest.approx(4403.49, abs=0.1)


def test_llama_cpp_keeps_the_first_layers_and_their_cache_on_the_host() -> None:
    """Qwen2.5-3B Q4_K_M with 35 of 37 layers on the GPU, DzKriMo/Aigis@848ac32cf7."""
    weights, pool, compute, host = placed("Qwen/Qwen2.5-3B-Instruct", "gguf-q4_k_m", "fp16", 2048, (35, 1, 0))
    assert pool == [68.0]
    assert weights[0] == pytest.approx(1740.74, rel=0.005)
    assert compute[0] == pytest.approx(300.75, rel=0.001)
    assert host == pytest.approx(337.51 + 4.0, rel=0.02)


def test_llama_cpp_copies_expert_weights_through_its_compute_buffer() -> None:
    """Qwen3-235B-A22B Q6_K on 2 GPUs: CUDA0 774.00, CUDA1 304.75; no layer on the GPU: 742.00 (ik_llama.cpp 370)."""
    model = "Qwen/Qwen3-235B-A22B"
    _, pool, compute, _ = placed(model, "gguf-q6_k", "q8_0", 16384, (95, 2, 70))
    assert pool == [816.0, 782.0]
    assert compute == pytest.approx([774.0, 304.75], rel=0.001)
    _, _, alone, _ = placed(model, "gguf-q6_k", "q8_0", 16384, (0, 1, 0))
    assert alone == pytest.approx([742.0], rel=0.05)


def test_llama_cpp_runs_stages_in_turn_with_experts_on_the_host() -> None:
    """Qwen3-30B-A3B Q4_K_M at 16384 cells without flash attention: 1080.00 MiB on both GPUs (ik_llama.cpp 514)."""
    weights, pool, compute, host = placed("Qwen/Qwen3-30B-A3B", "gguf-q4_k_m", "fp16", 16384, (49, 2, 48), fa=False)
    assert compute == pytest.approx([1080.0, 1080.0], rel=0.002)
    assert sum(pool) == 1536.0
    assert sum(weights) == pytest.approx(784.42, rel=0.002)
    assert sum(weights) + host == pytest.approx(17.28 * 1024, rel=0.001)  # the file


def test_llama_cpp_keeps_the_embedding_in_host_memory() -> None:
    row = next(row for row in rows("llamacpp_memory.csv") if row["measured_weights_gpu_mib"] == "4403.49")
    weights_mib = float(np.sum(llama_cpp_stages({**row, "measured_compute_gpus": "1"}).spent.weights)) / 2**20
    assert weights_mib == pytest.approx(4403.49, abs=0.1)


def test_tokens_and_sequences_follow_from_the_logged_pool() -> None:
    """The cache manager's rules alone: devices as large as makes the pool what the log says."""
    asked = [q for q in questions() if q.row.file in LOGS and q.scenario.engine == "vllm" and set(q.figures) >= POOLED]
    answered = zip(asked, estimate([q.scenario for q in asked]).rows(), strict=True)
    known = [(q, a) for q, a in answered if not a["error"]]
    exact = []
    for q, a in known:
        missing = (q.figures["kv_pool_gib"] - a["kv_pool_gib"]) / a["gpu_memory_utilization"]
        pinned = {name: a[name] for name in ("max_num_seqs", "max_num_batched_tokens")}
        exact.append(q.scenario.model_copy(update=pinned | {"device_gib": a["device_gib"] + missing}))
    off = {}
    for (q, _), a in zip(known, estimate(exact).rows(), strict=True):
        assert a["kv_pool_gib"] == pytest.approx(q.figures["kv_pool_gib"], abs=1e-3)
        off[q.row.where] = a[SEQUENCES] / q.figures[SEQUENCES] - 1
    assert len(off) > 60
    assert {where: error for where, error in off.items() if abs(error) > 0.01} == {}
