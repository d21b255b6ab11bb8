"""A calibration without torch: the bundled kernels over the driver alone, on memory of the host and the emulator."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planner.calibration import process, suite, timing
from planner.calibration import run as running
from planner.calibration.environment import check_installed
from planner.calibration.fit import fit
from planner.calibration.gpu import CudaDevice
from planner.calibration.graphs import Graph, Tuner
from planner.calibration.kernels import launch
from planner.calibration.kernels.bare import OutOfMemoryError, Runtime
from planner.calibration.kernels.catalogue import kernel_named
from planner.calibration.kernels.launch import Check, Launcher
from planner.calibration.kernels.problem import Decode, Gemm, Stream
from planner.calibration.suite import cases
from planner.catalog.gpus import gpu
from planner.catalog.runs import read_run
from planner.explain.kernels import without_libraries
from planner.specs.run import LIBRARY, Mode, Status
from tests.fake_driver import MIB, FakeDriver, emulator, machine_code, modules
from tests.fake_gpu import FakeDevice, FakeNvml, smallest
from tests.test_fit import fitted_run, products, timed

ALONE = FakeDevice().able._replace(scaled_mm=False, int_mm=False, grouped_mm=False, library=False)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    """A machine with cuda-core, a driver, and no torch."""
    found = FakeDriver()
    for name, module in (modules(found) | {"torch": None}).items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(launch, "cubin", machine_code)
    return found


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("stream-read", Stream(4096)),
        ("w4a16", Gemm(3, 64, 256)),
        ("mma-bf16", Gemm(20, 64, 256)),
        ("decode-bf16", Decode(2, 70, 8, 2, 64)),
    ],
)
def test_a_kernel_is_right_over_the_driver_alone(name: str, shape: Any, driver: FakeDriver) -> None:
    if not emulator.available():
        pytest.skip("needs a C++ compiler")
    launcher, kernel = Launcher(0, Runtime()), kernel_named(name)
    choice = kernel.choices(shape, launcher.limits)[0]
    prepared = launcher.prepare(kernel, choice, shape, copies=2)
    assert prepared.check(copy=1).passed
    graph = Graph(launcher.torch, lambda copy: prepared.run(launcher.torch.cuda.current_stream(), copy), 2)
    prepared.poison()
    assert len(graph.replay_s(1)) == 1
    assert launch.error_of(prepared.problem, prepared.arrays(1), [0]) <= prepared.problem.tolerance


def test_what_goes_to_the_device_comes_back(driver: FakeDriver) -> None:
    torch = Runtime()
    values = np.arange(12, dtype="i4")
    row = torch.from_numpy(values).to(device=0, dtype=torch.int32)
    assert row.roll(-5).numpy().tolist() == np.roll(values, -5).tolist()
    assert row.repeat(7).numpy().tolist() == np.tile(values, 7).tolist()
    assert row[3:9].reshape((2, 3)).numpy().tolist() == [[3, 4, 5], [6, 7, 8]]
    assert row.reshape((3, 4))[:, 1].cpu().numpy().tolist() == [1, 5, 9]
    assert row.view(torch.uint8).fill_(0xFF).numpy().tolist() == [255] * 48 and row.numpy()[0] == -1


def test_memory_is_given_back_and_its_lack_is_said(driver: FakeDriver) -> None:
    torch = Runtime()
    kept = torch.zeros((MIB,), torch.uint8, 0)
    assert driver.used_bytes() == MIB and torch.cuda.mem_get_info() == (639 * MIB, 640 * MIB)
    del kept
    assert driver.used_bytes() == 0
    with pytest.raises(OutOfMemoryError):
        torch.zeros((641 * MIB,), torch.uint8, 0)


def test_a_calibration_without_torch_runs_from_the_driver_to_the_file(
    driver: FakeDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.runs = lambda *launched: None
    monkeypatch.setattr(launch.Prepared, "check", lambda prepared: Check(0.0, 1.0))
    monkeypatch.setattr(Tuner, "compile", lambda tuner, asked: None)
    monkeypatch.setattr(running, "rule_of", lambda mode: timing.Rule(graph_s=1e-9, total_s=1e-9, fewest_replays=1))
    for name, value in (("MOST_CALLS", 4), ("MOST_COPIES", 4)):
        monkeypatch.setattr(timing, name, value)
    monkeypatch.setattr(suite, "GEOMETRIES", ((512, 256, 4, 2),) * 3)
    monkeypatch.setattr(CudaDevice, "limit_s", lambda device, case: 0.0)
    monkeypatch.setattr(process, "nvml", lambda: FakeNvml())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr(process, "user_dir", lambda: tmp_path / "user")
    monkeypatch.setattr(process, "cases", smallest)
    monkeypatch.setattr(process, "anchor", lambda able, mode: smallest(able, mode)[0]._replace(anchor=True))
    monkeypatch.setenv(process.VISIBLE, "0")
    path = process.measure_card(0, process.Wish(Mode.QUICK, tmp_path, bundled=True), lambda progress: None)
    run = read_run(path)
    assert {point.status for point in run.points} == {Status.OK}, {p.note for p in run.points}
    assert len({point.kernel for point in run.points}) > 25
    assert not [point for point in run.points if point.kernel.startswith(LIBRARY)] and run.environment.torch == ""
    assert run.environment.compute_capability == 9.0 and run.environment.sm_count == 132


def test_no_torch_is_missed_where_the_bundled_kernels_are_to_be_measured(driver: FakeDriver, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert check_installed(lambda: None, bundled=True).version == ""


def test_without_torch_every_bundled_kernel_is_measured_as_with_it() -> None:
    for mode in Mode.FULL, Mode.QUICK:
        with_torch = {case.key for case in cases(FakeDevice().able, mode) if not case.kernel.startswith(LIBRARY)}
        assert {case.key for case in cases(ALONE, mode)} == with_torch
        assert suite.anchor(ALONE, mode).kernel == "mma-bf16"


def test_what_engines_leave_to_libraries_is_not_priced_by_bundled_kernels() -> None:
    device = FakeDevice()
    points = [timed(case, device.load(case, 9).seconds(1, 1)[0]) for case in cases(ALONE)]
    found = {family.family for family in fit(fitted_run(points), gpu("h200-sxm")).families}
    assert found >= {"wo-4", "wo-8", "attention-decode-16", "attention-decode-8", "moe-gemm-16", "nf4"}
    assert not found & {"gemm-16", "gemm-fp8", "gemm-int8", "attention-prefill-16", "elementwise"}
    assert without_libraries(fitted_run(points)).startswith("Bundled kernels alone")
    assert not without_libraries(fitted_run(products()))
