"""A fine-tuning run in words: terms that add up, formulas that can be followed, changes that fit."""

from __future__ import annotations

import re
from typing import Any

import pytest

from planner.explain.training import peak_parts, training_changes, training_formulas, training_verdict
from planner.finetuning import estimate_finetune
from planner.specs.finetune import FinetuneScenario

LLAMA = "meta-llama/Meta-Llama-3.1-8B"
RUNS: tuple[dict[str, Any], ...] = (
    {"method": "qlora", "gpu": "rtx4090", "seq_len": 4096},
    {"method": "full", "gpu": "h100-sxm", "n_gpus": 8, "sharding": "zero3"},
    {"method": "lora", "gpu": "a100-80-sxm", "batch_size": 4, "grad_accum": 4, "gradient_checkpointing": "none"},
    {"method": "full", "gpu": "h200-sxm", "optimizer": "adafactor", "framework": "torchtune"},
    {"method": "lora", "gpu": "l40s", "train_embeddings": True, "framework": "unsloth", "seq_len": 8192},
)
ALL = pytest.mark.parametrize("columns", RUNS, ids=lambda columns: f"{columns['method']}-{columns['gpu']}")


def rows(runs: list[FinetuneScenario]) -> list[dict[str, Any]]:
    return estimate_finetune(runs).rows()


def row_of(columns: dict[str, Any]) -> dict[str, Any]:
    return rows([FinetuneScenario(model=LLAMA, **columns)])[0]


@ALL
def test_terms_at_the_peak_add_up_to_it(columns: dict[str, Any]) -> None:
    row = row_of(columns)
    assert sum(part.gib for part in peak_parts(row)) == pytest.approx(row["peak_gib"])


@ALL
def test_every_formula_has_figures_a_source_and_its_evidence(columns: dict[str, Any]) -> None:
    for formula in training_formulas(row_of(columns)):
        assert all(re.search(r"\d", line) or "host" in line for line in formula.lines)
        assert formula.source and formula.evidence


def test_an_equation_of_adam_is_the_planners_own_figure() -> None:
    row = row_of({"method": "full", "gpu": "h100-sxm", "n_gpus": 8, "sharding": "zero3"})
    optimizer = next(item for item in training_formulas(row) if item.title == "Optimizer")
    count, states, width, master, gpus, gib = map(
        float, re.findall(r"\d+(?:\.\d+)?", optimizer.lines[0].replace(",", ""))
    )
    assert count * (states * width + master) / gpus / 2**30 == pytest.approx(gib, rel=0.01)


@pytest.mark.parametrize("columns", [{"method": "full"}, {"method": "qlora", "seq_len": 16384, "batch_size": 2}])
def test_every_change_of_what_does_not_fit_makes_it_fit(columns: dict[str, Any]) -> None:
    run = FinetuneScenario(model=LLAMA, gpu="rtx4090", **columns)
    row = rows([run])[0]
    found = training_changes(run, row, rows)  # type: ignore[arg-type]
    assert row["fits"] is False and found
    assert all(rows([run.model_copy(update=item.update)])[0]["fits"] for item in found)


def test_the_verdict_says_by_how_much() -> None:
    row = row_of({"method": "full", "gpu": "rtx4090"})
    said = training_verdict(row)
    assert said.state == "no" and said.headline.endswith("GiB short.")
    shown = float(said.headline.split()[-3].replace(",", ""))
    assert abs(shown - (row["peak_gib"] - row["available_gib"])) < 0.05 * (row["peak_gib_high"] - row["peak_gib_low"])


def test_what_fits_tightly_is_said_to_be_tight() -> None:
    run = FinetuneScenario(model=LLAMA, method="lora", gpu="rtx4090")
    peak = rows([run])[0]["peak_gib"]
    row = rows([run.model_copy(update={"device_gib": peak * 1.02})])[0]
    assert training_verdict(row).state == "tight"
