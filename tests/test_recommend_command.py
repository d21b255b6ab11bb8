"""`planner recommend` as people and scripts meet it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from planner.catalog.models import model
from planner.catalog.presets import presets
from planner.cli.main import run
from planner.search.judge import judge

SMALL = "--model Qwen/Qwen3-8B,Qwen/Qwen3-32B --gpu l4,h100-sxm --input-tokens 2000 --output-tokens 300".split()
Program = Callable[..., tuple[int, str, str]]


@pytest.fixture
def program(capsys: pytest.CaptureFixture[str]) -> Program:
    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(["recommend", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def document(program: Program, *arguments: str) -> dict[str, Any]:
    code, out, err = program(*arguments, "--json")
    assert (code, err) == (0, "")
    return dict(json.loads(out))


def test_json_holds_candidates_and_what_was_rejected_with_reasons(program: Program) -> None:
    found = document(program, *SMALL, "--concurrency", "8", "--n-gpus", "1")
    assert found["candidates"][0]["rank"] == 1
    assert found["rejected"] and all(row["reason_code"] and row["reason"] for row in found["rejected"])
    assert sum(found["reasons"].values()) + len(found["candidates"]) == found["combinations"]
    assert found["launch"].startswith("vllm serve")


def test_the_winner_of_a_load_states_its_replicas(program: Program) -> None:
    found = document(program, *SMALL, "--users", "400", "--think-time-s", "10", "--tpot-slo-ms", "40", "--tp", "2")
    best = found["candidates"][0]
    assert best["replicas"] > 1
    assert best["n_gpus"] == best["replicas"] * best["gpus_per_replica"] == best["replicas"] * 2
    assert f"{best['replicas']} replicas × tp 2 on {best['n_gpus']} ×" in found["verdict"]
    assert best["meets_slo"]


def test_a_model_that_writes_nothing_is_said_to_answer(program: Program) -> None:
    code, out, _ = program("--model", "BAAI/bge-m3", "--gpu", "l4", "--n-gpus", "1", "--concurrency", "16")
    assert code == 0 and "requests/s" in out and "tokens/s after" not in out


def test_csv_has_a_line_for_every_candidate(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "found.csv"
    code, out, _ = program(*SMALL, "--concurrency", "8", "--csv", str(path))
    lines = list(csv.DictReader(io.StringIO(path.read_text("utf-8"))))
    assert code == 0 and "Start it" in out
    assert [line["rank"] for line in lines] == [str(n + 1) for n in range(len(lines))]


def test_report_and_compose_file_are_written_whole(program: Program, tmp_path: Path) -> None:
    report, compose = tmp_path / "a.html", tmp_path / "compose.yaml"
    program(*SMALL, "--concurrency", "8", "--html", str(report), "--compose", str(compose))
    text = report.read_text("utf-8")
    assert "<script" not in text and "Rejected of" in text
    assert len(yaml.safe_load(compose.read_text("utf-8"))["services"]) == 1


@pytest.mark.parametrize("name", presets())
def test_every_preset_gives_an_answer(program: Program, name: str) -> None:
    found = document(program, "--preset", name, "--model", "Qwen/Qwen3-8B", "--gpu", "h100-sxm")
    assert found["candidates"] or found["verdict"]
    if name == "swarm":
        assert {row["n_gpus"] for row in found["candidates"]} == {1}


def test_what_is_given_comes_before_the_preset(program: Program) -> None:
    rows = document(program, "--preset", "chat", "--concurrency", "5", "--gpu", "l4", "--model", "Qwen/Qwen3-8B")
    assert {row["concurrency"] for row in rows["candidates"]} == {5}


REFUSED = {
    "--price h100-sxm=0": "price h100-sxm=0 must be above 0",
    "--price h100-sxm=-2": "must be above 0",
    "--price h100-sxm=nan": "is not a number",
    "--usd-per-gpu-hour 0": "a price of 0",
    "--usd-per-gpu-hour -1": "is below 0",
    "--usd-per-gpu-hour inf": "is not a number",
    "--max-usd-per-hour 0": "must be above 0",
    "--max-gpus 2.5": "max_gpus",
    "--concurrency 1e300": "is out of range",
    "--users 99999999999999999": "is above",
    "--input-tokens -5": "is below 0",
    "--request-rate-per-s 1e30": "is above",
    "--gpu h10": "did you mean 'h100-sxm'?",
    "--preset cat": "did you mean 'chat'?",
    "--weight-format int99": "unknown weight format",
    "--engine vlm": "did you mean 'vllm'?",
    "--blend speed=1": "shares are 0 to 1 of quality",
    "--blend quality=0": "at least one share",
    "--parameters 8:9:2": "is not a number",
    "--parameters 5000:6000": "no bundled model",
    "--input-tokens 1,2": "one value",
    "--task-family juggling": "juggling",
}


@pytest.mark.parametrize("flags", REFUSED)
def test_what_cannot_be_searched_is_one_line(program: Program, flags: str) -> None:
    gpu = [] if "--gpu" in flags else ["--gpu", "l4"]
    model = [] if "--parameters" in flags else ["--model", "Qwen/Qwen3-8B"]
    code, out, err = program(*gpu, *model, *flags.split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert REFUSED[flags] in err


def test_two_documents_for_one_output_are_refused_before_anything_is_searched(program: Program) -> None:
    code, out, err = program(*SMALL, "--json", "--csv", "-")
    assert (code, out) == (2, "")
    assert "--csv" in err


def test_objectives_out_of_reach_name_the_limit_and_the_best(program: Program) -> None:
    found = document(program, *SMALL, "--concurrency", "4", "--tpot-slo-ms", "0.5")
    assert found["candidates"] == []
    assert "TPOT of 0.5 ms is out of reach: the best is" in found["verdict"]
    assert found["best_reached"]["tpot_slo_ms"]["value"] > 0.5


def test_a_batch_asks_for_good_answers_for_the_money(program: Program) -> None:
    best = document(program, "--preset", "batch", "--gpu", "l40s", "--n-gpus", "2")["candidates"][0]
    assert best["quality_score"] > judge(model("gemma-3-4b-it"), "bf16", "bf16").score
