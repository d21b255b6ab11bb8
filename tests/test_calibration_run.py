import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from planner.calibration import process
from planner.calibration.budget import Remaining, expected_s
from planner.calibration.cases import Case
from planner.calibration.journal import Journal
from planner.calibration.process import Wish
from planner.calibration.run import Progress, calibrate, finish, header, journal_path, opened, rule_of, so_far
from planner.calibration.suite import anchor, cases, ordered
from planner.calibration.timing import Fault
from planner.catalog import runs
from planner.errors import BadFile, BadValue, PlannerError
from planner.specs.run import Mode, Run, Status
from tests.calibration_victim import MACHINE, NOW, go_on, plan
from tests.fake_gpu import MIB, FakeDevice

POINTS = 12


def whole(folder: Path, resume: bool = False, device: FakeDevice | None = None) -> Run:
    wish = plan(folder, POINTS)
    return calibrate(wish, device or FakeDevice(), opened(wish, resume, NOW), pause=lambda seconds: None)


def test_a_run_measures_every_point_and_says_how_far_it_is(tmp_path: Path) -> None:
    wish, said = plan(tmp_path, POINTS), list[Progress]()
    journal = opened(wish, False, NOW)
    run = calibrate(wish, FakeDevice(), journal, said.append, pause=lambda seconds: None)
    assert len(run.points) == POINTS + 2 == said[-1].done == said[-1].total
    assert {point.status for point in run.points} == {Status.OK} and run.created == "2026-11-20T10:00:00Z"
    assert runs.read_run(finish(run, tmp_path, journal)) == run
    assert not journal.path.exists()


@pytest.mark.parametrize("stop", [0, 1, 5, POINTS])
def test_a_resumed_run_equals_an_uninterrupted_one(stop: int, tmp_path: Path) -> None:
    path = journal_path(tmp_path, MACHINE)
    uninterrupted = whole(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[: 1 + stop]) + lines[-1][: 30 * (stop > 0)])  # and a torn line
    device = FakeDevice()
    assert whole(tmp_path, resume=True, device=device) == uninterrupted
    measured = {case.key for case, _ in device.loads}
    assert len(measured) <= POINTS + 1 - max(0, stop - 1)


def test_without_resume_a_run_starts_anew(tmp_path: Path) -> None:
    first, second = whole(tmp_path), whole(tmp_path)
    assert first.id != second.id
    assert len(journal_path(tmp_path, MACHINE).read_bytes().splitlines()) == POINTS + 3


def test_a_run_of_another_driver_is_not_resumed(tmp_path: Path) -> None:
    whole(tmp_path)
    newer = plan(tmp_path, POINTS)._replace(environment=MACHINE.model_copy(update={"driver": "590.1"}))
    with pytest.raises(BadValue, match="without --resume"):
        opened(newer, True, NOW)


def test_a_damaged_journal_starts_anew(tmp_path: Path) -> None:
    path = journal_path(tmp_path, MACHINE)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\x00\xff not json\n")
    assert len(whole(tmp_path, resume=True).points) == POINTS + 2


def test_a_full_disk_keeps_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wish = plan(tmp_path, POINTS)
    journal, flush, calls = opened(wish, False, NOW), os.fsync, list[int]()

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(BadFile, match=r"No space left.*--resume"):
            calibrate(wish, FakeDevice(), journal, pause=lambda seconds: None)
    assert runs.stored_runs(tmp_path) == ((), ())
    reopened = Journal.reopen(journal.path)
    assert reopened is not None and len(reopened.points) >= 4
    assert len(go_on(tmp_path, POINTS).points) == POINTS + 2


def test_a_full_disk_at_the_end_leaves_no_part_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, journal = whole(tmp_path), Journal.reopen(journal_path(tmp_path, MACHINE))
    assert journal is not None

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BadFile, match="cannot be written"):
        finish(run, tmp_path, journal)
    assert list(tmp_path.glob("h200-sxm/*")) == [] and journal.path.exists()


def test_a_crash_right_after_the_run_was_written_costs_nothing(tmp_path: Path) -> None:
    run, journal = whole(tmp_path), Journal.reopen(journal_path(tmp_path, MACHINE))
    assert journal is not None
    written = runs.write_run(run, tmp_path)
    again = whole(tmp_path, resume=True)
    assert finish(again, tmp_path, journal) == written and not journal.path.exists()
    assert runs.read_run(written) == run


def test_fifty_kills_never_show_a_torn_file(tmp_path: Path, root: Path) -> None:
    command = [sys.executable, "-m", "tests.calibration_victim", str(tmp_path), "50"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("50 kills") and runs.stored_runs(tmp_path).damaged == ()
    (first, *_) = runs.stored_runs(tmp_path).runs
    assert len(first.run.points) == 42


def test_names_of_runs_say_when_and_nothing_else(tmp_path: Path) -> None:
    found = header(plan(tmp_path), NOW)
    assert found.id.startswith("20261120t100000z-") and len(found.id) == 23


def test_a_kernel_that_takes_the_device_down_costs_its_own_point_only(tmp_path: Path) -> None:
    def fall(case: Case) -> None:
        if case.kernel == "torch.int-mm":
            raise Fault("illegal memory access")

    wish = plan(tmp_path, 100)
    culprits = sum(case.kernel == "torch.int-mm" for case in wish.cases)
    assert 0 < culprits < 10
    for _ in range(culprits):
        with pytest.raises(Fault):
            calibrate(wish, FakeDevice(on_load=fall), opened(wish, True, NOW), pause=lambda seconds: None)
    run = calibrate(wish, FakeDevice(on_load=fall), opened(wish, True, NOW), pause=lambda seconds: None)
    lost = [point for point in run.points if point.status is Status.FAILED]
    assert {point.kernel for point in lost} == {"torch.int-mm"} and len(lost) == culprits
    assert "illegal memory access" in lost[0].note


def test_a_lost_device_is_taken_up_by_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers, asked = iter([Fault("one"), Fault("two"), tmp_path / "run.json"]), []

    def child(number: int, wish: Wish, show: object) -> Path | Fault:
        asked.append(wish.resume)
        return next(answers)

    monkeypatch.setattr(process, "_one_child", child)
    assert process.in_child(0, Wish(Mode.QUICK, tmp_path), print) == tmp_path / "run.json"
    assert asked == [False, True, True]


def _hangs(pipe: Any, number: int, wish: Wish) -> None:
    """A child that hangs at its fourth point, unless an earlier one did."""
    pipe.send(Progress(0, 9, "compiling kernels"))
    pipe.send(Progress(3, 9, "measuring", 1.0))
    if wish.hung:
        pipe.send(wish.folder / f"{min(wish.hung)}.json")
    time.sleep(60)


def test_a_child_that_hangs_is_ended_and_told_to_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_child", _hangs)
    monkeypatch.setattr(process, "MOST_SILENT_S", 5.0)
    assert process.in_child(0, Wish(Mode.QUICK, tmp_path), lambda at: None) == tmp_path / "3.json"


def test_a_kernel_that_hung_is_left_out_and_said_to_be(tmp_path: Path) -> None:
    wish = plan(tmp_path, POINTS)
    journal = opened(wish, False, NOW)
    at = next(i for i, case in enumerate(ordered(wish.cases, wish.anchor, journal.header.seed)) if not case.anchor)
    run = calibrate(wish._replace(hung=frozenset({at})), FakeDevice(), journal, pause=lambda seconds: None)
    kernel = run.points[at].kernel
    assert {p.kernel for p in run.points if p.status is Status.FAILED} == {kernel}
    assert all("did not come back" in p.note for p in run.points if p.kernel == kernel)


def test_what_a_run_that_never_ended_has_measured_is_a_run(tmp_path: Path) -> None:
    run = whole(tmp_path)
    path = journal_path(tmp_path, MACHINE)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:5]))
    journal = Journal.reopen(path)
    assert journal is not None and so_far(journal).points == run.points[:4]
    assert runs.read_run(runs.write_run(so_far(journal), tmp_path)).id == run.id


def test_a_device_that_is_lost_again_and_again_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_one_child", lambda *arguments: Fault("bad address"))
    with pytest.raises(PlannerError, match="took the device down, the last: bad address"):
        process.in_child(0, Wish(Mode.QUICK, tmp_path), print)


def test_the_time_left_follows_what_points_should_take_and_what_they_took() -> None:
    now = [0.0]
    left = Remaining([1.0, 1.0, 100.0], clock=lambda: now[0])
    assert left.s(0) == 102.0  # a count would say nothing of the long one
    now[0] = 20.0
    assert 100.0 < left.s(2) < 1000.0 and left.s(3) == 0.0  # slower than expected


def test_the_whole_suite_should_end_within_three_minutes_and_a_quick_one_within_one() -> None:
    device = FakeDevice(l2_bytes=60 * MIB)
    for mode, most_s in ((Mode.FULL, 130), (Mode.QUICK, 30)):  # the rest is for starting and compiling
        found = ordered(cases(device.able, mode), anchor(device.able, mode), 1)
        assert sum(expected_s(case, device, rule_of(mode)) for case in found) < most_s
