"""Whether an engine starts, near the line: refusals that users quote word for word, and starts just above them."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from planner.accuracy.rows import questions
from planner.accuracy.score import label
from planner.catalog.engines import parse_version
from planner.catalog.scenarios import scenarios_from_flags
from planner.estimate import estimate
from planner.specs.scenario import Scenario
from tests.test_engine_logs import LOGS, compared

QWEN = "Qwen/Qwen2.5-7B-Instruct"
CARD: dict[str, Any] = {"gpu": "rtx3090", "engine_version": "0.19.0", "max_model_len": 8192}


class Case(NamedTuple):
    """A start or a refusal; `wrong` says why the planner is known to answer it wrongly."""

    columns: dict[str, str]
    starts: bool
    pool_gib: float | None  # as the engine printed it, None where it did not
    says: str
    wrong: str


def cases() -> Iterator[Case]:
    path = Path(__file__).with_name("decisions.csv")
    for row in csv.DictReader(path.read_text("utf-8").splitlines()):
        columns = {name: text for name, text in row.items() if name in Scenario.model_fields and text}
        pool_gib = float(row["pool_gib"]) if row["pool_gib"] else None
        yield Case(columns, row["starts"] == "yes", pool_gib, row["says"], row["wrong"])


def answer(one: Case) -> dict[str, Any]:
    return estimate(scenarios_from_flags(one.columns | {"input_tokens": "500", "output_tokens": "100"})).rows()[0]


def known(one: Case) -> Any:
    marks = [pytest.mark.xfail(reason=one.wrong, strict=True)] if one.wrong else []
    name = one.columns["model"].split("/")[-1]
    return pytest.param(one, marks=marks, id=f"{name} {one.columns.get('max_model_len', '')}: {one.says}")


@pytest.mark.parametrize("one", [known(one) for one in cases()])
def test_a_start_near_the_line_is_told_from_a_refusal(one: Case) -> None:
    found = answer(one)
    assert found["error"] is None
    assert found["starts"] == one.starts, found["reason"]


def test_the_pools_of_these_cases_are_near_what_the_engine_printed() -> None:
    printed = [one for one in cases() if one.pool_gib is not None]
    misses = [abs(answer(one)["kv_pool_gib"] - max(one.pool_gib or 0.0, 0.0)) for one in printed]
    assert len(misses) > 30 and np.median(misses) < 0.8


def test_no_row_that_started_is_refused_and_none_that_failed_is_passed() -> None:
    """Rows of engine logs that state what a plan needs: pool left for at least one sequence of max_model_len."""
    wrong = []
    for one in compared():
        room = float(one.stages.available[0, 0])
        needed = float(one.stages.table.token_bytes[0, 0])
        starts = room >= needed
        if starts != (one.row["measured_starts"] == "yes"):
            wrong.append(one.row["source"])
    assert not wrong


def test_a_pool_near_the_line_is_tight() -> None:
    """0.41 and 0.49 GiB in two starts of one configuration, where 0.44 are needed: no figure can tell."""
    close = {"model": QWEN, "gpu_memory_utilization": 0.65} | CARD
    assert estimate(Scenario(engine="vllm", **close)).rows()[0]["fit_confidence"] == "tight"


FRACTION = 0.85  # of devices that are made up: graphs and context have room beside it


def moved(share: float, since: str = "0.8") -> dict[tuple[str, str | None], tuple[bool, bool]]:
    """Every configuration whose log states its pool, on a device that lacks (or spares) `share` of itself for one
    sequence of max_model_len: what the engine spent stays what it was. Whether it is passed, and whether surely.
    """
    found = [
        q
        for q in questions()
        if q.row.file in LOGS and q.stated and "kv_pool_gib" in q.figures and q.scenario.max_model_len
    ]
    found = [q for q in found if (parse_version(q.scenario.engine_version or "") or ()) >= parse_version(since)]
    asked, names = [], []
    for q, a in zip(found, estimate([q.scenario for q in found]).rows(), strict=True):
        if a["error"] or q.scenario.engine != "vllm":
            continue
        one = a["kv_pool_gib"] / a["max_concurrency_at_max_model_len"]
        device = (a["budget_gib"] - q.figures["kv_pool_gib"] + one) / FRACTION * (1 + share)
        pinned = {name: a[name] for name in ("max_num_seqs", "max_num_batched_tokens")}
        pinned |= {"device_gib": device, "gpu_memory_utilization": FRACTION}
        asked.append(q.scenario.model_copy(update=pinned))
        names.append((label(q.row.scenario), q.scenario.engine_version))
    answers = estimate(asked).rows()
    return {name: (a["starts"], a["fit_confidence"] == "yes") for name, a in zip(names, answers, strict=True)}


@pytest.mark.parametrize(("share", "most_wrong"), [(-0.025, 0.01), (0.025, 0.05)])
def test_starts_within_a_fortieth_of_the_device_are_told_from_refusals(share: float, most_wrong: float) -> None:
    found = moved(share)
    wrong = [name for name, (starts, _) in found.items() if starts != (share > 0)]
    assert len(found) > 40
    assert len(wrong) <= most_wrong * len(found), wrong
