"""The check of a machine with a GPU as far as it needs none: steps that fail or hang, the summary, what stays."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from planner.catalog.runs import read_run, write_run
from planner.specs.run import Run
from tests.gpu import check
from tests.gpu.check import WORKERS, Done, Step, fractions, gathered, main, rescue, run_steps, runs_in, steps, summary
from tests.test_calibration_run import whole
from tests.test_fit import H200, TRUE, fitted_run, products

HEADER = "model,weight_format,phase,error_percent,memory_error_percent"


def step(name: str, code: str, least_s: float = 0, most_s: float = 60) -> Step:
    return Step(name, (sys.executable, "-c", code), least_s, most_s, name)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """What the steps leave behind: a run, two tables, results of primitives."""
    run: Run = fitted_run(products())
    write_run(run, tmp_path / "runs")
    for model in ("a", "b"):
        (tmp_path / f"{model}.csv").write_text(
            f"{HEADER}\n{model},bf16,decode,-4.0,0.5\n{model},bf16,decode,2.0,-1.0\n"
        )
    (tmp_path / "golden").mkdir()
    (tmp_path / "golden" / "mma.json").write_text('{"cc": 90}')
    return tmp_path


def test_a_step_that_fails_or_hangs_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "STOP_S", 4.0)
    wanted = [step("fails", "print('why'); raise SystemExit(3)"), step("works", "print('fine')"), step("long", "", 1e9)]
    failed, worked, long = run_steps(wanted, {}, tmp_path / "log.txt", 60)
    assert (failed.code, worked.code, long.code) == (3, 0, None)
    assert failed.said[-1] == "why" and "fine" in (tmp_path / "log.txt").read_text()
    deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
    asked = "import time\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    print('as far as it came')"
    found = run_steps([step("hangs", deaf, most_s=2), step("stops", asked, most_s=2)], {}, tmp_path / "log.txt", 90)
    assert [one.word for one in found] == ["out of time"] * 2 and found[0].took_s < 40
    assert found[1].said[-1] == "as far as it came"


def test_fractions_of_the_limit_are_those_of_the_points() -> None:
    (weights, products_of) = fractions(fitted_run(products()), H200)
    assert weights.target.name == "16-bit weights, cuBLASLt" and products_of.target.of == "flops"
    assert weights.best == pytest.approx(TRUE.bytes_per_s / 4.8e12, rel=0.08)
    assert products_of.best == pytest.approx(TRUE.flops_per_s / 989e12, rel=0.08)


def test_the_summary_says_what_failed_what_was_reached_and_how_well_it_was_predicted(kept: Path) -> None:
    text = "\n".join(summary([Done(step("suite", ""), 1, 12.0, ("it broke",))], kept))
    assert text.endswith("suite  exit 1  12") and "it broke" in text
    assert "16-bit weights, cuBLASLt" in text and "gemm-16 (torch.mm)" in text
    assert "a bf16 decode  2      3.0" in text


def test_what_an_interrupted_run_had_measured_is_kept(kept: Path, tmp_path: Path) -> None:
    whole(tmp_path / "full")
    rescue(tmp_path)
    rescue(tmp_path)  # what is there already is left alone
    (path,) = (tmp_path / "full").glob("*/*.json")
    assert len(read_run(path).points) == 14 and path in runs_in(tmp_path)


def test_few_files_with_plain_names_stay(kept: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    gathered(kept, out)
    assert len(list(out.rglob("*"))) <= 6 and all(path.is_file() for path in out.rglob("*"))
    assert json.loads((out / "golden.json").read_text()) == {"mma": {"cc": 90}}
    assert (out / "validate.csv").read_text().count("model,") == 1


def test_every_step_is_a_command_of_this_checkout(tmp_path: Path) -> None:
    found = steps(tmp_path)
    assert [one.name for one in found[:3]] == ["compile", "kernels", "full"] and len(found) == 9
    without = steps(tmp_path, bundled=True)
    assert [one.name for one in without] == ["compile", "full", "alone"]
    assert all(one.command[:2] == (sys.executable, "-m") for one in (*found, *without))
    assert all("--bundled" in one.command for one in without[1:])


def test_steps_that_are_tests_need_none_of_the_extra_for_tests(tmp_path: Path, root: Path) -> None:
    """A machine with a GPU brings pytest, not what the other tests import; its torch may warn at import."""
    for name in ("hypothesis", "streamlit", "plotly"):
        (tmp_path / f"{name}.py").write_text("raise ModuleNotFoundError(__name__)")
    (tmp_path / "torch.py").write_text("import warnings; warnings.warn('old', FutureWarning)")
    places = f"{tmp_path}{os.pathsep}{root}"
    environment = os.environ | {"PYTHONPATH": places, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    for one in (step for step in steps(tmp_path) if "pytest" in step.command):
        command = [part for part in one.command if part not in ("-n", str(WORKERS))]
        done = subprocess.run([*command, "--collect-only"], cwd=root, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_without_a_gpu_it_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from planner.calibration.process import machine
    from planner.errors import PlannerError

    try:
        machine(bundled=True)
    except PlannerError:
        assert main([str(tmp_path / "out")]) == 2 and not (tmp_path / "out").exists()
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
