"""The fitted constants of vLLM's memory, refitted on half of the models and scored on the other half.

python -m tests.test_memory_holdout    # prints both errors of every constant
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest

from planner.catalog.engines import engine, parse_version
from tests.test_engine_logs import Compared, Row, compare, number, stated_rows

Error = Callable[[Row, float], float]  # of a row's measured term with the constant at a value


class Constant(NamedTuple):
    """A fitted constant: its field, the values that a refit tries, the term and the versions that it rests on."""

    section: str
    field: str
    values: tuple[float, ...]
    term: str
    measured: str
    since: str
    before: str
    least_tp: int = 1
    most_tp: int = 99


GIB = 2.0**30
STEPS = tuple(np.arange(0.05, 4.0, 0.01) * GIB)
CONSTANTS = {
    "logits_bytes, before 0.17": Constant(
        "activation", "logits_bytes", tuple(range(20, 56, 2)), "activation", "measured_activation_gib", "0.8", "0.17"
    ),
    "logits_bytes, from 0.17": Constant(
        "activation", "logits_bytes", tuple(range(6, 24)), "activation", "measured_activation_gib", "0.17", "0.22"
    ),
    "non-torch, one GPU, from 0.18": Constant(
        "process", "non_torch_bytes", STEPS[:60], "non_torch", "measured_non_torch_gib", "0.18", "0.22", 1, 1
    ),
    "non-torch, several GPUs, from 0.18": Constant(
        "process", "group_bytes", STEPS, "non_torch", "measured_non_torch_gib", "0.18", "0.22", 2
    ),
}


class Scores(NamedTuple):
    """Mean absolute errors with a constant fitted to some models: on them, and on models it has not seen."""

    value: float
    seen: float
    unseen: float
    models: tuple[int, int]


def used(constant: Constant) -> list[Row]:
    """Rows that the constant can be told from."""
    low, high = parse_version(constant.since) or (), parse_version(constant.before) or ()
    return [
        row
        for row in stated_rows()
        if row[constant.measured]
        and float(row[constant.measured]) > 0
        and int(row["pp"] or 1) == 1
        and low <= (parse_version(row["engine_version"]) or ()) < high
        and constant.least_tp <= number(row, "tp", 1) <= constant.most_tp
    ]


@cache
def error(name: str, index: int, value: float) -> float:
    """Relative error of one row's term with the constant at `value`."""
    constant = CONSTANTS[name]
    row = used(constant)[index]
    spec = engine("vllm", row["engine_version"])
    changed = getattr(spec, constant.section).model_copy(update={constant.field: value})
    found: Compared = compare(row, spec.model_copy(update={constant.section: changed}))
    return abs(found.error(constant.term, constant.measured))


def mean_error(name: str, rows: Sequence[int], value: float) -> float:
    return float(np.mean([error(name, row, value) for row in rows]))


def folds(name: str) -> tuple[list[int], list[int], tuple[int, int]]:
    """Rows of every second model, and of the others; rows of one model stay together."""
    names = [row["model"].split("/")[-1].lower() for row in used(CONSTANTS[name])]
    first = set(sorted(set(names))[::2])
    halves = [[i for i, model in enumerate(names) if (model in first) is half] for half in (True, False)]
    return halves[0], halves[1], (len(first), len(set(names)) - len(first))


def scores(name: str) -> list[Scores]:
    """Each half fitted, the other one scored."""
    one, two, (first, second) = folds(name)
    found = []
    for seen, unseen, count in ((one, two, (first, second)), (two, one, (second, first))):
        if seen and unseen:
            best = min(CONSTANTS[name].values, key=lambda value: mean_error(name, seen, value))
            found.append(Scores(best, mean_error(name, seen, best), mean_error(name, unseen, best), count))
    return found


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("logits_bytes, before 0.17", 0.12),
        ("logits_bytes, from 0.17", 0.06),
        ("non-torch, one GPU, from 0.18", 0.20),
        ("non-torch, several GPUs, from 0.18", 0.05),
    ],
)
def test_a_constant_fitted_to_half_of_the_models_holds_for_the_others(name: str, limit: float) -> None:
    found = scores(name)
    assert len(found) == 2
    assert max(score.unseen for score in found) < limit


def test_refits_agree_with_the_constant_that_ships() -> None:
    for name in ("logits_bytes, before 0.17", "logits_bytes, from 0.17"):
        spec = engine("vllm", "0.12" if "before" in name else "0.19")
        for score in scores(name):
            assert score.value == pytest.approx(spec.activation.logits_bytes, rel=0.15)


if __name__ == "__main__":
    for each in CONSTANTS:
        unit = GIB if CONSTANTS[each].section == "process" else 1
        for one_score in scores(each):
            seen_models, unseen_models = one_score.models
            print(
                f"{each:38} {one_score.value / unit:6.2f}  seen {one_score.seen:6.1%} ({seen_models} models)  "
                f"unseen {one_score.unseen:6.1%} ({unseen_models} models)"
            )
