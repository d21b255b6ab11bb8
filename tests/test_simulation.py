from __future__ import annotations

import json

import numpy as np
import pytest

from planner.cli.main import run
from planner.estimate.single import priced_scenario
from planner.events import Reach, StepTable, Trace
from planner.ops import Batch
from planner.simulation import Protocol, engine_limits, simulate_columns, simulation, step_time
from planner.specs.scenario import Scenario

VARIED = {"input_tokens": 1024, "output_tokens": 256, "input_tokens_p95": 1536, "output_tokens_p95": 384}
LONG = {"input_tokens": 4096, "output_tokens": 512, "input_tokens_p95": 6000, "output_tokens_p95": 768}


def scenario(model="llama-3.1-8b", engine="vllm", **more) -> Scenario:
    return Scenario(**({"model": model, "engine": engine, "gpu": "h100-sxm"} | VARIED | more))


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
@pytest.mark.parametrize("model", ["llama-3.1-8b", "qwen3-30b-a3b", "gpt-oss-120b"])
@pytest.mark.parametrize(
    "load",
    [
        {"concurrency": 1},
        {"concurrency": 8},
        {"concurrency": 32, **LONG},
        {"request_rate_per_s": 2.0},
        {"request_rate_per_s": 0.5, **LONG},
        {"users": 40, "think_time_s": 20.0},
    ],
    ids=str,
)
def test_below_saturation_it_agrees_with_the_steady_state(engine, model, load) -> None:
    more = {"tp": 2 if model == "gpt-oss-120b" else 1}
    requests = 600 if "concurrency" in load else 6000  # random arrivals come in swarms, which few requests show
    row = simulation(scenario(model, engine, **more, **load), Protocol(requests)).row
    assert row["tpot_mean_ms"] == pytest.approx(row["tpot_ms"], rel=0.05)
    assert row["simulated_output_tokens_per_s"] == pytest.approx(row["output_tokens_per_s"], rel=0.05)


@pytest.mark.parametrize(
    ("model", "lengths", "concurrency"),
    [
        ("qwen3-30b-a3b", (400, 200), 64),  # one prompt fits in the largest graph beside the decodes, two do not
        ("qwen3-30b-a3b", (400, 200), 128),  # one fits if it is short
        ("llama-3.1-8b", (200, 200), 200),
        ("deepseek-ai/deepseek-llm-7b-chat", (300, 30), 36),
        ("deepseek-ai/deepseek-llm-7b-chat", (300, 30), 37),
        ("gpt-oss-120b", (1024, 256), 8),  # its largest graph holds the shorter half of these prompts
    ],
)
def test_steps_on_both_sides_of_the_largest_graph_count_by_their_share(model, lengths, concurrency) -> None:
    sizes = dict(zip(("input_tokens", "output_tokens"), lengths, strict=True))
    tp = 2 if model == "gpt-oss-120b" else 1
    asked = Scenario(model=model, engine="vllm", gpu="h100-sxm", tp=tp, concurrency=concurrency, **sizes)
    row = simulation(asked, Protocol(1500)).row
    assert row["tpot_mean_ms"] == pytest.approx(row["tpot_ms"], rel=0.04)
    assert row["simulated_output_tokens_per_s"] == pytest.approx(row["output_tokens_per_s"], rel=0.04)


@pytest.mark.parametrize("pp", [2, 4])
@pytest.mark.parametrize("load", [{"concurrency": 6}, {"concurrency": 32}, {"request_rate_per_s": 4.0}], ids=str)
def test_a_pipeline_whose_stages_wait_agrees_with_the_steady_state(pp, load) -> None:
    row = simulation(scenario(pp=pp, tp=1, **load), Protocol(600 if "concurrency" in load else 6000)).row
    assert row["tpot_mean_ms"] == pytest.approx(row["tpot_ms"], rel=0.05)
    assert row["simulated_output_tokens_per_s"] == pytest.approx(row["output_tokens_per_s"], rel=0.05)


@pytest.mark.parametrize(
    ("asked", "load"),
    [
        ({"model": "deepseek-r1", "engine": "sglang", "gpu": "h200-sxm", "tp": 8, "attention_dp": 8}, (8192, 1024, 64)),
        ({"model": "deepseek-r1", "engine": "sglang", "gpu": "h200-sxm", "tp": 8, "attention_dp": 8}, (900, 1024, 64)),
        (
            {
                "model": "qwen3-235b-a22b",
                "engine": "sglang",
                "gpu": "h200-sxm",
                "tp": 4,
                "attention_dp": 4,
                "weight_format": "fp8",
            },
            (4096, 256, 128),
        ),
        (
            {"model": "gpt-oss-120b", "engine": "vllm", "gpu": "b200", "tp": 4, "ep": 4, "attention_dp": 4},
            (4096, 256, 128),
        ),
    ],
    ids=str,
)
def test_attention_ranks_that_schedule_for_themselves_agree_with_the_steady_state(asked, load) -> None:
    sizes = dict(zip(("input_tokens", "output_tokens", "concurrency"), load, strict=True))
    row = simulation(Scenario(**asked | sizes), Protocol(1000)).row
    assert row["tpot_mean_ms"] == pytest.approx(row["tpot_ms"], rel=0.07)
    assert row["simulated_output_tokens_per_s"] == pytest.approx(row["output_tokens_per_s"], rel=0.07)


@pytest.mark.parametrize("load", [{"output_tokens": 64}, {"output_tokens": 128, "request_rate_per_s": 60.0}], ids=str)
def test_a_front_end_bounds_the_requests_of_a_simulation_as_of_an_estimate(load) -> None:
    asked = {"model": "llama-3.1-8b", "engine": "tensorrt-llm", "gpu": "b200", "tp": 2, "input_tokens": 128}
    row = simulation(Scenario(**asked | {"concurrency": 128} | load), Protocol(1000)).row
    assert row["simulated_requests_per_s"] == pytest.approx(row["requests_per_s"], rel=0.05)


def test_slots_that_follow_the_load_refuse_no_request_longer_than_the_mean() -> None:
    row = simulation(scenario(engine="llama.cpp", concurrency=4), Protocol(100)).row
    assert row["refused"] == 0


@pytest.mark.parametrize("lengths", [(1000, 1000), (2000, 500), (500, 2000)], ids=str)
@pytest.mark.parametrize("shortest", [0.8, 1.0])
def test_a_full_pool_that_sets_requests_back_agrees_with_the_steady_state(lengths, shortest) -> None:
    sizes = dict(zip(("input_tokens", "output_tokens"), lengths, strict=True))
    load = {"concurrency": 200, "waves": 0, "shortest_fraction": shortest} | sizes
    asked = Scenario(model="llama-3.1-8b", engine="vllm", gpu="rtx4090", weight_format="fp8", **load)
    row = simulation(asked, Protocol(1000)).row
    assert row["preemptions"] > 200
    assert row["simulated_output_tokens_per_s"] == pytest.approx(row["output_tokens_per_s"], rel=0.03)
    assert row["tpot_mean_ms"] == pytest.approx(row["tpot_ms"], rel=0.1)


@pytest.mark.parametrize("model", ["llama-3.1-8b", "qwen3-30b-a3b", "gpt-oss-120b", "gemma-3-27b"])
def test_the_table_reads_the_steps_of_the_estimate(model) -> None:
    p, random, count = priced_scenario(scenario(model, tp=2, concurrency=8)), np.random.default_rng(0), 400
    step_s = step_time(p)
    table = StepTable(step_s, Reach(256, 20_000, 8192, graph_tokens=int(p.offered.capacity.graph_batch[0])))
    n, context = random.integers(1, 257, count), random.uniform(100, 20_000, count)
    tokens, prompts = random.integers(16, 8193, count), random.integers(1, 9, count)
    before = np.where(prompts == 1, random.uniform(0, 10_000, count), 0.0)
    decode = [table.decode_s(*x) for x in zip(n.tolist(), context.tolist(), strict=True)]
    states = zip(n.tolist(), context.tolist(), tokens.tolist(), before.tolist(), prompts.tolist(), strict=True)
    mixed = np.array([table.mixed_s(*x) for x in states]) / step_s(Batch(n, context, tokens, before, prompts)) - 1
    assert np.max(np.abs(np.array(decode) / step_s(Batch(n, context)) - 1)) < 0.03
    assert np.mean(np.abs(mixed)) < 0.005
    assert np.percentile(np.abs(mixed), 99) < 0.06


@pytest.mark.parametrize(("model", "tp"), [("llama-3.1-8b", 1), ("gpt-oss-120b", 2), ("gemma-3-27b", 2)])
def test_the_pool_holds_as_many_as_the_estimate_says(model, tp) -> None:
    p = priced_scenario(scenario(model, tp=tp, concurrency=8, input_tokens=8000, output_tokens=1000))
    pool = engine_limits(p).pool
    half_way = pool.fixed_blocks + np.ceil((8000 + 500) / pool.block_tokens)
    room = float(p.plan.kv.max_concurrency_expected[0])
    assert min(pool.blocks / half_way, engine_limits(p).slots) == pytest.approx(room, rel=0.03)


def test_more_requests_than_the_pool_holds_wait_or_are_preempted() -> None:
    tight = {"concurrency": 120, "input_tokens": 4000, "output_tokens": 4000, "gpu_memory_utilization": 0.5}
    row = simulation(scenario(input_tokens_p95=6000, output_tokens_p95=6000, **tight), Protocol(requests=200)).row
    assert row["preemptions"] > 0
    assert row["queue_p99"] > 1


def scenario_of(**more) -> dict:
    return simulation(scenario(**more), Protocol(requests=100)).row


def test_a_cached_history_shortens_the_first_token() -> None:
    plain, cached = (scenario_of(concurrency=1, cached_input_fraction=share) for share in (0.0, 0.9))
    assert cached["ttft_p50_ms"] < 0.6 * plain["ttft_p50_ms"]


def test_drafted_tokens_shorten_the_time_per_token() -> None:
    drafting = {"draft_model": "llama-3.2-1b", "speculative_tokens": 3, "acceptance_rate": 0.9}
    assert scenario_of(concurrency=1, **drafting)["tpot_mean_ms"] < scenario_of(concurrency=1)["tpot_mean_ms"]


def test_replicas_share_the_load() -> None:
    one, two = (scenario_of(concurrency=64, tp=1, dp=dp) for dp in (1, 2))
    assert two["tpot_mean_ms"] < 0.9 * one["tpot_mean_ms"]


def test_a_deployment_that_does_not_start_has_no_figures() -> None:
    found = simulation(scenario("llama-3.1-70b", tp=1, concurrency=1))
    assert found.run is None
    assert all(found.row[name] is None for name in simulate_columns())


def test_an_encoder_writes_nothing() -> None:
    row = simulation(Scenario(model="bge-m3", gpu="h100-sxm", concurrency=8), Protocol(requests=50)).row
    assert row["simulated_output_tokens_per_s"] == 0
    assert row["simulated_requests_per_s"] > 0


def test_a_run_at_a_rate_is_counted_from_its_first_request_to_its_last_end() -> None:
    row = scenario_of(request_rate_per_s=8, run_requests=400)
    assert row["simulated_requests"] == 400
    assert row["simulated_output_tokens_per_s"] < 0.99 * 8 * 256


def test_a_trace_replaces_the_load() -> None:
    trace = Trace(np.array([0.0, 1.0, 2.0]), np.full(3, 500.0), np.full(3, 20.0))
    found = simulation(scenario(concurrency=1), Protocol(trace=trace))
    assert found.row["simulated_requests"] == 3
    assert found.run is not None
    assert found.run.requests.sent_s.tolist() == [0.0, 1.0, 2.0]


FLAGS = ["simulate", "--model", "llama-3.1-8b", "--gpu", "h100-sxm", "--requests", "50"]


def test_the_command_prints_one_document_with_the_columns_of_the_contract(capsys) -> None:
    assert run([*FLAGS, "--concurrency", "2,4", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    contract = {f"{time}_{part}_ms" for time in ("ttft", "tpot", "e2e") for part in ("p50", "p90", "p99")}
    assert len(rows) == 2
    assert contract | {"queue_p99", "preemptions", "slo_attainment", "ttft_ms"} <= set(rows[0])


def test_the_command_repeats_itself_by_seed(capsys) -> None:
    texts = []
    for seed in ("1", "1", "2"):
        run([*FLAGS, "--request-rate-per-s", "3", "--seed", seed, "--csv", "-"])
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]


def test_the_command_writes_the_timeline(tmp_path, capsys) -> None:
    assert run([*FLAGS, "--concurrency", "4", "--timeline", str(tmp_path / "t.csv")]) == 0
    assert (tmp_path / "t.csv").read_text().startswith("scenario,time_s,waiting,running,kv_used")
    assert "time to first token" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--trace", "no.csv"], "no such file"),
        (["--trace", "no.csv", "--burst"], "give one of them"),
        (["--gpu", "h10"], "did you mean"),
        (["--users", "10000000", "--think-time-s", "10"], "at most 1000000"),
        (["--routing", "random"], "round-robin"),
    ],
)
def test_bad_input_is_one_line(more, says, capsys) -> None:
    assert run([*FLAGS, *more]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
