"""The suite on a real GPU: a short run of every family, its fit, and a second run that agrees with it."""

from pathlib import Path

import pytest

from planner.calibration.compare import compared
from planner.calibration.fit import fit
from planner.calibration.process import Wish, in_child, machine
from planner.catalog.gpus import gpu
from planner.catalog.runs import read_run
from planner.errors import PlannerError
from planner.specs.run import Flag, Mode, Run, Status

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Run:
    try:
        machine((0,))
    except PlannerError as error:
        pytest.skip(str(error))
    folder: Path = tmp_path_factory.mktemp("runs")
    return read_run(in_child(0, Wish(Mode.QUICK, folder, force=True), lambda progress: None))


def test_nearly_every_point_is_measured(quick: Run) -> None:
    done = [point for point in quick.points if point.status is Status.OK]
    assert len(done) >= 0.95 * len(quick.points)
    assert not [p for p in quick.points if p.status is Status.FAILED]


def test_nothing_is_faster_than_the_hardware(quick: Run) -> None:
    assert not [p for p in quick.timed() if Flag.ABOVE_LIMIT in p.flags]


def test_the_anchor_stays_where_it_was(quick: Run) -> None:
    times = [p.timing.median_s for p in quick.timed() if p.anchor and p.timing]
    assert max(times) / min(times) < 1.1


def test_the_fit_meets_held_back_shapes(quick: Run) -> None:
    found = fit(quick, gpu(quick.gpu))
    for name in ("gemm-16", "attention-decode-16"):
        family = found.family(name)
        assert family is not None and family.held_out is not None and family.held_out.median < 0.12


def test_a_second_run_agrees(quick: Run, tmp_path: Path) -> None:
    again = read_run(in_child(0, Wish(Mode.QUICK, tmp_path, force=True), lambda progress: None))
    assert all(abs(change.median_change_percent) < 5 for change in compared(quick, again))
