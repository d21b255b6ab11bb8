"""The search's figures are the estimate's: the same kernels, whatever the engine, model, GPU, format and load."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from planner.catalog import gpus, models
from planner.estimate import estimate
from planner.search import Space, Wish
from planner.search.recommend import tasks
from planner.search.records import Kept
from planner.search.sift import sift
from planner.specs.scenario import Scenario

LOADS = (
    Scenario(input_tokens=2000, output_tokens=500, concurrency=16),
    Scenario(input_tokens=300, output_tokens=900, output_tokens_p95=3000, request_rate_per_s=0.4),
    Scenario(input_tokens=6000, output_tokens=200, shared_prefix_tokens=4000, users=40, think_time_s=20.0),
    Scenario(input_tokens=1000, output_tokens=1, concurrency=4),
)
ENGINES = ("vllm", "sglang", "tensorrt-llm", "llama.cpp", "transformers")


def some(names: tuple[str, ...], count: int, seed: str) -> tuple[str, ...]:
    return tuple(random.Random(seed).sample(names, count))


def kept(load: Scenario, engine: str) -> list[Kept]:
    named = tuple(entry.id for entry in models.model_index() if entry.task == "generate" and entry.parameters < 2e11)
    space = Space(
        models=some(named, 4, engine),
        gpus=some(tuple(gpus.gpu_ids()), 3, engine) + ("h100-sxm", "rtx4090"),
        engines=(engine,),
        tps=(1, 2, 4),
        replicas=(1, 3),
    )
    return [one for task in tasks(load, space, Wish()) for one in sift(task).kept]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("load", LOADS, ids=["closed", "rate", "users", "one token"])
def test_a_search_and_an_estimate_say_the_same(load: Scenario, engine: str) -> None:
    if engine == "transformers" and load.concurrency is None:
        pytest.skip("its memory grows with what is in flight, which only the estimate settles; it has the last word")
    found = kept(load, engine)[::7]
    answers = estimate([load.model_copy(update=one.columns) for one in found]).rows()
    for one, row in zip(found, answers, strict=True):
        for name in ("e2e_ms", "output_tokens_per_s_per_gpu", "usd_per_request", "n_gpus"):
            mine, theirs = one.figures[name], row[name]
            assert (mine is None) == (theirs is None)
            assert mine is None or math.isclose(mine, theirs, rel_tol=1e-9)
        assert row["holds_load"] and row["meets_slo"]


def test_many_loads_on_one_curve_are_the_loads_one_by_one() -> None:
    space = Space(models=("Qwen/Qwen3-8B",), gpus=("h100-sxm",), formats=("fp8",), tps=(2,), replicas=(1,))
    many = space.model_copy(update={"concurrencies": (1, 7, 50, 300)})
    load = LOADS[0]
    together = sift(tasks(load, many, Wish())[0]).kept
    alone = [
        one
        for n in many.concurrencies
        for one in sift(tasks(load, space.model_copy(update={"concurrencies": (n,)}), Wish())[0]).kept
    ]
    figures = [[one.figures["e2e_ms"] for one in some] for some in (together, alone)]
    assert np.allclose(np.array(figures[0], float), np.array(figures[1], float), rtol=1e-12)


@pytest.mark.parametrize("model", ["meta-llama/Llama-3.3-70B-Instruct", "google/gemma-4-26B-A4B", "Qwen/Qwen3-32B"])
def test_published_4_bit_floats_are_what_an_estimate_takes_them_for(model: str) -> None:
    space = Space(models=(model,), gpus=("b200", "h100-sxm"), formats=("nvfp4", "bf16"), tps=(1, 2), replicas=(1,))
    found = [one for task in tasks(LOADS[0], space, Wish()) for one in sift(task).kept]
    rows = estimate([LOADS[0].model_copy(update=one.columns) for one in found]).rows()
    assert "nvfp4" in {row["weight_format"] for row in rows}
    for one, row in zip(found, rows, strict=True):
        assert math.isclose(one.figures["e2e_ms"] or 0.0, row["e2e_ms"], rel_tol=1e-9)
