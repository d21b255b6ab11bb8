"""Results of benchmarks: read, laid beside the estimate, flagged, kept, and what kept ones do to estimates."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from planner.catalog import observed
from planner.catalog.observations import Reading, parse_results
from planner.cli.main import run
from planner.errors import BadFile, BadValue
from planner.estimate import Library, estimate
from planner.estimate.refine import shrunk
from planner.observe import compared, observation, scenario_of
from planner.specs.observation import Observation, Tool
from planner.specs.scenario import Scenario

TABLE = """
  Device 0: NVIDIA GeForce RTX 4090, compute capability 8.9, VMM: yes
| model                  |     size |  params | backend | ngl | n_ubatch | fa |          test |              t/s |
| ---------------------- | -------: | ------: | ------- | --: | -------: | -: | ------------: | ---------------: |
| llama 8B Q4_K - Medium | 4.58 GiB |  8.03 B | CUDA    |  99 |     1024 |  1 |         pp512 | 9000.10 ± 21.00  |
| llama 8B Q4_K - Medium | 4.58 GiB |  8.03 B | CUDA    |  99 |     1024 |  1 | tg128 @ d4096 |  131.50 ± 0.23   |

build: 1234567 (6413)
"""
BENCH = {
    "build_commit": "1234567",
    "build_number": 6413,
    "gpu_info": "NVIDIA GeForce RTX 4090, NVIDIA GeForce RTX 4090",
    "model_filename": "/home/somebody/secret/Qwen3-8B-Q4_K_M.gguf",
    "model_type": "qwen3 8B Q4_K - Medium",
    "n_ubatch": 512,
    "type_k": "q8_0",
    "type_v": "q8_0",
    "n_gpu_layers": 99,
    "split_mode": "layer",
    "flash_attn": True,
    "n_prompt": 0,
    "n_gen": 128,
    "n_depth": 0,
    "avg_ts": 120.0,
}
SERVE = {
    "endpoint_type": "vllm",
    "model_id": "/data/models/Qwen/Qwen3-8B",
    "request_rate": "inf",
    "max_concurrency": 16,
    "duration": 50.0,
    "completed": 160,
    "failed": 0,
    "total_input_tokens": 160 * 1024,
    "total_output_tokens": 160 * 256,
    "request_throughput": 3.2,
    "output_throughput": 1500.0,
    "mean_ttft_ms": 90.0,
    "mean_tpot_ms": 9.0,
    "mean_e2el_ms": 2400.0,
}
GUIDELLM = {
    "args": {"model": "Qwen/Qwen3-8B"},
    "benchmarks": [
        {
            "config": {"strategy": {"type_": "concurrent", "streams": 8}},
            "metrics": {
                "request_totals": {"successful": 80, "errored": 0},
                "prompt_token_count": {"successful": {"mean": 512.0}},
                "output_token_count": {"successful": {"mean": 128.0}},
                "time_to_first_token_ms": {"successful": {"mean": 60.0}},
                "inter_token_latency_ms": {"successful": {"mean": 8.5}},
                "request_latency": {"successful": {"mean": 1.14}},
                "output_tokens_per_second": {"successful": {"mean": 890.0}},
            },
        }
    ],
}
AIPERF = {
    "request_count": {"unit": "requests", "avg": 80.0},
    "request_latency": {"unit": "ms", "avg": 1140.0},
    "time_to_first_token": {"unit": "ms", "avg": 60.0},
    "inter_token_latency": {"unit": "ms", "avg": 8.5},
    "output_token_throughput": {"unit": "tokens/sec", "avg": 890.0},
    "input_sequence_length": {"unit": "tokens", "avg": 512.0},
    "output_sequence_length": {"unit": "tokens", "avg": 128.0},
    "input_config": {
        "endpoint": {"model_names": ["Qwen/Qwen3-8B"], "url": "10.0.0.1:8000"},
        "loadgen": {"concurrency": 8, "request_rate_mode": "concurrency_burst"},
    },
    "telemetry_data": {
        "endpoints": {"10.0.0.1:9400": {"gpus": {"gpu_0": {"gpu_name": "NVIDIA H100 80GB HBM3", "hostname": "h"}}}}
    },
}
INFERENCEX = {
    "hw": "h200-trt",
    "framework": "trt",
    "precision": "fp8",
    "model": "meta-llama/Llama-3.3-70B-Instruct",
    "tp": 4,
    "ep": 1,
    "dp_attention": "false",
    "conc": 32,
    "isl": 1024,
    "osl": 1024,
    "tput_per_gpu": 900.0,
    "output_tput_per_gpu": 450.0,
    "mean_ttft": 0.12,
    "mean_tpot": 0.017,
    "mean_e2el": 17.5,
}


def read(document: Any) -> Reading:
    (reading,) = parse_results(json.dumps(document).encode(), "result.json")
    return reading


def test_the_table_of_llama_bench_says_card_build_and_tests() -> None:
    prompt, answer = parse_results(TABLE.encode(), "bench.md")
    assert (prompt.gpu, prompt.columns["engine_version"]) == ("NVIDIA GeForce RTX 4090", "b6413")
    assert (prompt.columns["n_ubatch"], prompt.columns["flash_attention"], prompt.columns["backend"]) == (
        1024,
        True,
        "cuda",
    )
    assert prompt.measured == {"prefill_tokens_per_s": 9000.10}
    assert (answer.columns["input_tokens"], answer.columns["output_tokens"]) == (4096, 128)
    assert scenario_of(answer, {"model": "llama-3-8b"}).weight_format == "gguf-q4_k_m"


def test_llama_bench_says_what_it_was_built_for() -> None:
    built = [read([BENCH | {"backends": text}]).columns.get("backend") for text in ("Metal,BLAS", "Vulkan", "CPU")]
    assert built == ["metal", "vulkan", None]


def test_a_record_of_llama_bench_names_model_format_and_split() -> None:
    scenario = scenario_of(read([BENCH]), {})
    assert (scenario.model, scenario.weight_format, scenario.kv_format) == ("Qwen3-8B-Q4_K_M", "gguf-q4_k_m", "q8_0")
    assert (scenario.gpu, scenario.n_gpus, scenario.pp) == ("rtx4090", 2, 2)


def test_csv_and_json_lines_of_llama_bench_say_the_same() -> None:
    record = {name: value for name, value in BENCH.items() if "," not in str(value)}
    lines = parse_results((json.dumps(record) + "\n" + json.dumps(record)).encode(), "bench.jsonl")
    text = ",".join(record) + "\n" + ",".join(str(value) for value in record.values()) + "\n"
    (cells,) = parse_results(text.encode(), "bench.csv")
    assert len(lines) == 2
    assert lines[0].columns == cells.columns
    assert lines[0].measured == cells.measured


def test_a_prompt_with_its_answer_is_an_end_to_end_time() -> None:
    reading = read([BENCH | {"n_prompt": 512, "n_gen": 128, "avg_ts": 320.0}])
    assert reading.measured == {"e2e_ms": pytest.approx(2000.0)}


def test_a_serving_result_states_load_and_protocol() -> None:
    reading = read(SERVE)
    assert reading.tool is Tool.VLLM_SERVE
    assert (reading.columns["concurrency"], reading.columns["waves"]) == (16, 10.0)
    assert (reading.columns["input_tokens"], reading.columns["output_tokens"]) == (1024, 256)
    assert reading.measured["tpot_ms"] == 9.0
    assert scenario_of(reading, {"gpu": "h100-sxm"}).model == "Qwen/Qwen3-8B"


def test_a_rate_is_open_loop() -> None:
    columns = read(SERVE | {"request_rate": 2.5, "max_concurrency": None}).columns
    assert (columns["request_rate_per_s"], columns["waves"]) == (2.5, 0.0)
    assert "concurrency" not in columns


def test_sglang_lines_are_read_with_their_infinities() -> None:
    line = {name: value for name, value in SERVE.items() if name not in ("endpoint_type", "model_id", "mean_e2el_ms")}
    line |= {
        "backend": "sglang",
        "mean_e2e_latency_ms": 2400.0,
        "server_info": {"model_path": "Qwen/Qwen3-8B", "tp_size": 2},
    }
    text = json.dumps(line | {"request_rate": math.inf})
    (reading,) = parse_results(text.encode(), "bench.jsonl")
    assert (reading.tool, reading.columns["engine"], reading.columns["tp"]) == (Tool.SGLANG_SERVE, "sglang", 2)
    assert reading.model == "Qwen/Qwen3-8B"


def test_load_generators_give_the_same_reading() -> None:
    first, second = read(GUIDELLM), read(AIPERF)
    assert first.measured.items() >= {"tpot_ms": 8.5, "ttft_ms": 60.0, "output_tokens_per_s": 890.0}.items()
    assert second.measured == first.measured
    assert second.columns == first.columns
    assert (first.gpu, second.gpu) == ("", "NVIDIA H100 80GB HBM3")


def test_inferencex_counts_gpus_and_seconds() -> None:
    reading = read(INFERENCEX)
    assert reading.measured == {
        "output_tokens_per_s": 1800.0,
        "ttft_ms": 120.0,
        "tpot_ms": 17.0,
        "e2e_ms": 17500.0,
    }
    scenario = scenario_of(reading, {})
    assert (scenario.gpu, scenario.engine, scenario.weight_format, scenario.tp) == (
        "h200-sxm",
        "tensorrt-llm",
        "fp8",
        4,
    )


def test_throughput_and_latency_need_lengths() -> None:
    offline = read({"elapsed_time": 10.0, "num_requests": 100, "total_num_tokens": 6e4, "tokens_per_second": 6e3,
                    "requests_per_second": 10.0})  # fmt: skip
    with pytest.raises(BadValue, match="how long the prompts were; give --input-tokens"):
        scenario_of(offline, {"model": "qwen3-8b", "gpu": "h100-sxm"})
    latency = read({"avg_latency": 2.5, "latencies": [2.4, 2.6], "percentiles": {}})
    assert latency.measured == {"e2e_ms": 2500.0}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (SERVE, "on which GPU it ran; give --gpu"),
        (SERVE | {"model_id": None}, "which model ran; give --model"),
        (SERVE | {"model_id": "/srv/our-own-thing"}, "model 'our-own-thing' is not known; give --model"),
    ],
)
def test_what_a_file_does_not_say_is_asked_for(document: Any, message: str) -> None:
    with pytest.raises(BadValue, match=message):
        scenario_of(read(document), {})


@pytest.mark.parametrize("data", [b"", b"{}", b"[1, 2]", b"hello", b"\xff\xfe", b'{"benchmarks": [1]}', b"| a | b |\n"])
def test_other_files_are_refused_in_a_line(data: bytes) -> None:
    with pytest.raises(BadFile):
        parse_results(data, "x")


def compared_with(**figures: float) -> tuple[str, ...]:
    found = compared([read(SERVE)._replace(measured=figures)], {"gpu": "h100-sxm"})
    return found[0].faults


def test_what_the_hardware_cannot_do_is_flagged() -> None:
    # 16.4 GB of weights take 4.5 ms of an H100's 3.35 TB/s with everything else left out
    assert "tokens were drafted" in compared_with(tpot_ms=3.0)[0]
    assert "prompts were cached" in compared_with(ttft_ms=2.0)[0]
    assert compared_with(tpot_ms=9.5) == ()


def test_what_the_file_says_itself_is_flagged() -> None:
    drafted = compared([read(SERVE | {"accept_length": 2.4})], {"gpu": "h100-sxm"})[0]
    assert drafted.faults[0].startswith("tokens were drafted: 2.40")
    with pytest.raises(BadValue, match="not kept"):
        observation(drafted)


def test_impossible_parallel_sizes_are_flagged() -> None:
    (found,) = compared([read(SERVE)], {"gpu": "h100-sxm", "tp": 32})
    assert found.faults[0].startswith("tp 32")
    (found,) = compared([read(SERVE)], {"gpu": "h100-sxm", "tp": 3})
    assert "cannot be one deployment" in found.faults[0]


def kept(**columns: Any) -> Observation:
    (found,) = compared([read(SERVE)], {"gpu": "h100-sxm"} | columns)
    return observation(found)


def test_nothing_but_columns_and_figures_is_kept(tmp_path: Path) -> None:
    (found,) = compared([read([BENCH])], {})
    path, new = observed.keep(observation(found), tmp_path)
    assert new
    assert not observed.keep(observation(found), tmp_path)[1]
    text = path.read_text("utf-8")
    assert "somebody" not in text
    assert "/home" not in text
    assert json.loads(text)["scenario"]["model"] == "Qwen/Qwen3-8B"


def test_a_damaged_observation_is_left_aside(tmp_path: Path) -> None:
    observed.keep(kept(), tmp_path)
    (tmp_path / "broken.json").write_text("{", "utf-8")
    (tmp_path / "foreign.json").write_text('{"a": 1}', "utf-8")
    assert len(observed.kept(observed.stamp(tmp_path))) == 1


def test_one_observation_moves_the_factor_part_of_the_way() -> None:
    # k = (ln 1.085 / ln 1.135)^2 = 0.415: one says 71 %, nine say 96 %
    assert shrunk([math.log(1.2)], 0.085, 0.135) == pytest.approx(1.2 ** (1 / 1.415), rel=1e-3)
    assert shrunk([math.log(1.2)] * 9, 0.085, 0.135) == pytest.approx(1.2 ** (9 / 9.415), rel=1e-3)
    assert shrunk([], 0.085, 0.135) == 1.0


def with_observations(scenario: Scenario, *known: Observation) -> dict[str, Any]:
    return estimate(scenario, library=Library(observations=known)).rows()[0]


def test_observations_refine_the_same_engine_on_the_same_gpu_alone() -> None:
    plain = with_observations(kept().scenario)
    slow = kept().model_copy(update={"measured": {"tpot_ms": 1.3 * plain["tpot_ms"]}})
    found = with_observations(slow.scenario, slow)
    assert found["engine_evidence"] == "observed"
    assert 1 < found["observed_decode_factor"] < 1.3
    assert found["tpot_ms"] / plain["tpot_ms"] == pytest.approx(found["observed_decode_factor"], rel=0.05)
    other = slow.scenario.model_copy(update={"gpu": "l40s"})
    assert with_observations(other, slow)["tpot_ms"] == with_observations(other)["tpot_ms"]


def test_a_refined_step_never_falls_below_the_hardware() -> None:
    plain = with_observations(kept().scenario)
    fast = kept().model_copy(update={"measured": {"tpot_ms": 0.51 * plain["tpot_ms"]}})
    alone = fast.scenario.model_copy(update={"concurrency": 1, "waves": 0.0})
    assert with_observations(alone, *[fast] * 9)["tpot_ms"] >= 16.38e9 / 3.35e12 * 1e3 * 0.9


def test_figures_twice_away_refine_nothing() -> None:
    plain = with_observations(kept().scenario)
    far = kept().model_copy(update={"measured": {"tpot_ms": 2.5 * plain["tpot_ms"]}})
    assert with_observations(far.scenario, far)["engine_evidence"] == "transferred"


def test_the_command_compares_and_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PLANNER_OBSERVATIONS_DIR", str(tmp_path / "kept"))
    file = tmp_path / "serve.json"
    file.write_text(json.dumps(SERVE), "utf-8")
    assert run(["observe", str(file), "--gpu", "h100-sxm", "--keep"]) == 0
    said = capsys.readouterr().out
    assert "tpot_ms" in said
    assert "kept 1 of 1" in said
    assert run(["observe", str(file), "--gpu", "h100-sxm", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["figure"] for row in rows} >= {"tpot_ms", "ttft_ms"}
    assert all(row["refined"] is not None for row in rows)
    scenario = ["--model", "qwen3-8b", "--gpu", "h100-sxm", "--engine", "vllm", "--json"]
    assert run(["estimate", *scenario]) == 0
    assert json.loads(capsys.readouterr().out)[0]["engine_evidence"] == "observed"


def test_the_command_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "serve.json"
    file.write_text(json.dumps(SERVE), "utf-8")
    assert run(["observe", str(file)]) == 2
    assert "give --gpu" in capsys.readouterr().err
