"""The whole check against real llama.cpp servers: one model of random weights in three formats."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("xllamacpp")
pytest.importorskip("gguf")
pytest.importorskip("openai")
pytest.importorskip("scipy")

from quality.llama import WORDS, served, write_model

from planner.cli.main import run

N = 120
GREEDY = ("--max-tokens", "6", "--tolerance-points", "5", "--json")


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    folder = tmp_path_factory.mktemp("llama")
    models = {kind: write_model(folder / f"{kind}.gguf", kind) for kind in ("F32", "Q8_0", "Q4_0")}
    with served(models["F32"]) as f32, served(models["Q8_0"]) as q8, served(models["Q4_0"]) as q4:
        yield {"F32": f32, "Q8_0": q8, "Q4_0": q4}


@pytest.fixture(scope="module")
def examples(urls: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts whose reference is what the unquantized model says."""
    folder = tmp_path_factory.mktemp("examples")
    prompts = [{"id": f"e{i}", "prompt": " ".join(WORDS[(i * k) % 26] for k in (1, 3, 5, 7))} for i in range(N)]
    asked = write(folder / "asked.jsonl", [row | {"scorers": [{"kind": "contains", "text": "x"}]} for row in prompts])
    sides = ("--baseline", urls["F32"], "--candidate", urls["F32"], "--baseline-model", "m", "--candidate-model", "m")
    assert run(["quality-check", str(asked), *sides, *GREEDY, "--journal", str(folder / "first")]) == 0
    said = [json.loads(line) for line in (folder / "first" / "baseline.jsonl").read_text("utf-8").splitlines()[1:]]
    outputs = {row["id"]: row["output"] for row in said}
    return write(folder / "mine.jsonl", [row | {"reference": outputs[row["id"]]} for row in prompts])


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.mark.parametrize(("kind", "verdict"), [("F32", "holds"), ("Q4_0", "cracks")])
def test_formats_of_the_same_weights_are_told_apart(
    urls: dict[str, str], examples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, verdict: str
) -> None:
    sides = ("--baseline", urls["F32"], "--candidate", urls[kind], "--baseline-model", "m", "--candidate-model", "m")
    capsys.readouterr()
    assert run(["quality-check", str(examples), *sides, *GREEDY, "--journal", str(tmp_path)]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["verdict"] == verdict and said["unanswered"] == 0
    assert said["candidate"]["mean_completion_tokens"] == 6 and said["candidate"]["cut_rate"] == 1
    assert said["observations"]["candidate"]["total_output_tokens"] == 6 * N


def test_eight_bits_lose_less_than_four(
    urls: dict[str, str], examples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sides = ("--baseline", urls["Q8_0"], "--candidate", urls["Q4_0"], "--baseline-model", "m", "--candidate-model", "m")
    capsys.readouterr()
    assert run(["quality-check", str(examples), *sides, *GREEDY, "--journal", str(tmp_path)]) == 0
    whole = json.loads(capsys.readouterr().out)["parts"][0]
    assert whole["candidate_percent"] < whole["baseline_percent"] < 100
