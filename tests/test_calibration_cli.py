import json
import subprocess
import sys
from pathlib import Path

import pytest

from planner.calibration import process
from planner.calibration.cases import Named, stream
from planner.calibration.suite import EAGER
from planner.calibration.validate import ComparedStep
from planner.catalog import runs
from planner.cli.main import run as program
from tests.fake_gpu import BUILD, FakeNvml, NVMLError
from tests.test_fit import fitted_run, products, timed


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(runs.RUNS_DIR, str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = program(list(arguments))
    return code, *capsys.readouterr()


@pytest.mark.parametrize("command", ["calibrate", "validate"])
def test_a_machine_without_what_it_takes_says_so_in_one_line(command: str, capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(nvmlInit=NVMLError("Driver Not Loaded")))
    code, out, err = said(capsys, command)
    assert (code, out, err.count("\n")) == (2, "", 1) and "no NVIDIA driver" in err


def test_that_takes_less_than_three_seconds_of_importing(root: Path) -> None:
    code = "import sys; from planner.cli.main import run; run(['calibrate']); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert "'torch'" not in done.stdout and "'scipy'" not in done.stdout


def test_whoever_stops_a_run_is_told_how_it_goes_on(folder: Path, capsys, monkeypatch) -> None:
    def stopped(*asked: object) -> Path:
        raise KeyboardInterrupt

    nvml = FakeNvml()
    monkeypatch.setattr(process, "nvml", lambda: nvml)
    monkeypatch.setattr(process, "check_installed", lambda **how: BUILD)
    monkeypatch.setattr(process, "in_child", stopped)
    code, _, err = said(capsys, "calibrate")
    assert code == 130 and "--resume goes on" in err


def test_a_format_that_torch_refuses_does_not_cost_the_steps_of_others(capsys, monkeypatch) -> None:
    def on_gpu(driver: object, card: object, model: str, format_id: str) -> list[ComparedStep]:
        if format_id == "fp8":
            raise RuntimeError("CUDA error:\n no kernel image")
        return [ComparedStep(model, format_id, "decode", 1, 512, 1.1, 1.0, 1.0, 1.0)]

    monkeypatch.setattr(process, "nvml", lambda: FakeNvml())
    monkeypatch.setattr(process, "check_installed", lambda **how: BUILD)
    monkeypatch.setattr("planner.cli.validate._on_gpu", on_gpu)
    monkeypatch.setenv(process.VISIBLE, "0")  # which the command sets
    wanted = [part for name in ("fp8", "bf16") for part in ("--weight-format", name)]
    code, out, err = said(capsys, "validate", *wanted, "--json")
    assert code == 0 and json.loads(out)[0]["error_percent"] == pytest.approx(10)
    assert "left out: llama-3.1-8b, fp8: CUDA error: no kernel image" in err and "bf16: 1 steps, 10.0 % off" in err
    assert said(capsys, "validate", *wanted[:2])[0] == 2


def test_no_runs_is_no_error(folder: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(runs.paths, "runs_dir", lambda: folder / "none")
    assert said(capsys, "runs")[:2] == (0, "no runs yet; planner calibrate makes one on a machine with a GPU\n")


def test_runs_are_listed_and_damaged_ones_named(folder: Path, capsys) -> None:
    path = runs.write_run(fitted_run(products()), folder)
    path.with_name("bad.json").write_text("{", "utf-8")
    code, out, err = said(capsys, "runs", "--json")
    assert code == 0 and json.loads(out)[0]["points"] == len(products())
    assert err.startswith("skipped: bad.json: not JSON")


def test_a_run_is_shown_with_its_fit(folder: Path, capsys) -> None:
    runs.write_run(fitted_run(products()), folder)
    code, out, _ = said(capsys, "runs", "20261120")
    assert code == 0 and "gemm-16" in out and "held out" in out and "NVIDIA H200" in out


def test_a_run_says_what_a_launch_takes(folder: Path, capsys) -> None:
    starts = [timed(stream(Named("launch", name, "none"), 0), s) for name, s in (("empty", 1.25e-6), (EAGER, 5e-6))]
    runs.write_run(fitted_run([*products(), *starts]), folder)
    assert "a launch: 1.25 µs in a graph, 5.00 µs from the host" in said(capsys, "runs", "20261120")[1]


def test_a_damaged_file_is_refused_by_name(folder: Path, capsys) -> None:
    (folder / "x.json").write_text("{}", "utf-8")
    code, _, err = said(capsys, "runs", str(folder / "x.json"))
    assert code == 2 and "x.json: not a calibration run" in err


def test_two_runs_are_compared_family_by_family(folder: Path, capsys) -> None:
    runs.write_run(fitted_run(products()), folder)
    later = fitted_run(products(1.2)).model_copy(update={"id": "later"})
    runs.write_run(later, folder)
    code, out, _ = said(capsys, "runs", "20261120", "later", "--json")
    (row,) = json.loads(out)
    assert code == 0 and row["median_change_percent"] == pytest.approx(20, abs=0.01) and row["drifted"]
