"""Figures on public operator data; they need its folder: DATA=folder pytest tests/test_opdata.py."""

import os
from pathlib import Path

import pytest

from planner.calibration.fit import fit
from planner.catalog.gpus import gpu
from tests.opdata.convert import GPUS, convert
from tests.opdata.figures import SMALL_BATCH, _readings, errors, layer_sums, on_held_back

DATA = os.environ.get("DATA")
pytestmark = pytest.mark.skipif(not DATA, reason="DATA names no folder of operator tables")
GEMM, DECODE = "gemm-16", "attention-decode-16"


@pytest.fixture(scope="module")
def found() -> dict[str, dict]:
    results = {}
    for name in GPUS:
        run, held = convert(Path(str(DATA)), name)
        wanted = run.model_copy(update={"points": tuple(p for p in run.points if p.family in (GEMM, DECODE))})
        calibration = fit(wanted, gpu(run.gpu))
        sums = layer_sums(name, _readings(wanted.points), held)
        results[name] = {"errors": on_held_back(calibration, held), "sums": sums}
    return results


def median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


@pytest.mark.parametrize(("family", "most"), [(GEMM, 0.07), (DECODE, 0.05)])
def test_held_back_shapes_are_met_within_five_per_cent(family: str, most: float, found) -> None:
    medians = [result["errors"][family].median for result in found.values() if family in result["errors"]]
    assert median(medians) <= 0.05 and max(medians) <= most


def test_sums_over_layers_that_were_held_back(found) -> None:
    small = [(p, m) for result in found.values() for tokens, p, m in result["sums"] if tokens <= SMALL_BATCH]
    error = errors(*zip(*small, strict=True))
    assert error.points > 100 and error.median <= 0.03 and error.p90 <= 0.09
