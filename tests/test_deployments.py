"""Columns read part by part say of every deployment what it says itself."""

from __future__ import annotations

import numpy as np

from planner.estimate import estimate
from planner.estimate.deployments import Deployment, Deployments, Part, column, each, limits_of, numbers, parallel
from planner.estimate.layout import layouts
from planner.estimate.library import NO_LIBRARY
from planner.estimate.resolve import resolve
from planner.specs.scenario import Scenario

CARDS, FORMATS, LOADS = ("h100-sxm", "rtx4090", "l4"), ("bf16", "fp8"), (1, 8, 64)


def deployments() -> Deployments:
    asked = [
        Scenario(model="llama-3.1-8b", gpu=gpu, weight_format=name, n_gpus=4, concurrency=load, enforce_eager=load == 8)
        for gpu in CARDS
        for name in FORMATS
        for load in LOADS
    ]
    rows = [resolve(scenario, NO_LIBRARY) for scenario in asked]
    return Deployments(Deployment(row, layout, limits_of(row)) for row in rows for layout in layouts(row))


def check(found: Deployments) -> None:
    def eager(d: Deployment) -> bool:
        return bool(d.row.scenario.enforce_eager)

    assert each(found, lambda d: d.row.gpu.id, Part.GPU) == [d.row.gpu.id for d in found]
    assert each(found, lambda d: (d.row.weights.id, d.layout.tp), Part.WEIGHTS, Part.LAYOUT) == [
        (d.row.weights.id, d.layout.tp) for d in found
    ]
    assert column(found, eager, Part.WORDS, dtype=bool).tolist() == [eager(d) for d in found]
    assert numbers(found, "concurrency").tolist() == [d.row.scenario.concurrency for d in found]
    assert np.asarray(parallel(found).tp).tolist() == [d.layout.tp for d in found]


def test_a_step_of_an_engine_that_cuts_no_prompts_holds_one_beside_all_slots() -> None:
    asked = {"model": "llama-3.1-8b", "gpu": "h100-sxm", "engine": "tensorrt-llm", "output_tokens": 100}
    rows = estimate([Scenario(**asked, input_tokens=tokens) for tokens in (1000, 20000)]).rows()
    assert [row["max_num_batched_tokens"] for row in rows] == [8192, 20000 + 2048]


def test_columns_follow_their_parts() -> None:
    check(deployments())


def test_a_selection_keeps_its_own_parts_whatever_was_read_before() -> None:
    whole = deployments()
    at = np.arange(5, len(whole), 3)
    check(whole.taken(at))
    check(whole)
    check(whole.taken(at[::-1]))


def test_a_value_is_found_once_for_each_part() -> None:
    seen: list[Deployment] = []
    each(deployments(), seen.append, Part.GPU, Part.WEIGHTS)
    assert len(seen) == len(CARDS) * len(FORMATS)
