"""The measured rows that ship: every name resolves, every figure has a source, nothing contradicts itself."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from planner.catalog import engines, formats, gpus, models, truth
from planner.catalog.truth import FILES, excluded_rows, measured_rows
from planner.errors import BadFile

sys.path.insert(0, str(Path(__file__).parent / "truth"))

import other_rows
import serving_rows
import stream_rows
from common import LeftOut

SPEED = ("serving", "serving_other", "single_stream")
ROWS_OF_THE_EXTRACTS = {"serving": 1272, "serving_other": 1743 + 3, "single_stream": 946}  # 3: the rest of a page


@pytest.mark.parametrize("file", SPEED)
def test_every_name_of_a_row_is_known(file: str) -> None:
    for s in {
        s.model_copy(update={"input_tokens": None, "output_tokens": None, "concurrency": None})
        for s in (row.scenario for row in measured_rows(file))
    }:
        assert models.resolve(s.model or "").model.n_layers > 0
        assert gpus.gpu(s.gpu or "").id == s.gpu
        assert engines.engine(s.engine or "", s.engine_version).id == s.engine
        assert s.weight_format is None or formats.weight_format(s.weight_format).id == s.weight_format


@pytest.mark.parametrize("file", FILES)
def test_every_row_has_a_source_and_figures(file: str) -> None:
    for row in measured_rows(file):
        assert row.about["source"], row.where
        if file in SPEED:
            assert row.measured and all(figure > 0 for figure in row.measured.values()), row.where


@pytest.mark.parametrize("file", SPEED)
def test_rows_and_reasons_account_for_every_row_of_the_source(file: str) -> None:
    left_out = sum(row.rows for row in excluded_rows() if row.file == file)
    assert len(measured_rows(file)) + left_out == ROWS_OF_THE_EXTRACTS[file]
    assert all(row.reason and row.rows > 0 for row in excluded_rows())


def test_throughput_of_a_closed_loop_is_concurrency_over_the_time_of_a_request() -> None:
    for row in measured_rows("serving"):
        m, s = row.measured, row.scenario
        e2e_ms = m["ttft_ms"] + ((s.output_tokens or 0) - 1) * m["tpot_ms"]
        assert m["e2e_ms"] == pytest.approx(e2e_ms, rel=1e-4)
        assert m["output_tokens_per_s"] == pytest.approx(
            (s.concurrency or 0) * (s.output_tokens or 0) / e2e_ms * 1e3, rel=1e-4
        )


def test_sweeps_offer_ten_waves_and_say_whether_their_source_does() -> None:
    protocols = Counter((row.about["protocol"], row.scenario.waves) for row in measured_rows("serving"))
    assert protocols == {("closed", 10.0): 463, ("unstated", 10.0): 653}


def test_no_row_counts_several_instances_as_one() -> None:
    assert max(row.scenario.tp or 1 for file in SPEED for row in measured_rows(file)) <= 16


def test_a_cell_that_cannot_be_read_names_its_place() -> None:
    with pytest.raises(BadFile, match=r"serving\.csv line 7: measured_tpot_ms 'fast'"):
        truth._row("serving", 7, {"model": "x", "measured_tpot_ms": "fast", "source": "y"})


def stream(**cells: str) -> dict[str, Any]:
    row = dict.fromkeys(
        "engine version model hf_id format params_b gpu n_gpu test tokens_per_s flash_attn source quote".split(), ""
    )
    row |= {"engine": "llama.cpp", "model": "Llama 3 8B", "format": "Q4_K_M", "gpu": "RTX 4090", "n_gpu": "1"}
    return stream_rows.convert(row | {"tokens_per_s": "100", "source": "ggml-org/llama.cpp"} | cells)


def test_the_micro_batch_is_read_from_the_table() -> None:
    quote = "| gpt-oss 20B MXFP4 MoE |  11.27 GiB |    20.91 B | CUDA |  99 |     2048 |  1 |    0 | pp2048 | 4505.82 |"
    assert stream(test="pp2048", quote=quote)["n_ubatch"] == 2048
    without = "| llama 8B Q4_K - Medium |   4.58 GiB |     8.03 B | CUDA       |  99 | pp 512     |  7003.51 |"
    assert stream(test="pp512", quote=without)["n_ubatch"] is None


def test_a_dynamic_mix_is_marked() -> None:
    row = stream(test="tg128", format="UD-Q4_K_XL")
    assert (row["weight_format"], row["note"]) == ("gguf-q4_k_xl", "dynamic mix")


def test_a_prompt_at_depth_finds_its_context_cached() -> None:
    row = stream(test="pp2048@d4096")
    assert (row["input_tokens"], row["output_tokens"]) == (6144, 1)
    assert row["cached_input_fraction"] == pytest.approx(4096 / 6144)


def test_generation_at_depth_reads_that_context() -> None:
    row = stream(test="tg32@d8192")
    assert (row["input_tokens"], row["output_tokens"]) == (8192, 32)
    assert row["measured_output_tokens_per_s_per_request"] == 100


def test_micro_batches_are_asked_as_such() -> None:
    assert stream(test="pp512 microbatch=8")["n_ubatch"] == 8


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"test": "tg128", "gpu": "A100 80GB (330W power limit)"}, "power-capped"),
        ({"test": "tg128", "engine": "exllamav2"}, "not in the contract"),
        ({"test": "tg128", "gpu": "A100 (variant unstated)"}, "variant not stated"),
        ({"test": "tg128", "model": "Nobody's 9B"}, "not bundled"),
        ({"test": "pp512", "format": "F16", "gpu": "A100 SXM 80GB"}, "broken run"),
    ],
)
def test_rows_that_mean_something_else_are_left_out(cells: dict[str, str], reason: str) -> None:
    with pytest.raises(LeftOut, match=reason):
        stream(**cells)


def serving(**cells: str) -> dict[str, Any]:
    row = {"model": "openai/gpt-oss-120b", "weight_precision": "nvfp4", "engine": "vllm", "engine_version": "0.15.1"}
    row |= {"gpu": "b200", "image": "", "tp": "2.0", "pp": "1.0", "moe_ep": "1.0", "attention_dp": "1.0", "source": "x"}
    row |= {
        "mean_input_tokens": "922.0",
        "mean_output_tokens": "922.0",
        "concurrency": "32.0",
        "measured": "2026-01-01",
    }
    return serving_rows.convert(row | {"ttft_ms": "50.0", "tpot_ms": "5.0"} | cells)


def test_experts_of_gpt_oss_are_mxfp4_whatever_the_label() -> None:
    assert serving()["weight_format"] == "mxfp4"
    assert serving()["waves"] == 10


def test_a_run_that_is_reported_twice_counts_once() -> None:
    again = serving(measured="", mean_input_tokens="1024.0", tpot_ms="5.001")
    assert serving_rows.without_repeats([serving(), again]) == [serving()]
    other = serving(measured="", tpot_ms="6.0")
    assert serving_rows.without_repeats([serving(), other]) == [serving(), other]


@pytest.mark.parametrize("tp", ["24.0", "12.0"])
def test_tensor_parallel_sizes_that_no_engine_runs_are_left_out(tp: str) -> None:
    with pytest.raises(LeftOut, match="counted as one"):
        serving(tp=tp)


def other(**cells: str) -> dict[str, Any]:
    row = dict.fromkeys("version format kv_dtype pp ep request_rate ttft_ms tpot_ms quote source".split(), "")
    row |= {
        "engine": "vLLM",
        "model": "Qwen/Qwen3-8B",
        "gpu": "H200",
        "n_gpu": "2",
        "tp": "2",
        "isl": "1000",
        "osl": "500",
    }
    return other_rows.convert(row | {"concurrency": "64", "value": "1000", "unit": "tok/s"} | cells)


def test_rates_per_gpu_become_rates_of_the_deployment() -> None:
    row = other(metric="output_throughput_per_gpu", unit="tok/s/GPU", value="700")
    assert row["measured_output_tokens_per_s"] == 1400


def test_input_and_output_together_are_split_by_length() -> None:
    row = other(metric="total_throughput_per_gpu (in+out)", unit="tok/s/GPU (in+out)", value="900")
    assert row["measured_output_tokens_per_s"] == pytest.approx(900 * 2 * 500 / 1500)


def test_vendor_maxima_offer_every_request_at_once() -> None:
    row = other(
        engine="TensorRT-LLM (trtllm-bench, pytorch backend)", metric="output_throughput_total", isl="2048", osl="128"
    )
    assert (row["protocol"], row["waves"], row["concurrency"]) == ("offline", 1, 3000)


def test_a_decoding_batch_has_its_prompts_in_the_cache() -> None:
    row = other(metric="decode_throughput_batched (S_TG)", concurrency="8", value="400")
    assert row["cached_input_fraction"] == 1
    assert row["measured_tpot_ms"] == pytest.approx(20)


def test_replicas_divide_the_cards() -> None:
    row = other(metric="output_throughput_total (2 replicas)", n_gpu="8", tp="4")
    assert (row["tp"], row["dp"]) == (4, 2)


def test_speculative_runs_are_left_out() -> None:
    with pytest.raises(LeftOut, match="speculative"):
        other(engine="SGLang + speculative decoding", metric="output_throughput_total")
