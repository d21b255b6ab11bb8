"""Whether the 80 % intervals of memory hold what engines logged, and what half of the models says of the other half.

python -m tests.test_memory_intervals    # prints both
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from planner.accuracy.rows import questions
from planner.accuracy.score import label
from planner.estimate import estimate

FILES = ("engine_memory", "engine_starts", "llamacpp_memory", "weights", "blind_memory", "blind_llamacpp")
FIGURES = ("weights_gib", "activation_gib", "kv_pool_gib")
WANTED = 82  # per cent inside, for refitted widths


@cache
def distances(figure: str) -> dict[str, list[float]]:
    """Of every configuration that states all, by model: |measured - predicted| in half-widths of its interval.

    Figures that llama.cpp's intervals cannot miss, because its cache is allocated for the load, are left out.
    """
    asked = [q for q in questions() if q.row.file in FILES and q.stated and figure in q.figures]
    if figure == "kv_pool_gib":
        asked = [q for q in asked if q.scenario.engine != "llama.cpp"]
    found: dict[tuple[str, str | None], tuple[str, float]] = {}
    for q, a in zip(asked, estimate([q.scenario for q in asked]).rows(), strict=True):
        if not a["error"] and a[figure]:
            half = max((a[f"{figure}_high"] - a[f"{figure}_low"]) / 2, 1e-9)
            name = (q.row.scenario.model or "").rpartition("/")[2].lower()
            found[label(q.row.scenario), q.scenario.engine_version] = name, abs(q.figures[figure] - a[figure]) / half
    by_model: dict[str, list[float]] = {}
    for name, distance in found.values():
        by_model.setdefault(name, []).append(distance)
    return by_model


def halves(figure: str) -> tuple[np.ndarray, np.ndarray]:
    """Distances of every second model, and of the others."""
    models = sorted(distances(figure).items())
    one, two = ([d for _, each in models[first::2] for d in each] for first in (0, 1))
    return np.array(one), np.array(two)


def refitted(figure: str) -> list[tuple[float, float]]:
    """Factor on the widths that one half of the models asks for, and how much of the other half is inside then."""
    one, two = halves(figure)
    pairs = ((one, two), (two, one))
    return [(float(np.percentile(a, WANTED)), float(np.mean(b <= np.percentile(a, WANTED)))) for a, b in pairs]


@pytest.mark.parametrize("figure", FIGURES)
def test_most_rows_lie_inside_and_not_all(figure: str) -> None:
    assert 0.75 <= float(np.mean(np.concatenate(halves(figure)) <= 1)) <= 0.90


@pytest.mark.parametrize("figure", FIGURES)
def test_widths_that_half_of_the_models_ask_for_hold_the_others(figure: str) -> None:
    assert 0.7 <= float(np.mean([inside for _, inside in refitted(figure)])) <= 0.92


if __name__ == "__main__":
    for each in FIGURES:
        shares = [f"{inside:.0%} of the others at {factor:.2f} times the width" for factor, inside in refitted(each)]
        every = np.concatenate(halves(each))
        print(f"{each:15} {len(every)} configurations, {np.mean(every <= 1):.0%} inside; {', '.join(shares)}")
